"""Slots: a worker's loop. Each slot asks for a trial, runs its command, reports, and asks again, until there are no more."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from qstream.cli.hpo.child import Running
from qstream.cli.hpo.outcome import Verdict, verdict_of
from qstream.cli.output import printable
from qstream.errors import ConfigError, QstreamError
from schemas.control import Scalar
from schemas.hpo import FailReason

POLL_S: Final = 0.02
BEATS_A_LEASE: Final = 3
SECOND_TRY_S: Final = 10.0  # without an answer the last report is sent again, each time after twice as long
LAST_TRY_S: Final = 60.0


class GaveUp(QstreamError):
    """So many trials in a row failed that the command is at fault, not the trials."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a desk says to an ask: a trial to run, or to wait, or that there are no more."""

    worker: str
    status: Literal["run", "wait", "done"]
    trial: int = 0
    attempt: int = 0
    params: Mapping[str, Scalar] = field(default_factory=dict)
    lease_s: float | None = None
    retry_after_s: float = 1.0
    source: str = ""
    reason: str = ""

    @property
    def key(self) -> tuple[int, int]:
        """Trial and attempt."""
        return self.trial, self.attempt


@dataclass(frozen=True, slots=True)
class Report:
    """What a slot says: without `trial` a bare ask, without `verdict` a heartbeat, else a result."""

    worker: str
    ask: bool = True
    trial: int | None = None
    attempt: int = 0
    verdict: Verdict | None = None
    duration_s: float | None = None


class Desk(Protocol):
    """Who hands out trials: a study in this process, or an agent behind a broker."""

    def send(self, report: Report) -> None:
        """Take a report. One that asks is answered by `receive`, soon or late or, if it is lost, never."""

    def receive(self, timeout_s: float) -> Answer | None:
        """The next answer, to whichever slot; None if none came in time."""

    def close(self) -> None:
        """See that what was sent has arrived."""


Start = Callable[[Answer, int, float], Running]  # the command of a trial in a slot, now


@dataclass(slots=True, eq=False)
class _Slot:
    """One slot: `running` a command, or waiting for the answer to `asked`, or until it asks again."""

    name: str
    number: int
    asked: Report | None = None
    ask_at_s: float = 0.0
    patience_s: float = SECOND_TRY_S
    answer: Answer | None = None
    running: Running | None = None
    beat_at_s: float | None = None
    last: tuple[int, int] | None = None
    done: bool = False


