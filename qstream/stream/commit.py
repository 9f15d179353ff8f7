"""Commit: what was processed becomes durable, states first, offsets after."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from qstream.contract import Record, TopicPartition
from qstream.errors import StaleEpoch, StoreUnavailable
from qstream.metrics import CONFLICTS, STATE_BYTES
from qstream.state.store import StateStore, Stored, Write
from schemas.frame import Frame

S = TypeVar("S", bound=Frame)
T = TypeVar("T")
STORE_RETRY_S = 0.5
log = logging.getLogger(__name__)


@dataclass(eq=False)
class Entry(Generic[S]):
    """The state of one key: as stored, as it is now, and the offsets that the present one has seen.

    `held` are the partitions that were ours when it was loaded, `fed_by` those whose records have asked for it. `quiet`
    says that none did since the last tick, which was given this entry.
    """

    stored: Stored[S]
    state: S | None
    seen: dict[TopicPartition, int] = field(default_factory=dict)
    dirty: bool = False
    held: set[TopicPartition] = field(default_factory=set)
    fed_by: set[TopicPartition] = field(default_factory=set)
    quiet: bool = False


class Ledger(Generic[S]):
    """What this worker has processed and the store and the broker may not know yet.

    `positions` are the next offsets after what was processed, `durable` those whose states are written and whose commit
    was asked for, `refused` the partitions where it must be asked for again. While the store is away, states live here,
    their partitions are not committed, and `uncommitted` grows.
    """

    def __init__(self, store: StateStore[S] | None, agent: str, max_keys: int) -> None:
        self.store = store
        self.agent = agent
        self.max_keys = max_keys
        self.positions: dict[TopicPartition, int] = {}
        self.durable: dict[TopicPartition, int] = {}
        self.refused: set[TopicPartition] = set()
        self._entries: OrderedDict[str, Entry[S]] = OrderedDict()
        self._epochs: dict[TopicPartition, int] = {}
        self._away_until = 0.0

    @property
    def uncommitted(self) -> int:
        """Records processed but not committed."""
        return sum(end - self.durable.get(partition, end) for partition, end in list(self.positions.items()))

    def adopt(self, partitions: Iterable[TopicPartition]) -> None:
        """Take a new epoch for partitions just assigned, which fences their earlier owners; `StoreUnavailable`."""
        missing = [partition for partition in partitions if partition not in self._epochs]
        if missing and self.store is not None:
            epoch = self._ask(self.store.new_epoch)
            self._epochs |= dict.fromkeys(missing, epoch)

    def forget(self, partitions: Iterable[TopicPartition]) -> set[TopicPartition]:
        """Drop all that belongs to partitions which are no longer ours. Returns the others to be read again."""
        gone = set(partitions)
        for table in (self.positions, self.durable, self._epochs):
            for partition in gone & table.keys():
                del table[partition]
        self.refused -= gone
        for entry in self._entries.values():
            entry.held -= gone
        return self.drop_states(gone) - gone

    def drop_states(self, partitions: Iterable[TopicPartition]) -> set[TopicPartition]:
        """Forget the states in memory that these partitions feed; the next use loads them.

        Returns all partitions to be read again: a dropped state that was not saved takes the others that it saw along.
        """
        gone = set(partitions)
        while hit := [key for key, entry in self._entries.items() if gone & (entry.fed_by | entry.seen.keys())]:
            for key in hit:
                entry = self._entries.pop(key)
                if entry.dirty:
                    gone |= entry.seen.keys() & self.positions.keys()
        return gone

    def refresh(self, key: str) -> None:
        """Load the key's state anew on its next use, unless it holds what the store does not know yet."""
        entry = self._entries.get(key)
        if entry is not None and not entry.dirty:
            del self._entries[key]

    def entry(self, key: str) -> Entry[S]:
        """The key's state, from memory or from the store; `StoreUnavailable` if neither has it."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        store = self.store
        stored: Stored[S] = Stored() if store is None else self._ask(lambda: store.load(key))
        if stored.reason is not None:
            # Without its state nothing was seen: tables are read into it again, as into a new one.
            log.error("the stored state of %r cannot be read, it starts cold: %s", key, stored.reason)
            CONFLICTS.labels(self.agent, "unreadable").inc()
            stored = replace(stored, offsets={})
        entry = self._entries[key] = Entry(stored, stored.state, dict(stored.offsets), held=set(self._epochs))
        return entry

    def cached_keys(self) -> list[str]:
        """The keys in memory."""
        return list(self._entries)

    def unseen(self, key: str, records: Sequence[Record]) -> list[Record]:
        """The records that the key's state has not seen: a redelivery changes nothing twice; `StoreUnavailable`.

        A state that was loaded before one of their partitions came to us is loaded anew, for the partition's earlier owner
        may have written it since. One that holds what the store does not know yet cannot be: its records must wait.
        """
        entry = self.entry(key)
        origins = {record.origin for record in records}
        if (origins & self._epochs.keys()) - entry.held:
            if entry.dirty:
                raise StoreUnavailable(f"the state of {key!r} is not saved yet, and a partition that feeds it has come since")
            del self._entries[key]
            entry = self.entry(key)
        entry.fed_by |= origins
        unseen = (
            [record for record in records if record.offset > entry.seen.get(record.origin, -1)] if entry.seen else list(records)
        )
        entry.quiet = entry.quiet and not unseen
        return unseen

    def stage(self, key: str, state: S, records: Sequence[Record]) -> None:
        """Take a new state that has seen `records`; `save` writes it."""
        entry = self.entry(key)
        entry.state = state
        entry.dirty = True
        for record in records:
            entry.seen[record.origin] = record.offset

    def advance(self, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> None:
        """Note that everything from `starts` up to `ends` (next offsets) is processed and answered."""
        for partition, end in ends.items():
            self.durable.setdefault(partition, starts[partition])
            self.positions[partition] = end

    def save(self) -> set[TopicPartition]:
        """Write the changed states. Returns the partitions whose records must be processed again, because the stored state
        of a key had moved on. `StoreUnavailable`: nothing is lost, save again later."""
        dirty = [(key, entry) for key, entry in self._entries.items() if entry.dirty]
        again: set[TopicPartition] = set()
        store = self.store
        if store is None or not dirty:
            if self._away_until:
                self._ask(self._ping)
            return again
        writes = [self._write(key, entry) for key, entry in dirty]
        for (key, entry), answer in zip(dirty, self._ask(lambda: store.save_all(writes)), strict=True):
            if isinstance(answer, Stored):
                STATE_BYTES.labels(self.agent).inc(answer.written_bytes)
                entry.stored, entry.dirty = answer, False
            else:
                CONFLICTS.labels(self.agent, "stale_epoch" if isinstance(answer, StaleEpoch) else "version").inc()
                again |= entry.seen.keys() & self.positions.keys()
                del self._entries[key]
        while len(self._entries) > self.max_keys and not next(iter(self._entries.values())).dirty:
            self._entries.popitem(last=False)
        return again

    def committable(self) -> dict[TopicPartition, int]:
        """Next offsets whose states are written and that the broker does not know yet."""
        waiting: set[TopicPartition] = set()
        for entry in self._entries.values():
            if entry.dirty:
                waiting |= entry.seen.keys()
        return {
            p: end for p, end in self.positions.items() if p not in waiting and (end != self.durable.get(p) or p in self.refused)
        }

    def handed_over(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Note that these next offsets go to the broker."""
        self.durable |= offsets
        self.refused -= offsets.keys()

    def watermarks(self) -> dict[TopicPartition, int]:
        """Next offsets up to which the stored states have followed; `StoreUnavailable`."""
        return {} if self.store is None else self._ask(self.store.watermarks)

    def mark(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Note that the stored states have followed up to these next offsets; `StoreUnavailable`."""
        store = self.store
        if store is not None:
            self._ask(lambda: store.set_watermarks(offsets))

    def _write(self, key: str, entry: Entry[S]) -> Write[S]:
        """Only partitions that are ours are fenced and moved on; other workers may feed the same key from theirs."""
        epochs = {partition: self._epochs[partition] for partition in entry.seen if partition in self._epochs}
        return Write(key, entry.stored, entry.state, {partition: entry.seen[partition] for partition in epochs}, epochs)

    def _ping(self) -> None:
        if self.store is not None and not self.store.ping():
            raise StoreUnavailable("the store does not answer")

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask the store, at most once in a while if it does not answer: each try costs its timeout."""
        if time.monotonic() < self._away_until:
            raise StoreUnavailable("the store did not answer a moment ago")
        try:
            answer = question()
        except StoreUnavailable:
            self._away_until = time.monotonic() + STORE_RETRY_S
            raise
        self._away_until = 0.0
        return answer
