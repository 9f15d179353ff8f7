"""The loop: poll, decode, process by key, produce, save the states, commit the offsets; the order of things on one screen."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from confluent_kafka import Message

from qstream.config import Settings, is_embedded
from qstream.contract import Event, Processor, TopicPartition
from qstream.errors import ConfigError, DeliveryFailed, StoreUnavailable
from qstream.metrics import DEGRADED, LAG, PROCESS_SECONDS, RETRIES, TICK_SECONDS
from qstream.state.store import StateStore
from qstream.stream.answer import Pace, answer_all
from qstream.stream.commit import Ledger
from qstream.stream.consume import FROM_START, Intake, came_from
from qstream.stream.control import Controlled
from qstream.stream.decode import Rejected, by_key, decode
from qstream.stream.deliver import deliver
from qstream.stream.observe import count_batch, count_delivered
from qstream.stream.produce import Outbox
from qstream.stream.replay import Answered, Replays, too_long
from qstream.stream.ticks import Ticks
from qstream.stream.wait import Waiting
from schemas.control import Control
from schemas.frame import Frame
from schemas.topics import dead_letter_name

log = logging.getLogger(__name__)
S = TypeVar("S", bound=Frame)
IDLE_POLL_S = 0.1
FIRST_RETRY_S = 0.1
LAG_PERIOD_S = 2.0
FIRST_ANSWER_S = 5.0
Ends = dict[TopicPartition, int]


@dataclass(frozen=True, slots=True)
class Status:
    """What the health pages show; `waiting` are records that were read and are not answered yet."""

    running: bool
    warm: bool
    joined: bool
    degraded: bool
    paused: bool
    partitions: int
    uncommitted: int
    waiting: int
    last_turn_age_s: float
    control_error: str

    @property
    def ready(self) -> bool:
        """In the group, kernels warm, and the store answers or its absence is declared."""
        return self.running and self.warm and self.joined


class BatchLoop(Generic[S]):
    """Feeds one processor from its input topics until `stop`. All but `stop`, `control` and `status` runs in one thread.

    A failure before the commit means that records are delivered again, never that they are lost.
    """

    def __init__(
        self,
        processor: Processor[S],
        settings: Settings,
        store: StateStore[S] | None,
        observe: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self.controlled = Controlled(processor)
        self.settings = settings
        self.observe = observe
        self.agent = processor.name
        self.topics = {topic.name: topic for topic in processor.inputs}
        self.tables = {topic.name for topic in processor.inputs if topic.compacted}
        self.intake = Intake(settings, self.agent, list(self.topics))
        self.outbox = Outbox(settings, self.agent, dead_letter_name(self.agent))
        self.ledger: Ledger[S] = Ledger(store, self.agent, max_keys=settings.max_cached_keys, max_bytes=settings.max_cached_bytes)
        self.waiting = Waiting(settings, self.agent)
        self.replays = Replays(self.ledger, self.intake)
        self.ticks = Ticks(self.ledger, self.intake, self.topics)
        self.pace = Pace(settings.max_turn_ms / 1000)
        self.degraded = self.stalled = self.warm = self.running = False
        self._stop = threading.Event()
        self._failures = 0
        self._next_lag = 0.0
        self._last_turn = time.monotonic()

    def stop(self) -> None:
        """Finish the turn in hand, then leave the group. Any thread."""
        self._stop.set()

    def control(self, control: Control) -> None:
        """Take what an operator asks for; it holds from the next turn on. Any thread."""
        self.controlled.ask(control)

    def status(self) -> Status:
        """A snapshot for the health pages. Any thread."""
        return Status(
            self.running,
            self.warm,
            self.intake.joined,
            self.degraded,
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
            messages = self._follow_assignment(self._poll())
            self.ledger.refused |= self.intake.refused() & self.ledger.positions.keys()
            if messages or (not self.controlled.paused and self.waiting.due_in() == 0):
                self.turn(messages)
            elif self.degraded or self.ledger.uncommitted or self.ledger.refused:
                self._settle()
            self._tick()
            self._report_lag()
        self._settle()
        self.intake.close()
        self.outbox.close(self.settings.drain_s)
        self.running = False

    def turn(self, messages: Sequence[Message]) -> None:
        """One batch, from bytes to commit, with the waiting records that are due. What it has no time for waits as well."""
        started = time.monotonic()
        before = self.waiting.snapshot()
        starts, ends = _span(messages)
        records, rejected = decode(messages, self.topics)
        tried, lined_up = self.waiting.join(by_key(records))
        with PROCESS_SECONDS.labels(self.agent).time():
            answers = answer_all(self.controlled.processor, self.ledger, tried, self.waiting.has_waited, self.pace)
        for key, behind in lined_up.items():
            self.waiting.line_up(key, behind)
        for key, answer in answers.items():
            self.waiting.keep(key, answer.left, answer.waits, bool(answer.outcome.changed or answer.outcome.events))
            rejected += answer.outcome.rejected
        events = [event for answer in answers.values() for event in answer.outcome.events]
        answered = self._answered(ends)
        if long := too_long(answered):
            self.waiting.restore(before)
            self.turn(self._without_half(messages, long))
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
        self._settle()
        for key, answer in answers.items():
            if answer.waits:
                self.ledger.refresh(key)
        self._failures = 0
        count_batch(self.agent, messages, time.monotonic() - started)
        self._count(events, dead)

    def _start(self) -> None:
        if self.outbox.transactional and is_embedded(self.intake.cluster_id(10.0)):
            raise ConfigError(
                "delivery must be 'at_least_once' on the embedded broker, got 'exactly_once': "
                "the embedded broker cannot do transactions; name a real cluster by --bootstrap-servers"
            )
        self.outbox.start()
        self.intake.name_missing_topics(FIRST_ANSWER_S)
        log.info("%s: loading kernels; the first start on a machine compiles them", self.agent)
        self.controlled.processor.warm()
        self._settle()
        self.warm = self.running = True
        log.info("%s: ready to join its group", self.agent)

    def _take_control(self) -> None:
        """Options, pause and tables change here, between two turns."""
        self.controlled.apply()
        self.ledger.keys.wanted = self.controlled.processor.tick_s is not None
        self.ledger.ttl_s = self.controlled.processor.state_ttl_s
        self.intake.full = self.waiting.full(self.ledger.positions, self.outbox.transactional)
        # While a long batch is in hand, the poll only serves the membership.
        self.intake.frozen = self.controlled.paused or self.stalled or self.waiting.is_behind

    def _poll(self) -> list[Message]:
        due_in = IDLE_POLL_S if self.controlled.paused else self.waiting.due_in()
        return self.intake.poll(min(IDLE_POLL_S, due_in))

    def _follow_assignment(self, messages: list[Message]) -> list[Message]:
        """Drop what was lost and fence what is new; a partition that cannot be taken over yet is read again later."""
        new, lost = self.intake.changes()
        self.replays.release(lost)
        self.waiting.drop(lost)
        moved = self.ledger.release(lost)
        self._read_again(moved)
        if self.outbox.transactional and new:
            moved |= self.replays.find(new, self.tables, self._wait_a_moment)
        # A compacted input is a table: whatever the group has committed, all of it is read; states skip what they have seen.
        for partition in [partition for partition in new if partition.topic in self.tables]:
            self.intake.seek(partition, FROM_START)
            moved.add(partition)
        return [message for message in messages if came_from(message) not in moved] if moved else messages

    def _wait_a_moment(self) -> bool:
        self._last_turn = time.monotonic()
        return self._stop.wait(FIRST_RETRY_S)

    def _answered(self, ends: Ends) -> dict[TopicPartition, Answered]:
        """What a transaction of this turn answers, with the gaps that waiting records leave."""
        if not self.outbox.transactional:
            return {}
        missing = self.waiting.missing()
        ends = {p: self.ledger.positions[p] for p in self.ledger.positions} | ends
        return {p: self.replays.after(p, end, missing.get(p, ())) for p, end in ends.items()}

    def _settle(self) -> None:
        """States first, offsets after. Without the store: go on from memory within a bound, and say so."""
        try:
            again = self.ledger.save()
        except StoreUnavailable as exc:
            self._note_store(away=True)
            self.stalled = self.ledger.uncommitted >= self.settings.max_uncommitted_records
            log.debug("state not saved: %s", exc)
            return
        self._note_store(away=False)
        self._read_again(again)
        offsets = self.ledger.committable({p: min(offsets) for p, offsets in self.waiting.missing().items()})
        if not offsets:
            return
        if self.outbox.transactional:
            # The transaction has committed the offsets already: note how far the states have followed.
            try:
                self.ledger.mark(offsets)
            except StoreUnavailable:
                return
        else:
            self.intake.commit(offsets)
        self.ledger.handed_over(offsets)

    def _read_again(self, partitions: set[TopicPartition]) -> None:
        """Process again what a moved-on state has not seen; what a transaction has committed is not emitted twice."""
        again = self.ledger.drop_states(partitions)
        missing = self.waiting.missing() if again else {}
        for partition in again:
            durable, position = self.ledger.durable[partition], self.ledger.positions[partition]
            if self.outbox.transactional:
                self.replays.read_again(partition, position, missing.get(partition, ()))
            self.ledger.positions[partition] = durable
            self.intake.hold(partition, durable, FIRST_RETRY_S)
        self.waiting.drop(again)

    def _note_store(self, away: bool) -> None:
        if away != self.degraded:
            log.warning("the state store %s", "does not answer: going on from memory" if away else "answers again")
        self.degraded = away
        self.stalled = self.stalled and away
        DEGRADED.labels(self.agent).set(away)

    def _again(self, starts: Ends, reason: DeliveryFailed) -> None:
        """Have the whole turn delivered again, after a pause that grows."""
        self._failures += 1
        pause = min(self.settings.retry_max_s, FIRST_RETRY_S * 2 ** min(self._failures, 20))
        RETRIES.labels(self.agent, type(reason).__name__).inc()
        log.warning("batch goes again in %.1f s: %s", pause, reason)
        self.waiting.postpone(pause)
        for partition, start in starts.items():
            self.intake.hold(partition, start, pause)

    def _without_half(self, messages: Sequence[Message], partitions: list[TopicPartition]) -> list[Message]:
        """Read the later half of what these partitions gave again later."""
        kept = list(messages)
        for partition in partitions:
            offsets = [message.offset() for message in messages if came_from(message) == partition]
            cut = offsets[len(offsets) // 2]
            self.intake.seek(partition, cut)
            kept = [message for message in kept if came_from(message) != partition or message.offset() < cut]
        return kept

    def _tick(self) -> None:
        """A part of the keys ticks in the order of a batch: newest states, events, writes; one wait for all of them."""
        processor = self.controlled.processor
        if self.controlled.paused or not (keys := self.ticks.due(processor.tick_s)):
            return
        started = time.monotonic()
        results = self.ticks.run(processor, keys, self.waiting)
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
        self._settle()
        self.ticks.finish(list(results))
        TICK_SECONDS.labels(self.agent).observe(time.monotonic() - started)
        self._count(events, [])

    def _count(self, events: Sequence[Event], dead: Sequence[Rejected]) -> None:
        count_delivered(self.agent, events, dead)
        for event in events:
            self.observe(event)

    def _report_lag(self) -> None:
        if time.monotonic() >= self._next_lag:
            self._next_lag = time.monotonic() + LAG_PERIOD_S
            for topic, records in self.intake.lag(self.ledger.positions).items():
                LAG.labels(self.agent, topic).set(records)


def _span(messages: Sequence[Message]) -> tuple[Ends, Ends]:
    """First offset and next offset of each partition of a batch."""
    starts: Ends = {}
    ends: Ends = {}
    for message in messages:
        partition = came_from(message)
        starts.setdefault(partition, message.offset())
        ends[partition] = message.offset() + 1
    return starts, ends
