"""Cache: the states in memory, bounded in keys and in bytes."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from qstream.contract import TopicPartition
from qstream.state.write import Stored
from schemas.frame import Frame

S = TypeVar("S", bound=Frame)
FIRST_ROOM = 16
COPIES = 2  # a state is held as its frame, and packed, to find what changes


@dataclass(eq=False)
class Entry(Generic[S]):
    """The state of one key: as stored, as it is now, and the offsets that the present one has seen.

    `held` are the partitions that were ours when it was loaded, `fed_by` those whose records have asked for it, `unsaved`
    those with records that the present state has seen and the stored one has not. `dirty` says that the two differ.
    """

    stored: Stored[S]
    state: S | None
    seen: dict[TopicPartition, int] = field(default_factory=dict)
    dirty: bool = False
    held: set[TopicPartition] = field(default_factory=set)
    fed_by: set[TopicPartition] = field(default_factory=set)
    unsaved: set[TopicPartition] = field(default_factory=set)


class Cache(Generic[S]):
    """Entries by key, the least recently used first. Dirty ones are never evicted, nor is the newest."""

    def __init__(self, max_keys: int, max_bytes: int) -> None:
        self.max_keys = max_keys
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[str, Entry[S]] = OrderedDict()
        self._sizes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[str, Entry[S]]]:
        return iter(list(self._entries.items()))

    def get(self, key: str) -> Entry[S] | None:
        """The entry of a key, unless the store deletes its state by now."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires_at = entry.stored.expires_at
        if expires_at is not None and not entry.dirty and time.monotonic() >= expires_at:
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: str, entry: Entry[S]) -> Entry[S]:
        """Keep an entry, or take note of what is stored of it by now."""
        size = COPIES * entry.stored.size
        self.bytes += size - self._sizes.get(key, 0)
        self._entries[key], self._sizes[key] = entry, size
        return entry

    def drop(self, key: str) -> None:
        """Remove an entry; the next use loads the state."""
        if self._entries.pop(key, None) is not None:
            self.bytes -= self._sizes.pop(key)

    def room(self) -> int:
        """How many states of the mean size in memory take a quarter of `max_bytes`; a few where none is in memory."""
        if not self._entries:
            return FIRST_ROOM
        return max(1, min(self.max_keys, self.max_bytes // 4 // max(1, self.bytes // len(self))))

    def shrink(self) -> int:
        """Evict until the bounds hold, or a dirty entry comes first; how many went."""
        before = len(self)
        while len(self) > 1 and (len(self) > self.max_keys or self.bytes > self.max_bytes):
            key, entry = next(iter(self._entries.items()))
            if entry.dirty:
                break
            self.drop(key)
        return before - len(self)
