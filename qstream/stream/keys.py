"""Keys: which keys this worker's partitions feed, with and without records since the start, so that ticks reach all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qstream.contract import TopicPartition

Names = dict[str, None]  # in the order in which they came


class Keys:
    """The keys of each of our partitions, as the index in the store has them or will have them after the next save.

    `wanted` is False for a module that does nothing by the clock: then nothing is kept. `taken` are the partitions whose index
    was read, `new` the keys that it lacks, `ended` those that it still has.
    """

    def __init__(self) -> None:
        self.wanted = False
        self.taken: set[TopicPartition] = set()
        self.new: dict[TopicPartition, Names] = {}
        self.ended: dict[TopicPartition, Names] = {}
        self._of: dict[TopicPartition, Names] = {}
        self._ticked: dict[str, int] = {}

    def all(self) -> list[str]:
        """Every key that one of our partitions feeds."""
        return list(dict.fromkeys(key for names in self._of.values() for key in names))

    def take(self, partition: TopicPartition, found: Iterable[str]) -> None:
        """Add a partition that has come to us, with the keys that the index has of it."""
        self._of[partition] = dict.fromkeys(found) | self._of.get(partition, {})
        self.taken.add(partition)
        self._ticked.clear()

    def release(self, partitions: Iterable[TopicPartition]) -> None:
        """Drop partitions that are not ours any more."""
        for partition in partitions:
            for table in (self._of, self.new, self.ended):
                table.pop(partition, None)
            self.taken.discard(partition)
            self._ticked.clear()

    def note(self, key: str, partitions: Iterable[TopicPartition]) -> None:
        """Take note of a key with a state that these partitions of ours feed."""
        for partition in partitions if self.wanted else ():
            known = self._of.setdefault(partition, {})
            if key not in known:
                known[key] = None
                self.new.setdefault(partition, {})[key] = None
            self.ended.get(partition, {}).pop(key, None)

    def end(self, key: str) -> None:
        """Take note of a key that has no state any more."""
        self._ticked.pop(key, None)
        for partition, known in self._of.items():
            if key in known:
                del known[key]
                self.new.get(partition, {}).pop(key, None)
                self.ended.setdefault(partition, {})[key] = None

    def wake(self, key: str) -> None:
        """A record of the key has come."""
        self._ticked.pop(key, None)

    def ticked(self, key: str, version: int) -> None:
        """The key has had its tick, which left this version of its state."""
        self._ticked[key] = version

    def is_idle(self, key: str, version: int) -> bool:
        """Whether neither a record nor another worker has touched the key since its last tick."""
        return self._ticked.get(key) == version

    def removable(self, unsaved: Mapping[str, object]) -> dict[TopicPartition, Names]:
        """The ended keys that may leave the index: those whose end is saved."""
        return {p: kept for p, names in self.ended.items() if (kept := {key: None for key in names if key not in unsaved})}

    def removed(self, gone: Mapping[TopicPartition, Names]) -> None:
        """The index has these ended keys no more."""
        for partition, names in gone.items():
            for key in names:
                self.ended.get(partition, {}).pop(key, None)
