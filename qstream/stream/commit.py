"""Commit: what was processed becomes durable, states first, offsets after."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Generic, TypeVar

from qstream.config import Settings
from qstream.contract import Record, TopicPartition
from qstream.errors import StaleEpoch, StoreUnavailable
from qstream.metrics import CACHED_BYTES, CACHED_STATES, CONFLICTS, EVICTED, STATE_BYTES
from qstream.state.store import StateStore
from qstream.state.write import Stored, Write
from qstream.stream.cache import Cache, Entry
from qstream.stream.keys import Keys
from qstream.stream.limits import Limits
from schemas.frame import Frame

S = TypeVar("S", bound=Frame)
T = TypeVar("T")
STORE_RETRY_S = 0.5
NOTHING_SEEN = -1
ENDED_S = 86_400.0  # how long the offsets that an ended key has seen are kept: its last records may be delivered again
log = logging.getLogger(__name__)


class Ledger(Generic[S]):
    """What this worker has processed and the store and the broker may not know yet.

    `positions` are the next offsets after what was processed, `durable` those whose states are written and whose commit
    was asked for, `refused` the partitions where it must be asked for again, `passed` those that have moved on without a
    record since. `identities` says by topic which log it is now; `restarted` are the partitions whose log is another one than
    the stored offsets are of: they must be read from their start before anything else. While the store is away, states live
    here, their partitions are not committed, and `uncommitted` grows. `fault` says why it is away: at first because it was
    not asked yet, and then since a question failed until `check` has passed.
    """

    def __init__(
        self,
        store: StateStore[S] | None,
        agent: str,
        *,
        max_keys: int = 4096,
        max_bytes: int = 1 << 29,
        ttl_s: float | None = None,
        is_beyond: Callable[[TopicPartition, int], bool] = lambda partition, offset: False,
        limits: Limits | None = None,
    ) -> None:
        """`is_beyond` says whether a partition's log ends at an offset or before it."""
        self.store = store
        self.agent = agent
        self.ttl_s = ttl_s
        self.is_beyond = is_beyond
        self._limits = limits or Limits(Settings())
        self.keys = Keys()
        self.positions: dict[TopicPartition, int] = {}
        self.durable: dict[TopicPartition, int] = {}
        self.refused: set[TopicPartition] = set()
        self.passed: set[TopicPartition] = set()
        self._cache: Cache[S] = Cache(max_keys, max_bytes)
        self._dirty: dict[str, Entry[S]] = {}
        self.identities: Mapping[str, str] = {}
        self.restarted: set[TopicPartition] = set()
        self._epochs: dict[TopicPartition, int] = {}
        self._since: dict[TopicPartition, int] = {}
        self.fault = None if store is None else StoreUnavailable("the state store was not asked yet")
        self._again_at = 0.0

    @property
    def uncommitted(self) -> int:
        """Records processed but not committed."""
        return sum(end - self.durable.get(partition, end) for partition, end in list(self.positions.items()))

    def adopt(self, partitions: Iterable[TopicPartition]) -> None:
        """Take a new epoch for partitions just assigned, which fences their earlier owners; `StoreUnavailable`."""
        missing = [partition for partition in partitions if partition not in self._epochs]
        store = self.store
        if missing and store is not None:
            epoch = self._ask(store.new_epoch)
            logs = {partition: self.identities[partition.topic] for partition in missing if partition.topic in self.identities}
            since = self._ask(lambda: store.logs.take(logs, epoch)) if logs else {}
            self._epochs |= dict.fromkeys(missing, epoch)
            self._since |= since
            self._restart({partition for partition, start in since.items() if start == epoch})

    def _restart(self, partitions: set[TopicPartition]) -> None:
        """Nothing was seen of these partitions, whatever the states say."""
        self.restarted |= partitions
        for _, entry in self._cache:
            entry.seen |= dict.fromkeys(partitions & entry.seen.keys(), NOTHING_SEEN)

    def read_from_start(self, partitions: Iterable[TopicPartition]) -> None:
        """Take note that these partitions are read from their start now."""
        gone = set(partitions)
        self.restarted -= gone
        self.refused -= gone
        self.passed -= gone
        for table in (self.positions, self.durable):
            for partition in gone & table.keys():
                del table[partition]

    def check(self) -> None:
        """Have a store that is away do all that an agent asks of it; `StoreUnavailable` as long as it does not.

        That one question is answered proves little: a replica answers reads, and one node of a cluster its own keys.
        """
        if self.store is not None and self.fault is not None:
            self._ask(self.store.check)
            self.fault = None

    def find_keys(self) -> None:
        """Read from the index which keys feed on the partitions that have come to us; `StoreUnavailable`."""
        store = self.store
        if store is not None:
            for partition in self._epochs.keys() - self.keys.taken:
                epoch = self._epochs[partition]
                self.keys.take(partition, self._ask(partial(store.index.take, partition, epoch)))

    def release(self, partitions: Iterable[TopicPartition]) -> set[TopicPartition]:
        """Drop all that belongs to partitions which are no longer ours. Returns the others to be read again."""
        gone = set(partitions)
        for table in (self.positions, self.durable, self._epochs, self._since):
            for partition in gone & table.keys():
                del table[partition]
        self.refused -= gone
        self.passed -= gone
        self.restarted -= gone
        self.keys.release(gone)
        for _, entry in self._cache:
            entry.held -= gone
        again = self.drop_states(gone) - gone
        if gone:
            self._limits.keep(key for key, _ in self._cache)
            self._report()
        return again

    def drop_states(self, partitions: Iterable[TopicPartition]) -> set[TopicPartition]:
        """Forget the states in memory that these partitions feed; the next use loads them.

        Returns all partitions to be read again: a dropped state that was not saved takes the others that it saw along.
        """
        gone = set(partitions)
        while hit := [(key, entry) for key, entry in self._cache if gone & (entry.fed_by | entry.seen.keys())]:
            for key, entry in hit:
                self._drop(key)
                gone |= entry.unsaved & self.positions.keys()
        return gone

    def refresh(self, key: str) -> None:
        """Have the next use of the key load its state, unless memory holds what the store does not know yet."""
        entry = self._cache.get(key)
        if entry is not None and not entry.dirty:
            self._drop(key)

    def entry(self, key: str) -> Entry[S]:
        """The key's state, from memory or from the store; `StoreUnavailable` if neither has it."""
        entry = self._cache.get(key)
        if entry is None:
            (entry,) = self._load([key])
        return entry

    def is_ours(self, entry: Entry[S], topics: Container[str]) -> bool:
        """Whether this worker ticks the key: it owns the first of all partitions of `topics` that have fed the state."""
        return min((p for p in entry.seen if p.topic in topics), default=None) in self._epochs

    def tick_room(self) -> int:
        """How many keys may tick together, so that their states fit into memory."""
        return self._cache.room()

    def cached(self, key: str) -> Entry[S] | None:
        """The key's state if it is in memory."""
        return self._cache.get(key)

    def fetch(self, keys: Sequence[str], shared: bool) -> None:
        """Have the newest states of these keys in memory, in at most two round trips; `StoreUnavailable`.

        `shared` says that other workers may have written those in memory. What memory alone knows stays.
        """
        store = self.store
        if store is None:
            return
        clean = [(key, entry) for key in keys if (entry := self._cache.get(key)) is not None and not entry.dirty]
        if shared and clean:
            marks = self._ask(lambda: store.marks([key for key, _ in clean]))
            for (key, entry), mark in zip(clean, marks, strict=True):
                if mark != (entry.stored.version, entry.stored.writer):
                    self._drop(key)
        self._load([key for key in keys if self._cache.get(key) is None])

    def end_expired(self, keys: Sequence[str]) -> None:
        """Have the keys leave the index of which the store holds nothing any more; `StoreUnavailable`."""
        store = self.store
        if store is None or not keys:
            return
        for key, (version, _) in zip(keys, self._ask(lambda: store.marks(keys)), strict=True):
            if version == 0 and key not in self._dirty:
                self.keys.end(key)
                self._limits.forget([key])
        self._unindex_ended(store)

    def admit(self, key: str, before: Frame | None, after: Frame) -> None:
        """Take a new state before it is staged; `StateLimit` if it outgrows a setting."""
        if self.store is not None:
            self._limits.admit(key, before, after)

    def shrink(self) -> None:
        """Keep the states in memory within their bounds."""
        if gone := self._cache.shrink():
            EVICTED.labels(self.agent).inc(gone)
        self._report()

    def _report(self) -> None:
        CACHED_STATES.labels(self.agent).set(len(self._cache))
        CACHED_BYTES.labels(self.agent).set(self._cache.bytes)

    def unseen(self, key: str, records: Sequence[Record]) -> list[Record]:
        """The records that the key's state has not seen: a redelivery changes nothing twice; `StoreUnavailable`.

        A state that was loaded before one of their partitions came to us is loaded again, for the partition's earlier owner
        may have written it since. One that holds what the store does not know yet cannot be: its records must wait.
        """
        entry = self.entry(key)
        origins = {record.origin for record in records}
        if origins & self.restarted:
            raise StoreUnavailable(f"{', '.join(map(str, origins & self.restarted))} must be read from the start first")
        if (origins & self._epochs.keys()) - entry.held:
            if entry.dirty:
                raise StoreUnavailable(f"the state of {key!r} is not saved yet, and a partition that feeds it has come since")
            self._drop(key)
            entry = self.entry(key)
        entry.fed_by |= origins
        unseen = (
            [record for record in records if record.offset > entry.seen.get(record.origin, -1)] if entry.seen else list(records)
        )
        if len(unseen) < len(records):
            self._find_shorter_logs(entry, origins)
        if unseen:
            self.keys.wake(key)
        return unseen

    def _find_shorter_logs(self, entry: Entry[S], origins: set[TopicPartition]) -> None:
        """`StoreUnavailable` if a log ends before the offset that the state has seen: it was restored, and nothing says so."""
        store = self.store
        shorter = {
            partition for partition in origins & self._epochs.keys() if self.is_beyond(partition, entry.seen.get(partition, -1))
        }
        if shorter and store is not None:
            epoch = self._ask(store.new_epoch)
            self._ask(lambda: store.logs.restart(shorter, epoch))
            self._epochs |= dict.fromkeys(shorter, epoch)
            self._since |= dict.fromkeys(shorter, epoch)
            self._restart(shorter)
            raise StoreUnavailable(f"the log of {', '.join(map(str, shorter))} ends before what the state of a key has seen")

    def stage(self, key: str, state: S | None, records: Sequence[Record]) -> None:
        """Take a new state that has seen `records`, None where the key ends; `save` writes it. Without a store none is kept."""
        if self.store is None:
            return
        entry = self.entry(key)
        entry.state = state
        entry.dirty = True
        self._dirty[key] = entry
        newest = {record.origin: record.offset for record in records}
        entry.seen |= newest
        entry.unsaved |= newest.keys()
        if state is None:
            self.keys.end(key)
            self._limits.forget([key])
        else:
            self.keys.note(key, entry.seen.keys() & self._epochs.keys())

    def advance(self, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> None:
        """Note that everything from `starts` up to `ends` (next offsets) is processed and answered."""
        for partition, end in ends.items():
            self.durable.setdefault(partition, starts[partition])
            self.positions[partition] = end

    def pass_over(self, past: Mapping[TopicPartition, int]) -> None:
        """Note that nothing comes before these offsets any more, in partitions of which all that came was processed."""
        for partition, end in past.items():
            if end > self.positions.get(partition, NOTHING_SEEN):
                self.positions[partition] = end
                self.passed.add(partition)

    def save(self) -> set[TopicPartition]:
        """Write the changed states. Returns the partitions whose records must be processed again, because the stored state
        of a key had moved on. `StoreUnavailable`: nothing is lost, save again later."""
        again: set[TopicPartition] = set()
        store, dirty = self.store, list(self._dirty.items())
        if store is None:
            return again
        self.check()
        if not dirty:
            self._unindex_ended(store)
            return again
        self._index_new(store)
        writes = [self._write(key, entry) for key, entry in dirty]
        for (key, entry), answer in zip(dirty, self._ask(lambda: store.save_all(writes)), strict=True):
            if isinstance(answer, Stored):
                STATE_BYTES.labels(self.agent).inc(answer.written_bytes)
                del self._dirty[key]
                entry.stored, entry.dirty = answer, False
                self._limits.expires(key, answer.expires_at)
                entry.unsaved.clear()
                self._cache.put(key, entry)
            else:
                CONFLICTS.labels(self.agent, "stale_epoch" if isinstance(answer, StaleEpoch) else "version").inc()
                again |= entry.unsaved & self.positions.keys()
                self._drop(key)
        self._unindex_ended(store)
        self.shrink()
        return again

    def committable(self, missing: Mapping[TopicPartition, int] | None = None) -> dict[TopicPartition, int]:
        """Next offsets whose states are written and that the broker does not know yet.

        `missing` are the first offsets by partition that are not answered although later ones are: no commit passes them.
        """
        unsaved = {partition for entry in self._dirty.values() for partition in entry.unsaved}
        ends = {p: min(end, (missing or {}).get(p, end)) for p, end in self.positions.items() if p not in unsaved}
        return {p: end for p, end in ends.items() if end != self.durable.get(p) or p in self.refused}

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
        ttl_s = ENDED_S if entry.state is None else self.ttl_s
        offsets = {partition: entry.seen[partition] for partition in epochs}
        return Write(key, entry.stored, entry.state, offsets, epochs, ttl_s, self._since)

    def _load(self, keys: Sequence[str]) -> list[Entry[S]]:
        store = self.store
        if store is None:
            found: list[Stored[S]] = [Stored() for _ in keys]
        else:
            found = self._ask(lambda: store.load_all(keys)) if keys else []
        return [self._take(key, stored) for key, stored in zip(keys, found, strict=True)]

    def _take(self, key: str, stored: Stored[S]) -> Entry[S]:
        if stored.reason is not None:
            # Without its state nothing was seen: tables are read into it again, as into a new one.
            log.error("the stored state of %r cannot be read, it starts cold: %s", key, stored.reason)
            CONFLICTS.labels(self.agent, "unreadable").inc()
            stored = replace(stored, offsets={})
        epochs, since = stored.epochs, self._since
        seen = {p: n if epochs.get(p, 0) >= since.get(p, 0) else NOTHING_SEEN for p, n in stored.offsets.items()}
        self._limits.note(key, stored.state)
        self._limits.expires(key, stored.expires_at)
        return self._cache.put(key, Entry(stored, stored.state, seen, held=set(self._epochs)))

    def _drop(self, key: str) -> None:
        self._cache.drop(key)
        self._dirty.pop(key, None)

    def _index_new(self, store: StateStore[S]) -> None:
        """A key stands in the index before its first state does, or a crash between the two would hide it from ticks."""
        if new := self.keys.new:
            self._ask(lambda: store.index.change(self._epochs, new, {}))
            new.clear()

    def _unindex_ended(self, store: StateStore[S]) -> None:
        if ended := self.keys.removable(self._dirty):
            self._ask(lambda: store.index.change(self._epochs, {}, ended))
            self.keys.removed(ended)

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask the store, at most once in a while if it does not answer: each try costs its timeout."""
        if self.fault is not None and time.monotonic() < self._again_at:
            raise copy(self.fault)
        try:
            return question()
        except StoreUnavailable as exc:
            self.fault, self._again_at = copy(exc), time.monotonic() + STORE_RETRY_S
            raise
