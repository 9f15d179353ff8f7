"""Feed: frames in, events out, in memory: a processor run as the loop runs it, without a broker or a store."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from qstream.contract import Event, Processor, Record, Result, Tick, TopicPartition
from qstream.errors import ConfigError, NotYet, Transient
from qstream.state.fields import pack, unpack
from qstream.stream.isolate import isolate
from schemas.control import Scalar
from schemas.deadletter import DeadLetter
from schemas.frame import Frame
from schemas.topics import Topic
from schemas.wording import Shown, must_be

F = TypeVar("F", bound=Frame)
S = TypeVar("S", bound=Frame)
NOT_YET_S = 0.001  # between two looks for a result that is computed next to the records


@dataclass(slots=True)
class Sent:
    """What one frame, batch or tick came to."""

    events: list[Event]
    dead: list[DeadLetter]


@dataclass(slots=True)
class _Key(Generic[S]):
    """What is kept of a key. `waiting` are by partition the records from the first one that raised `Transient` on."""

    state: S | None = None
    version: int = 0
    quiet: bool = False
    changed_ms: int = 0
    waiting: dict[TopicPartition, list[Record]] = field(default_factory=dict)
    reason: Transient | None = None


class Feed(Generic[S]):
    """Runs a processor with the loop's semantics: order by key, offsets, states, ids, dead letters, waiting records, ticks.

    A record that is poison, or at which `process` raises, becomes a dead letter; one that raises `Transient` waits with all
    that follow it in its partition under its key, and is tried again after the next record of the key; `NotYet` is tried
    again until the result is there. `Fatal`, and a tick that raises, raise here.
    A processor with tables (`Processor.tables`) is given their rows by `with_tables`: none at first, then those that were
    sent, before the next batch. Options hold together with rows, and both go on after a `restart`.

    Attributes
    ----------
    processor
        The processor in use; `configure` replaces it.
    events, dead
        All events and dead letters so far, in order.

    Examples
    --------
    >>> from qstream.testing.sample import Ping, Sample
    >>> feed = Feed(Sample("cooling", partitions=1))
    >>> [event.id for event in feed.send(Ping.of("a", 1, 2), 1000).events]
    ['cooling.ping.v1/0/0/0']
    >>> feed.state("a").total
    3
    """

    def __init__(self, processor: Processor[S]) -> None:
        self._base = processor
        self._options: dict[str, Scalar] = {}
        self._rows: dict[str, dict[str, Frame]] = {topic.name: {} for topic in processor.tables}
        self.processor = self._with(self._options, self._rows)
        self.events: list[Event] = []
        self.dead: list[DeadLetter] = []
        self._keys: dict[str, _Key[S]] = {}
        self._offsets: dict[tuple[str, int], int] = {}

    def send(self, frame: Frame, at_ms: int, *, topic: Topic | None = None, partition: int = 0) -> Sent:
        """Send one frame, as a batch of its own, with `at_ms` as the record's timestamp.

        `topic` is by default the first input that carries the frame. `ConfigError` if the processor does not read the frame.
        """
        chosen = topic or self._topic_of(frame)
        key = str(getattr(frame, chosen.key))
        if chosen in self.processor.tables:
            rows = self._rows | {chosen.name: self._rows[chosen.name] | {key: frame}}
            self.processor, self._rows = self._with(self._options, rows), rows
            return Sent([], [])
        return self.send_batch([self.record(frame, at_ms, topic=chosen, partition=partition)])

    def record(self, frame: Frame, at_ms: int, *, topic: Topic | None = None, partition: int = 0) -> Record:
        """The record that `send` would process, at the next offset of its partition; for `send_batch`."""
        chosen = topic or self._topic_of(frame)
        at = chosen.name, partition
        offset = self._offsets[at] = self._offsets.get(at, -1) + 1
        return Record(chosen.name, partition, offset, str(getattr(frame, chosen.key)), frame, at_ms)

    def send_batch(self, records: Sequence[Record]) -> Sent:
        """Process records as one poll of the broker gives them: a batch for each key, in order within a key."""
        groups: dict[str, list[Record]] = {}
        for record in records:
            groups.setdefault(record.key, []).append(record)
        sent = Sent([], [])
        for key, group in groups.items():
            kept = self._keys.setdefault(key, _Key())
            self._expire(kept, group[-1].timestamp_ms)
            kept.quiet, kept.reason, before = False, None, kept.waiting
            kept.waiting = {}
            for origin, waiting in before.items():
                waiting += [record for record in group if record.origin == origin]
            self._process(kept, [record for record in group if record.origin not in before], sent)
            for waiting in before.values():
                self._process(kept, waiting, sent)
        return self._note(sent)

    def tick(self, at_ms: int) -> Sent:
        """Give each key with a state one tick, as the loop does every `tick_s`."""
        sent = Sent([], [])
        for key, kept in self._keys.items():
            self._expire(kept, at_ms)
            if kept.state is None:
                continue
            tick = Tick(key, kept.version, at_ms * 1_000_000, kept.quiet and not kept.waiting)
            result = self._tick(tick, kept.state)
            if result.state is not None or result.forget:
                self._save(kept, result.state, at_ms)
            kept.quiet = True
            sent.events += result.events
        return self._note(sent)

    def configure(self, **options: Scalar) -> None:
        """Change options, as an operator does through the control topic; `OptionError` names an unknown one or a bad value."""
        changed = self._options | options
        self.processor, self._options = self._with(changed, self._rows), changed

    def restart(self, processor: Processor[S]) -> None:
        """Go on with another worker's processor: states come back as they were stored, and no key has been silent yet."""
        self._base = processor
        self.processor = self._with(self._options, self._rows)
        for kept in self._keys.values():
            kept.quiet = False
            if kept.state is not None:
                kept.state = unpack(type(kept.state), pack(kept.state))

    def state(self, key: str) -> S | None:
        """The state of a key, None where it has none."""
        kept = self._keys.get(key)
        return None if kept is None else kept.state

    def waiting(self, key: str) -> Transient | None:
        """Why records of a key wait, None where none does."""
        kept = self._keys.get(key)
        return None if kept is None else kept.reason

    def frames(self, kind: type[F]) -> list[F]:
        """The frames of one class among all events so far."""
        return [event.frame for event in self.events if isinstance(event.frame, kind)]

    def _with(self, options: Mapping[str, Scalar], rows: Mapping[str, Mapping[str, Frame]]) -> Processor[S]:
        """The processor that the feed was given, with these options and rows, as the loop makes it."""
        configured = self._base.configure(options) if options else self._base
        return configured.with_tables({name: dict(of_topic) for name, of_topic in rows.items()}) if rows else configured

    def _topic_of(self, frame: Frame) -> Topic:
        topics = (*self.processor.inputs, *self.processor.tables)
        for topic in topics:
            if topic.frame is type(frame):
                return topic
        known = ", ".join(topic.frame.__name__ for topic in topics)
        raise ConfigError(must_be("frame", f"one that {self.processor.name} reads ({known})", Shown(type(frame).__name__)))

    def _process(self, kept: _Key[S], records: list[Record], sent: Sent) -> None:
        """Process records of one key in order; after one that waits, those of other partitions go on."""
        while records:
            at_ms = max(record.timestamp_ms for record in records)
            outcome = isolate(self.processor, records[0].key, records, kept.state, lambda record: False)
            if outcome.changed:
                self._save(kept, outcome.state, at_ms)
            sent.events += outcome.events
            sent.dead += [rejected.letter for rejected in outcome.rejected]
            if outcome.waits is None:
                return
            first, kept.reason = outcome.waits
            left = records[records.index(first) :]
            if isinstance(kept.reason, NotYet):
                kept.reason = None
                time.sleep(NOT_YET_S)
                records = left
                continue
            kept.waiting[first.origin] = [record for record in left if record.origin == first.origin]
            records = [record for record in left if record.origin != first.origin]

    def _tick(self, tick: Tick, state: S) -> Result[S]:
        while True:
            try:
                return self.processor.on_tick(tick, state)
            except NotYet:
                time.sleep(NOT_YET_S)

    def _save(self, kept: _Key[S], state: S | None, at_ms: int) -> None:
        kept.state = state
        kept.version = 0 if state is None else kept.version + 1
        kept.changed_ms = at_ms

    def _expire(self, kept: _Key[S], at_ms: int) -> None:
        ttl_s = self.processor.state_ttl_s
        if ttl_s is not None and at_ms - kept.changed_ms > ttl_s * 1000:
            self._save(kept, None, at_ms)

    def _note(self, sent: Sent) -> Sent:
        self.events += sent.events
        self.dead += sent.dead
        return sent
