"""Learning: what the learners of a worker's keys do, in the metrics; counted with each batch, shown every two seconds."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import Any, Final

from qstream.contract import Processor
from qstream.learn.state import LearningState, learner_of
from qstream.stream.cache import Entry
from schemas.frame import Frame

PERIOD_S: Final = 2.0
MOST_SHOWN: Final = 16  # keys, those that learnt last: to look at a learner takes some 0.1 ms
log = logging.getLogger(__name__)


class LearnReport:
    """The metrics of the learners of one agent. Only from the thread that polls; a fault costs metrics and nothing else."""

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self._newest: OrderedDict[str, LearningState] = OrderedDict()
        self._next = 0.0

    def note(self, processor: Processor[Any], key: str, held: Entry[Any] | None, after: Frame | None) -> None:
        """Count what the learners of a key did from what is held of it to its new state; what a command did is not counted."""
        if not processor.learners or not isinstance(after, LearningState):
            self._newest.pop(key, None)
            return
        if held is not None and getattr(held.state, "commands", after.commands) == after.commands:
            try:
                self._count(processor, held.state, after)
            except Exception:
                log.exception("%s: the metrics of its learners failed", self.agent)
        self._newest[key] = after
        self._newest.move_to_end(key)
        if len(self._newest) > MOST_SHOWN:
            self._newest.popitem(last=False)

    def report(self, processor: Processor[Any]) -> None:
        """Show how the learners stand in the keys that learnt since the last report, if it is time."""
        if not processor.learners or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PERIOD_S
        from qstream.learn import metrics  # noqa: PLC0415 - all learners, which an agent without any need not load
        from qstream.learn.registry import Models  # noqa: PLC0415

        models = processor.models if isinstance(processor.models, Models) else None
        if models is not None:
            metrics.show_models(self.agent, models)
        try:
            for name in processor.learners:
                if facts := self._facts(name):
                    metrics.show(self.agent, name, facts, models)
        except Exception:
            log.exception("%s: the metrics of its learners failed", self.agent)
        self._newest.clear()

    def _facts(self, name: str) -> list[dict[str, Any]]:
        from qstream.learn.describe import describe  # noqa: PLC0415 - as above

        found = [(state, learner_of(state, name)) for state in self._newest.values()]
        return [describe(one) | {"frozen": name in state.frozen} for state, one in found if one is not None]

    def _count(self, processor: Processor[Any], before: Frame | None, after: LearningState) -> None:
        from qstream.learn import metrics  # noqa: PLC0415 - as above
        from qstream.learn.tally import Tally, since, tally  # noqa: PLC0415

        for name in processor.learners:
            learner = learner_of(after, name)
            old = None if before is None else learner_of(before, name)
            if learner is not None and learner is not old:
                metrics.count(self.agent, name, since(Tally(0) if old is None else tally(old), tally(learner)))