class Slots:
    """The slots of a worker. `run` returns when there are no more trials, when `count` were run, or when `stop` is set.

    Parameters
    ----------
    names
        Of the slots, as the desk knows them; a slot that was here before a restart gets the trial that it held.
    start
        Starts the command of an answer; ConfigError or OSError if it cannot.
    give_up
        End after so many failures in a row for the reason USER; 0: never.
    count
        End after so many trials; None: never.
    clock, pause
        Seconds, monotonic; and to let some pass.
    say, on_end
        Take a line for a person, and each trial that has ended, with its verdict and the seconds that it took.
    """

    def __init__(
        self,
        desk: Desk,
        names: Sequence[str],
        start: Start,
        objective: str,
        *,
        stop: threading.Event,
        clock: Callable[[], float],
        pause: Callable[[float], None],
        say: Callable[[str], None],
        on_end: Callable[[Answer, Verdict, float], None],
        give_up: int = 10,
        count: int | None = None,
    ) -> None:
        self._desk, self._start, self._objective = desk, start, objective
        self._stop, self._clock, self._pause, self._say, self._on_end = stop, clock, pause, say, on_end
        self._slots = {name: _Slot(name, number) for number, name in enumerate(names)}
        self._give_up, self._count = give_up, count
        self._in_row = self._started = 0
        self._closing = self._cut = False
        self.ended: Counter[str] = Counter()
        self.why = self.says = self._waits = ""

    def run(self) -> None:
        """Work until the end; `GaveUp` if the command is at fault. Commands that still run are stopped and reported PREEMPTED."""
        try:
            while not self._stop.is_set() and not all(slot.done for slot in self._slots.values()):
                self._turn()
        finally:
            self._put_down()
            self._desk.close()

    @property
    def finished(self) -> bool:
        """Whether no slot was stopped before its end."""
        return not self._cut

    def _turn(self) -> None:
        now_s = self._clock()
        for slot in self._slots.values():
            if slot.running is not None:
                self._watch(slot, slot.running, now_s)
            elif not slot.done and now_s >= slot.ask_at_s:
                self._ask(slot, now_s)
        while (answer := self._desk.receive(POLL_S)) is not None:
            self._take(answer, self._clock())

    def _ask(self, slot: _Slot, now_s: float) -> None:
        """Ask, or send again what was not answered: a result counts once, however often it comes."""
        if slot.asked is None:
            if self._spent():
                slot.done = True
                return
            slot.asked, slot.patience_s = Report(slot.name), SECOND_TRY_S
        else:
            slot.patience_s = min(2 * slot.patience_s, LAST_TRY_S)
            again = f"asking again, and then in {slot.patience_s:.0f} s"
            self._say(f"{slot.name}: no answer yet; does an agent run (qstream run hpo)? {again}")
        slot.ask_at_s = now_s + slot.patience_s
        self._desk.send(slot.asked)

    def _spent(self) -> bool:
        return self._count is not None and self._started >= self._count

    def _take(self, answer: Answer, now_s: float) -> None:
        slot = self._slots.get(answer.worker)
        # An ask that was sent twice is answered twice: what runs, or has ended, is not run again.
        if slot is None or slot.done or slot.running is not None or (answer.status == "run" and answer.key == slot.last):
            return
        if answer.status == "run" and self._spent():  # two slots asked for the last one
            self._desk.send(Report(slot.name, False, *answer.key, Verdict("failed", reason=FailReason.PREEMPTED)))
            slot.done = True
            return
        slot.asked = None
        if answer.status == "done":
            slot.done, self.why = True, answer.reason
        elif answer.status == "wait":
            slot.ask_at_s = now_s + answer.retry_after_s
            if answer.reason != self._waits:
                self._say(f"waiting: {answer.reason}")
            self._waits = answer.reason
        else:
            self._begin(slot, answer, now_s)

    def _begin(self, slot: _Slot, answer: Answer, now_s: float) -> None:
        slot.answer, self._waits = answer, ""
        slot.beat_at_s = None if answer.lease_s is None else now_s + answer.lease_s / BEATS_A_LEASE
        self._started += 1
        try:
            slot.running = self._start(answer, slot.number, now_s)
        except (ConfigError, OSError) as exc:
            self._end(slot, answer, Verdict("failed", reason=FailReason.USER, says=str(exc)), 0.0)

    def _watch(self, slot: _Slot, running: Running, now_s: float) -> None:
        """Report a command that has ended, or that it still runs."""
        answer = slot.answer
        assert answer is not None
        ended = running.poll(now_s)
        if ended is not None:
            self._end(slot, answer, verdict_of(ended, self._objective), now_s - running.started_s)
        elif slot.beat_at_s is not None and answer.lease_s is not None and now_s >= slot.beat_at_s:
            slot.beat_at_s = now_s + answer.lease_s / BEATS_A_LEASE
            self._desk.send(Report(slot.name, False, *answer.key))

    def _end(self, slot: _Slot, answer: Answer, verdict: Verdict, took_s: float) -> None:
        slot.running, slot.answer, slot.last = None, None, answer.key
        self.ended[verdict.reason or verdict.state] += 1
        self.says = verdict.says or verdict.state
        self._on_end(answer, verdict, took_s)
        asks = not (self._closing or self._spent())
        report = Report(slot.name, asks, *answer.key, verdict, took_s)
        slot.done = not asks
        slot.asked, slot.patience_s, slot.ask_at_s = report, SECOND_TRY_S, self._clock() + SECOND_TRY_S
        self._desk.send(report)
        self._in_row = self._in_row + 1 if verdict.reason == FailReason.USER else 0
        if self._give_up and self._in_row >= self._give_up and not self._closing:
            what = f"{self._in_row} trials in a row failed, the last one, {answer.trial}"
            raise GaveUp(printable(f"{what}: {verdict.says}"))

    def _put_down(self) -> None:
        """Stop what runs, all at once, and report it."""
        self._closing, self._cut = True, not all(slot.done for slot in self._slots.values())
        for slot in self._slots.values():
            if slot.running is not None:
                slot.running.stop("PREEMPTED", self._clock())
        while busy := [slot for slot in self._slots.values() if slot.running is not None]:
            for slot in busy:
                assert slot.running is not None
                self._watch(slot, slot.running, self._clock())
            self._pause(POLL_S)
