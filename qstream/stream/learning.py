"""Learning: what the learners of a worker's keys did and how they stand, in the metrics, every two seconds."""

from __future__ import annotations

import logging
import time
from itertools import islice
from typing import Any, Final

from qstream.contract import Processor
from qstream.learn.state import LearningState, learner_of
from qstream.stream.cache import Entry
from schemas.frame import Frame

PERIOD_S: Final = 2.0
MOST_OPEN: Final = 256  # keys of which two states are held until they are counted
MOST_SHOWN: Final = 16  # keys, those that learnt last: to look at one takes some 0.1 ms
log = logging.getLogger(__name__)


class LearnReport:
    """The metrics of the learners of one agent. Only from the thread that polls; a fault costs metrics and nothing else."""

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self._open: dict[str, tuple[Frame | None, LearningState]] = {}  # the last uncounted and the newest state, newest last
        self._next = 0.0

    def note(self, processor: Processor[Any], key: str, held: Entry[Any] | None, after: Frame | None) -> None:
        """Take what is held of a key and its new state. What a command did to a learner is not counted as learning."""
        if not processor.learners or not isinstance(after, LearningState):
            self._open.pop(key, None)
            return
        before = after if held is None else held.state
        first, newest = self._open.pop(key, (before, before))
        if newest is not before:  # the state was read again: another worker has written it, or a write was refused
            first = before
        if getattr(before, "commands", after.commands) != after.commands:
            self._count(processor, first, before)
            first = after
        self._open[key] = (first, after)
        if len(self._open) > MOST_OPEN:
            self._count_all(processor)

    def report(self, processor: Processor[Any]) -> None:
        """Count what was learnt since the last report and show how those keys stand, if it is time."""
        if not processor.learners or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PERIOD_S
        from qstream.learn import metrics  # noqa: PLC0415 - all learners, which an agent without any need not load
        from qstream.learn.registry import Models  # noqa: PLC0415 - as above

        self._count_all(processor)
        models = processor.models if isinstance(processor.models, Models) else None
        if models is not None:
            metrics.show_models(self.agent, models)
        try:
            for name in processor.learners:
                metrics.UPDATES.labels(self.agent, name)
                if facts := self._facts(name):
                    metrics.show(self.agent, name, facts, models)
        except Exception:
            log.exception("%s: the metrics of its learners failed", self.agent)
        self._open.clear()

    def _facts(self, name: str) -> list[dict[str, Any]]:
        from qstream.learn.describe import describe  # noqa: PLC0415 - as above

        found = [(state, learner_of(state, name)) for _, state in self._open.values()]
        return [describe(one) | {"frozen": name in state.frozen} for state, one in found if one is not None]

    def _count_all(self, processor: Processor[Any]) -> None:
        """Count all, and hold on to the keys that are shown."""
        for first, newest in self._open.values():
            self._count(processor, first, newest)
        last = islice(self._open.items(), max(0, len(self._open) - MOST_SHOWN), None)
        self._open = {key: (newest, newest) for key, (_, newest) in last}

    def _count(self, processor: Processor[Any], before: Frame | None, after: Frame | None) -> None:
        if after is None or after is before:
            return
        from qstream.learn import metrics  # noqa: PLC0415 - as above
        from qstream.learn.tally import Tally, since, tally  # noqa: PLC0415 - as above

        try:
            for name in processor.learners:
                learner = learner_of(after, name)
                old = None if before is None else learner_of(before, name)
                if learner is not None and learner is not old:
                    metrics.count(self.agent, name, since(Tally(0) if old is None else tally(old), tally(learner)))
        except Exception:
            log.exception("%s: the metrics of its learners failed", self.agent)
