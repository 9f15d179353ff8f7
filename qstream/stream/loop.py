"""The loop: poll, decode, process by key, produce, save the states, commit the offsets; the order of things on one screen."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from confluent_kafka import KafkaException, Message

from qstream.config import Settings, is_embedded
from qstream.contract import Event, Processor, Record, TopicPartition, partition_of
from qstream.errors import ConfigError, DeliveryFailed, OptionError, StoreUnavailable
from qstream.metrics import DEGRADED, LAG, PAUSED, PROCESS_SECONDS, RETRIES, TICK_SECONDS
from qstream.state.store import StateStore
from qstream.stream.commit import Ledger
from qstream.stream.consume import FROM_START, Intake, came_from
from qstream.stream.decode import Rejected, by_key, decode
from qstream.stream.isolate import Outcome, isolate
from qstream.stream.observe import count_batch, count_delivered
from qstream.stream.produce import Outbox
from qstream.stream.ticks import Ticks
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
    """What the health pages show."""

    running: bool
    warm: bool
    joined: bool
    degraded: bool
    paused: bool
    partitions: int
    uncommitted: int
    last_turn_age_s: float
    control_error: str

    @property
    def ready(self) -> bool:
        """In the group, kernels warm, and the store answers or its absence is declared."""
        return self.running and self.warm and self.joined


class BatchLoop(Generic[S]):
    """Feeds one processor from its input topics until `stop`. All of it but `stop`, `wish` and `status` runs in one thread.

    A failure before the commit means that records are delivered again, never that they are lost.
    """

    def __init__(
        self,
        processor: Processor[S],
        settings: Settings,
        store: StateStore[S] | None,
        observe: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self.base = self.processor = processor
        self.settings = settings
        self.observe = observe
        self.agent = processor.name
        self.topics = {topic.name: topic for topic in processor.inputs}
        self.intake = Intake(settings, self.agent, list(self.topics))
        self.outbox = Outbox(settings, self.agent, dead_letter_name(self.agent))
        self.ledger: Ledger[S] = Ledger(
            store,
            self.agent,
            max_keys=settings.max_cached_keys,
            max_bytes=settings.max_cached_bytes,
            ttl_s=processor.state_ttl_s,
        )
        self.ledger.keys.wanted = processor.tick_s is not None
        self.ticks = Ticks(self.ledger, self.intake, self.topics)
        self.degraded = self.stalled = self.paused = self.warm = self.running = False
        self._stop = threading.Event()
        self._wish: Control | None = None
        self._control_error = ""
        self._failures = 0
        self._waiting_since: dict[tuple[TopicPartition, int], float] = {}
        self._lacking_since: dict[str, float] = {}
        self._replay_until: Ends = {}
        self._next_lag = 0.0
        self._last_turn = time.monotonic()

    def stop(self) -> None:
        """Finish the batch in hand, then leave the group. Any thread."""
        self._stop.set()

    def wish(self, control: Control) -> None:
        """Take an operator's wish; it holds from the next batch on. Any thread."""
        self._wish = control

    def status(self) -> Status:
        """A snapshot for the health pages. Any thread."""
        return Status(
            self.running,
            self.warm,
            self.intake.joined,
            self.degraded,
            self.paused,
            len(self.intake.assigned),
            self.ledger.uncommitted,
            time.monotonic() - self._last_turn,
            self._control_error,
        )

    def run(self) -> None:
        """Run until `stop`, or until `Fatal`: then nothing more is committed."""
        self._start()
        while not self._stop.is_set():
            self._last_turn = time.monotonic()
            self._obey()
            messages = self.intake.poll(IDLE_POLL_S)
            messages = self._follow_assignment(messages)
            self.ledger.refused |= self.intake.refused() & self.ledger.positions.keys()
            if messages:
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
        """One batch, from bytes to commit."""
        started = time.monotonic()
        starts, ends = _span(messages)
        records, rejected = decode(messages, self.topics)
        with PROCESS_SECONDS.labels(self.agent).time():
            outcomes = self._process(records, ends)
        answered = messages if not self._waiting_since else _before(messages, ends)
        rejected = [dead for dead in rejected if dead.letter.offset < ends[_origin(dead)]]
        for outcome, _ in outcomes.values():
            rejected += outcome.rejected
        events = [event for outcome, _ in outcomes.values() for event in outcome.events]
        try:
            dead = self._deliver(events, rejected, ends)
        except DeliveryFailed as exc:
            self._again(starts, exc)
            return
        for key, (outcome, group) in outcomes.items():
            if outcome.changed or outcome.events:
                self._lacking_since.pop(key, None)
            if outcome.changed:
                self.ledger.stage(key, outcome.state, group)
        self.ledger.advance(starts, ends)
        self._settle()
        self._failures = 0
        self._waiting_since = {at: t for at, t in self._waiting_since.items() if at[1] >= self.ledger.positions.get(at[0], 0)}
        count_batch(self.agent, answered, time.monotonic() - started)
        self._count(events, dead)

    def _start(self) -> None:
        if self.outbox.transactional and is_embedded(self.intake.cluster_id(10.0)):
            raise ConfigError(
                "delivery is 'exactly_once', which the embedded broker cannot do: "
                "name a real cluster by --bootstrap-servers, or use 'at_least_once'"
            )
        self.outbox.start()
        self.intake.name_missing_topics(FIRST_ANSWER_S)
        log.info("%s: loading kernels; the first start on a machine compiles them", self.agent)
        self.processor.warm()
        self._settle()
        self.warm = self.running = True
        log.info("%s: ready to join its group", self.agent)

    def _obey(self) -> None:
        wish, self._wish = self._wish, None
        if wish is not None:
            try:
                self.processor = self.base.configure(wish.options)
                self._control_error = ""
                self.ledger.keys.wanted = self.processor.tick_s is not None
                self.ledger.ttl_s = self.processor.state_ttl_s
            except OptionError as exc:
                self._control_error = str(exc)
                log.error("control refused, the options stay as they were: %s", exc)
            self.paused = wish.paused
            PAUSED.labels(self.agent).set(self.paused)
        self.intake.frozen = self.paused or self.stalled

    def _follow_assignment(self, messages: list[Message]) -> list[Message]:
        """Forget what was lost and fence what is new; a partition that cannot be taken over yet is read again later."""
        new, lost = self.intake.changes()
        again = self.ledger.release(lost)
        self._read_again(again)
        self._waiting_since = {at: since for at, since in self._waiting_since.items() if at[0] not in lost}
        if lost:
            self._lacking_since.clear()
        for partition in lost & self._replay_until.keys():
            del self._replay_until[partition]
        moved = again | (self._find_replays(new) if self.outbox.transactional and new else set())
        # A compacted input is a table: whatever the group has committed, all of it is read; states skip what they have seen.
        for partition in [partition for partition in new if self.topics[partition.topic].compacted]:
            self.intake.seek(partition, FROM_START)
            moved.add(partition)
        return [message for message in messages if came_from(message) not in moved] if moved else messages

    def _find_replays(self, new: set[TopicPartition]) -> set[TopicPartition]:
        """After a crash between a transaction's commit and the write of its states, the states are behind the committed
        offsets: read from the states' watermark again, and up to the committed offset without emitting."""
        while not self._stop.is_set():
            try:
                watermarks = self.ledger.watermarks()
                committed = self.intake.committed(new, 10.0)
                # Marked before the first transaction, or a crash right after it would leave no sign of states behind it.
                self.ledger.mark({partition: committed.get(partition, 0) for partition in new - watermarks.keys()})
            except (StoreUnavailable, KafkaException) as exc:
                log.warning("waiting to learn where to start: %s", exc)
                self._stop.wait(FIRST_RETRY_S)
                self._last_turn = time.monotonic()
                continue
            behind = {p for p in new if watermarks.get(p, committed.get(p, 0)) < committed.get(p, 0)}
            tables = {p for p in new & committed.keys() if self.topics[p.topic].compacted}
            self._replay_until |= {partition: committed[partition] for partition in behind | tables}
            for partition in behind:
                self.intake.seek(partition, watermarks[partition])
            return behind
        return new

    def _process(self, records: list[Record], ends: Ends) -> dict[str, tuple[Outcome[S], list[Record]]]:
        """Outcomes by key. Where a record must wait, its partition's batch ends before it: `ends` is shortened, and the
        partition is read again from there later."""
        while True:
            outcomes = {key: self._answer(key, group) for key, group in by_key(records).items()}
            waiting = [outcome.waits for outcome, _ in outcomes.values() if outcome.waits]
            if not waiting:
                return outcomes
            for record, reason in waiting:
                origin = record.origin
                if record.offset < ends[origin]:
                    ends[origin] = record.offset
                    since = self._waiting_since.setdefault((origin, record.offset), time.monotonic())
                    pause = min(self.settings.retry_max_s, max(FIRST_RETRY_S, time.monotonic() - since))
                    RETRIES.labels(self.agent, type(reason).__name__).inc()
                    log.info("%s waits %.1f s: %s", record.id, pause, reason)
                    self.intake.hold(origin, record.offset, pause)
                    if isinstance(reason, StoreUnavailable):
                        self._note_store(away=True)
                    else:
                        self._lacking_since.setdefault(record.key, since)
                    self.ledger.refresh(record.key)
            records = [record for record in records if record.offset < ends[record.origin]]

    def _answer(self, key: str, records: list[Record]) -> tuple[Outcome[S], list[Record]]:
        try:
            self.ledger.adopt({record.origin for record in records})
            unseen = self.ledger.unseen(key, records)
        except StoreUnavailable as exc:
            return Outcome(None, waits=(records[0], exc)), records
        return isolate(self.processor, key, unseen, self.ledger.entry(key).state, self._has_waited), unseen

    def _has_waited(self, record: Record) -> bool:
        """Whether it waited long enough itself, or is old enough and its key waited: else each in turn would hold up all."""
        now = time.monotonic()
        own_s = now - self._waiting_since.get((record.origin, record.offset), now)
        key_s = now - self._lacking_since.get(record.key, now)
        age_s = time.time() - record.timestamp_ms / 1000
        return max(own_s, min(key_s, age_s)) > self.settings.give_up_s

    def _deliver(self, events: list[Event], rejected: list[Rejected], ends: Ends) -> list[Rejected]:
        if not self.outbox.transactional:
            return self.outbox.send(events, rejected)
        replays = self._replay_until
        events = [e for e in events if e.cause is None or e.cause.offset >= replays.get(e.cause.origin, 0)]
        rejected = [dead for dead in rejected if dead.letter.offset >= replays.get(_origin(dead), 0)]
        offsets = {partition: max(end, replays.get(partition, 0)) for partition, end in ends.items()}
        with self.outbox.transaction(offsets, self.intake.group_metadata()):
            return self.outbox.send(events, rejected)

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
        offsets = self.ledger.committable()
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
        for partition in self.ledger.drop_states(partitions):
            durable, position = self.ledger.durable[partition], self.ledger.positions[partition]
            if self.outbox.transactional:
                self._replay_until[partition] = max(position, self._replay_until.get(partition, 0))
            self.ledger.positions[partition] = durable
            self.intake.hold(partition, durable, FIRST_RETRY_S)

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
        for partition, start in starts.items():
            self.intake.hold(partition, start, pause)

    def _tick(self) -> None:
        """A part of the keys ticks in the order of a batch: newest states, events, writes; one wait for all of them."""
        if self.paused or not (keys := self.ticks.due(self.processor.tick_s)):
            return
        started = time.monotonic()
        results = self.ticks.run(self.processor, keys, self._lacking_since)
        events = [event for result in results.values() for event in result.events]
        try:
            if events:
                self._deliver(events, [], {})
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


def _before(messages: Sequence[Message], ends: Ends) -> list[Message]:
    """The messages of a batch without those that wait and are read again."""
    return [message for message in messages if message.offset() < ends[came_from(message)]]


def _origin(dead: Rejected) -> TopicPartition:
    return partition_of(dead.letter.topic, dead.letter.partition)
