"""The loop: poll, decode, process by key, produce, save the states, commit the offsets; the order of things on one screen."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from confluent_kafka import Message

from qstream.config import Settings, is_embedded
from qstream.contract import Event, Processor, may_tick
from qstream.errors import ConfigError, DeliveryFailed
from qstream.metrics import PROCESS_SECONDS, RETRIES, TICK_SECONDS
from qstream.state.store import StateStore
from qstream.stream.answer import Answer, Pace, answer_all
from qstream.stream.commit import Ledger
from qstream.stream.consume import Intake
from qstream.stream.control import Controlled
from qstream.stream.decode import Rejected, by_key, decode
from qstream.stream.deliver import deliver
from qstream.stream.observe import LagReport, count_batch, count_delivered, observe_all
from qstream.stream.produce import Outbox
from qstream.stream.replay import Replays, too_long
from qstream.stream.settle import Settling
from qstream.stream.span import Offsets, span, without_later_half
from qstream.stream.status import Status
from qstream.stream.tables import Tables
from qstream.stream.ticks import Ticks
from qstream.stream.wait import FIRST_RETRY_S, Groups, Waiting
from schemas.frame import Frame
from schemas.topics import Topic, dead_letter_name

log = logging.getLogger(__name__)
S = TypeVar("S", bound=Frame)
IDLE_POLL_S = 0.1
FIRST_ANSWER_S = 5.0


class BatchLoop(Generic[S]):
    """Feeds one processor from its input topics until `stop`. All but `stop` and `status` runs in one thread.

    A failure before the commit means that records are delivered again, never that they are lost.
    """

    def __init__(
        self,
        processor: Processor[S],
        settings: Settings,
        store: StateStore[S] | None,
        observe: Callable[[Event], None] = lambda event: None,
        control: Topic | None = None,
    ) -> None:
        self.controlled = Controlled(processor, Tables(settings, (*processor.tables, *([control] if control else []))), control)
        self.settings = settings
        self.observe = observe
        self.agent = processor.name
        self.topics = {topic.name: topic for topic in processor.inputs}
        self.compacted = {topic.name for topic in processor.inputs if topic.compacted}
        self.intake = Intake(settings, self.agent, list(self.topics))
        self.outbox = Outbox(settings, self.agent, dead_letter_name(self.agent))
        self.ledger: Ledger[S] = Ledger(store, self.agent, max_keys=settings.max_cached_keys, max_bytes=settings.max_cached_bytes)
        self.waiting = Waiting(settings, self.agent)
        self.replays = Replays(self.ledger, self.intake)
        self.ticks = Ticks(self.ledger, self.intake, self.topics)
        self.pace = Pace(settings.max_turn_ms / 1000)
        transactional = self.outbox.transactional
        self.settling = Settling(settings, self.intake, self.ledger, self.waiting, self.replays, transactional)
        self.lag = LagReport(self.agent)
        self.warm = self.running = False
        self._stop = threading.Event()
        self._failures = 0
        self._last_turn = time.monotonic()

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
        )

    def run(self) -> None:
        """Run until `stop`, or until `Fatal`: then nothing more is committed."""
        self._start()
        while not self._stop.is_set():
            self._last_turn = time.monotonic()
            self._take_control()
            messages = self.settling.follow_assignment(self._poll(), self.compacted, self._wait_for_stop)
            self.ledger.refused |= self.intake.refused() & self.ledger.positions.keys()
            if messages or (not self.controlled.paused and self.waiting.due_in() == 0):
                self.turn(messages)
            elif self.settling.degraded or self.ledger.uncommitted or self.ledger.refused:
                self.settling.settle()
            self.tick()
            self.lag.report(self.intake, self.ledger.positions)
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
        records, rejected = decode(messages, self.topics)
        tried, lined_up = self.waiting.join(by_key(records))
        with PROCESS_SECONDS.labels(self.agent).time():
            answers = answer_all(self.controlled.processor, self.ledger, tried, self.waiting.has_waited, self.pace)
        self._keep(answers, lined_up)
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
            self._again(starts, exc)
            return
        for key, answer in answers.items():
            if answer.outcome.changed:
                self.ledger.stage(key, answer.outcome.state, answer.answered)
        self.ledger.advance(starts, ends)
        self.settling.settle()
        for key, answer in answers.items():
            if answer.waits:
                self.ledger.refresh(key)
        self._failures = 0
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
            return
        for key, result in results.items():
            if result.state is not None or result.forget:
                self.ledger.stage(key, result.state, ())
        self.settling.settle()
        self.ticks.finish(list(results))
        TICK_SECONDS.labels(self.agent).observe(time.monotonic() - started)
        self._count(events, [])

    def _start(self) -> None:
        if self.outbox.transactional and is_embedded(self.intake.cluster_id(10.0)):
            raise ConfigError(
                "delivery must be 'at_least_once' on the embedded broker, got 'exactly_once': "
                "the embedded broker cannot do transactions; name a real cluster by --bootstrap-servers"
            )
        self.outbox.start()
        self.intake.name_missing_topics(FIRST_ANSWER_S)
        self.controlled.start(self._stop)
        log.info("%s: loading kernels; the first start on a machine compiles them", self.agent)
        self.controlled.processor.warm()
        self.settling.settle()
        self.warm = self.running = True
        log.info("%s: ready to join its group", self.agent)

    def _take_control(self) -> None:
        """Options, pause and tables change here, between two turns."""
        self.controlled.apply()
        self.ledger.keys.wanted = may_tick(self.controlled.processor)
        self.ledger.ttl_s = self.controlled.ttl_s
        self.intake.full = self.waiting.full(self.ledger.positions, self.outbox.transactional)
        # While a long batch is in hand, the poll only serves the membership.
        self.intake.frozen = self.controlled.paused or self.settling.stalled or self.waiting.is_behind

    def _poll(self) -> list[Message]:
        if self.controlled.paused:
            return self.intake.poll(IDLE_POLL_S)
        return self.intake.poll(0.0 if self.ticks.is_behind else min(IDLE_POLL_S, self.waiting.due_in()))

    def _keep(self, answers: dict[str, Answer[S]], lined_up: Groups) -> None:
        """Have what is not answered wait."""
        for key, records in lined_up.items():
            self.waiting.line_up(key, records)
        for key, answer in answers.items():
            progress = answer.outcome.changed or bool(answer.outcome.events)
            self.waiting.keep(key, answer.left, answer.waits, progress)

    def _wait_for_stop(self) -> bool:
        self._last_turn = time.monotonic()
        return self._stop.wait(FIRST_RETRY_S)

    def _again(self, starts: Offsets, reason: DeliveryFailed) -> None:
        """Have the whole turn delivered again, after a pause that grows."""
        self._failures += 1
        pause = min(self.settings.retry_max_s, FIRST_RETRY_S * 2 ** min(self._failures, 20))
        RETRIES.labels(self.agent, type(reason).__name__).inc()
        log.warning("batch goes again in %.1f s: %s", pause, reason)
        self.waiting.postpone(pause)
        for partition, start in starts.items():
            self.intake.hold(partition, start, pause)

    def _count(self, events: Sequence[Event], dead: Sequence[Rejected]) -> None:
        count_delivered(self.agent, events, dead)
        observe_all(self.agent, self.observe, events)
