"""The loop: poll, decode, process by key, produce, save the states, commit the offsets; `turn` has their order."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TypeVar

from confluent_kafka import Message

from qstream.contract import Event, may_tick
from qstream.errors import DeliveryFailed, Fatal
from qstream.metrics import PROCESS_SECONDS, TICK_SECONDS
from qstream.stream.answer import answer_all
from qstream.stream.decode import Rejected, by_key, decode
from qstream.stream.deliver import deliver
from qstream.stream.observe import count_batch, count_delivered, observe_all
from qstream.stream.parts import Parts
from qstream.stream.replay import too_long
from qstream.stream.span import span, without_later_half
from qstream.stream.status import Status
from qstream.stream.wait import FIRST_RETRY_S
from schemas.frame import Frame

log = logging.getLogger(__name__)
S = TypeVar("S", bound=Frame)
IDLE_POLL_S = 0.1
COMMIT_PASSED_S = 2.0  # between two transactions that commit nothing but what was passed over
NEEDS_PERIOD_S = 1.0  # between two looks for topics that are missing


class BatchLoop(Parts[S]):
    """Feeds one processor from its input topics until `stop`. All but `stop` and `status` runs in one thread.

    A failure before the commit means that records are delivered again, never that they are lost.
    """

    def stop(self) -> None:
        """Finish the batch in hand, then leave the group. Any thread."""
        self._stop.set()

    def status(self) -> Status:
        """A snapshot for the health pages. Any thread."""
        return Status(
            self.running,
            self.warm,
            self.intake.joined,
            self.settling.degraded,
            self.controlled.paused,
            len(self.intake.assigned),
            self.ledger.uncommitted,
            len(self.waiting),
            time.monotonic() - self._last_turn,
            self.controlled.error,
            self.needs.missing,
            str(self.settling.fault or ""),
            "; ".join(filter(None, (self.intake.lacks, self.retry.lacks))),
        )

    def run(self) -> None:
        """Run until `stop`, or until `Fatal`: then nothing more is committed."""
        self._start()
        while not self._stop.is_set():
            self._last_turn = time.monotonic()
            self._take_control()
            messages = self.settling.follow_assignment(self._poll(), self.compacted, self._wait_for_stop)
            if not messages:
                self.ledger.pass_over(self.intake.past)
            self.ledger.refused |= self.intake.refused() & self.ledger.positions.keys()
            if messages or (not self.controlled.paused and (self.waiting.due_in() == 0 or self._must_commit_passed())):
                self.turn(messages)
            elif self.settling.degraded or self.ledger.uncommitted or self.ledger.refused or self.ledger.passed:
                self.settling.settle()
            self.tick()
            self.lag.report(self.intake, self.ledger.positions)
            self.learning.report(self.controlled.processor)
        drained_by = time.monotonic() + self.settings.drain_s / 2
        while self.waiting.is_behind and time.monotonic() < drained_by:
            self.turn([])
        self.settling.settle()
        self.intake.close()
        self.controlled.close()
        self.outbox.close(self.settings.drain_s)
        self.running = False

    def turn(self, messages: Sequence[Message]) -> None:
        """One batch, from bytes to commit, with the waiting records that are due. What it has no time for waits as well."""
        started = time.monotonic()
        before = self.waiting.snapshot()
        starts, ends = span(messages)
        records, rejected = decode(messages, self.topics, self.clocks.time_of)
        tried, lined_up = self.waiting.join(by_key(records))
        with PROCESS_SECONDS.labels(self.agent).time():
            answers = answer_all(self.controlled.processor, self.ledger, tried, self.waiting.has_waited, self.pace)
        self.waiting.keep_all(answers, lined_up)
        rejected += [dead for answer in answers.values() for dead in answer.outcome.rejected]
        events = [event for answer in answers.values() for event in answer.outcome.events]
        # Only a transaction has to say what it answers, and what not.
        ends_now = self.ledger.positions | ends if self.outbox.transactional else {}
        answered = self.replays.answered(ends_now, self.waiting.missing())
        fewer, cuts = without_later_half(messages, too_long(answered))
        if cuts:
            self.waiting.restore(before)
            self.intake.seek_all(cuts)
            self.turn(fewer)
            return
        try:
            dead = deliver(self.outbox, self.intake, self.replays, events, rejected, answered)
        except DeliveryFailed as exc:
            self.waiting.restore(before)
            self.retry.again(starts, exc)
            return
        if self.outbox.transactional:
            self.ledger.passed.clear()
        for key, answer in answers.items():
            if answer.outcome.changed:
                self.learning.note(self.controlled.processor, key, self.ledger.cached(key), answer.outcome.state)
                self.ledger.stage(key, answer.outcome.state, answer.answered)
        self.ledger.advance(starts, ends)
        self.settling.settle()
        for key, answer in answers.items():
            if answer.waits:
                self.ledger.refresh(key)
        self.retry.succeeded()
        count_batch(self.agent, messages, time.monotonic() - started)
        self._count(events, dead)

    def tick(self) -> None:
        """A part of the keys ticks in the order of a batch: newest states, events, writes; one wait for all of them."""
        if self.controlled.tick_s is None:
            self.ticks.sweep(self.controlled.ttl_s)
        if self.controlled.paused or not (keys := self.ticks.due(self.controlled.tick_s)):
            return
        started = time.monotonic()
        results = self.ticks.run(self.controlled.processor, keys, self.waiting)
        events = [event for result in results.values() for event in result.events]
        try:
            if events:
                deliver(self.outbox, self.intake, self.replays, events, [], {})
        except DeliveryFailed as exc:
            log.warning("%d events of a tick are not delivered, the next tick follows: %s", len(events), exc)
            self.retry.failed("tick", exc)
            return
        self.retry.succeeded("tick")
        for key, result in results.items():
            if result.state is not None or result.forget:
                self.learning.note(self.controlled.processor, key, self.ledger.cached(key), result.state)
                self.ledger.stage(key, result.state, ())
        self.settling.settle()
        self.ticks.finish(list(results))
        TICK_SECONDS.labels(self.agent).observe(time.monotonic() - started)
        self._count(events, [])

    def _start(self) -> None:
        self.running = True
        self.outbox.start(self.intake.cluster_id)
        # It joins once it can work: partitions that come to it are taken from others.
        while not (self.needs.met_by(self.intake) and self.settling.store_answers()):
            self._last_turn = time.monotonic()
            if self._stop.wait(NEEDS_PERIOD_S):
                return
        self.controlled.start(self._stop)
        log.info("%s: loading kernels; the first start on a machine compiles them", self.agent)
        try:
            self.controlled.processor.warm()
        except Exception as exc:
            raise Fatal(f"warm of {self.agent} must not fail, got {type(exc).__name__}: {exc}") from exc
        self.warm = True
        log.info("%s: joins its group", self.agent)
        self.intake.join()

    def _take_control(self) -> None:
        """Options, pause and tables change here, between two turns."""
        self.controlled.apply()
        processor = self.controlled.processor
        self.ledger.keys.wanted = may_tick(processor) or bool(processor.learners)  # those that commands list
        self.ledger.ttl_s = self.controlled.ttl_s
        self.intake.full = self.waiting.full(self.ledger.positions, self.outbox.transactional)
        # While a long batch is in hand, the poll only serves the membership.
        self.intake.frozen = self.controlled.paused or self.settling.stalled or self.waiting.is_behind

    def _poll(self) -> list[Message]:
        if self.controlled.paused:
            return self.intake.poll(IDLE_POLL_S)
        return self.intake.poll(0.0 if self.ticks.is_behind else min(IDLE_POLL_S, self.waiting.due_in()))

    def _must_commit_passed(self) -> bool:
        """Whether a transaction without records is due: only one can commit what was passed over since the last."""
        if not (self.outbox.transactional and self.ledger.passed) or time.monotonic() < self._commit_passed_at:
            return False
        self._commit_passed_at = time.monotonic() + COMMIT_PASSED_S
        return True

    def _wait_for_stop(self) -> bool:
        self._last_turn = time.monotonic()
        return self._stop.wait(FIRST_RETRY_S)

    def _count(self, events: Sequence[Event], dead: Sequence[Rejected]) -> None:
        count_delivered(self.agent, events, dead)
        observe_all(self.agent, self.observe, events)
