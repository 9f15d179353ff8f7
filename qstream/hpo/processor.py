"""HpoProcessor: reports of trials in, one answer to each ask out, with the history and the best set of each study."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Self

from qstream.ahead import Ahead
from qstream.contract import Batch, Event, Processor, Record, Result
from qstream.errors import Poison, ProblemError, Transient
from qstream.hpo import trials
from qstream.hpo.answers import best_frame, suggestion_frame
from qstream.hpo.axis import Array
from qstream.hpo.memory import HpoState, Memory
from qstream.hpo.options import HpoOptions
from qstream.hpo.suggesting import Fits, look_ahead, suggest
from qstream.hpo.trials import Answer
from qstream.hpo.warm import warm
from qstream.module.device import prepare_device
from qstream.module.draft import Draft
from qstream.module.stamp import event_ns
from qstream.quantum.runtime import QuantumRuntime
from schemas.control import Scalar
from schemas.frame import Frame
from schemas.hpo import StudySpec, TrialReport
from schemas.topics import HPO_BEST, HPO_HISTORY, HPO_STUDY, HPO_SUGGESTION, HPO_TRIAL, Topic


class HpoProcessor(Processor[HpoState]):
    """Hands trials to workers, takes their results, and says which configurations are best.

    Each record is judged by its own timestamp and by the records before it, so that any split into batches gives the same.
    A result of a study that is not there waits for it (`Transient`); an ask is told to wait at once. A result that cannot be of
    the study is a dead letter and changes nothing; its ask is answered. Leases are looked at when a worker asks: there are no
    ticks.

    With `ahead`, kernel parameters are fitted next to the records, and an ask that needs some which are late waits (`NotYet`);
    without, they are fitted with the ask. Both give the same suggestions.
    """

    name = "hpo"
    inputs = (HPO_STUDY, HPO_TRIAL)
    outputs = (HPO_SUGGESTION, HPO_HISTORY, HPO_BEST)
    state = HpoState

    def __init__(
        self,
        options: HpoOptions | None = None,
        runtime: Callable[[], QuantumRuntime] | None = None,
        ahead: Ahead[Array] | None = None,
    ) -> None:
        """`runtime` makes or gives the one where devices are found; it is asked when a device is named."""
        self.options = options or HpoOptions()
        self.runtime = runtime
        self.fits = None if ahead is None else Fits(ahead)

    def configure(self, options: Mapping[str, Scalar]) -> Self:
        changed = type(self)(self.options.changed(options), self.runtime)
        changed.fits = self.fits
        if changed.options.device != self.options.device:
            prepare_device(changed.options.device, changed.runtime)
        return changed

    def warm(self) -> None:
        warm(self.options)
        prepare_device(self.options.device, self.runtime)

    def process(self, batch: Batch, state: HpoState | None, now_ns: int) -> Result[HpoState]:
        draft = None if state is None else Draft(state)
        events: list[Event] = []
        dead: list[Poison] = []
        for record in batch.records:
            try:
                draft, more = self._take(record, draft, dead)
            except ProblemError as exc:
                dead.append(Poison(record, str(exc)))
            else:
                events += more
        if draft is not None and self.fits is not None:
            look_ahead(draft, self.options, self.fits)
        return Result(events, dead, None if draft is None else draft.state())

    def _take(self, record: Record, draft: Memory | None, dead: list[Poison]) -> tuple[Memory | None, list[Event]]:
        """The study after a record, and its events."""
        frame = record.frame
        if isinstance(frame, StudySpec):
            if draft is None:
                return trials.create(frame), []
            return draft, self._best(record, draft, 0) if trials.change(draft, frame) else []
        assert isinstance(frame, TrialReport)  # the loop decodes by topic
        if draft is not None:
            return draft, self._report(record, frame, draft, dead)
        if frame.state not in (None, "running"):
            raise Transient(f"study {record.key!r} is not known yet: publish it to {HPO_STUDY.name}")
        return None, [_answered(record, trials.unknown(frame.worker), None, 0)] if frame.ask else []

    def _report(self, record: Record, report: TrialReport, draft: Memory, dead: list[Poison]) -> list[Event]:
        """Outcomes first, then the best set if it is another one, and the answer. What cannot be is dead, its ask is not."""
        started = time.perf_counter()
        with draft.atomic():
            outcome = trials.report(
                draft, report, event_ns(record), partial(suggest, options=self.options, fits=self.fits, runtime=self.runtime)
            )
            seconds = time.perf_counter() - started
            events = [_event(record, HPO_HISTORY, n, found) for n, found in enumerate(outcome.records)]
            if outcome.best_changed:
                events += self._best(record, draft, len(events))
            if outcome.answer is not None:
                events.append(_answered(record, outcome.answer, draft.now, len(events), seconds))
        if outcome.fault:
            dead.append(Poison(record, outcome.fault))
        return events

    def _best(self, record: Record, draft: Memory, n: int) -> list[Event]:
        return [_event(record, HPO_BEST, n, best_frame(draft, plan_id=record.event_id(n), ts_ns=event_ns(record)))]


def _event(record: Record, topic: Topic, n: int, frame: Frame, seconds: float | None = None) -> Event:
    return Event(topic, record.key, record.event_id(n), frame, record, seconds)


def _answered(record: Record, answer: Answer, now: HpoState | None, n: int, seconds: float | None = None) -> Event:
    """The event of an answer; only a new trial was computed, and counts as the work of a solver."""
    frame = suggestion_frame(answer, now, study=record.key, plan_id=record.event_id(n), ts_ns=event_ns(record))
    return _event(record, HPO_SUGGESTION, n, frame, None if answer.suggestion is None else seconds)
