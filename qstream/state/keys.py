"""KeyIndex: which keys each input partition feeds, so that a new owner finds those that send nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from qstream.contract import TopicPartition
from qstream.state.connection import Command, Connection

_SCRIPT: Final = Path(__file__).with_name("keys.lua").read_text(encoding="utf-8")
PART: Final = 5000


class KeyIndex:
    """The keys of one module by input partition, one Redis hash a partition.

    A key is added before its first state is written and removed after its state has ended, so the index may hold a key
    without a state, and never lacks one with a state. An owner before the present one changes nothing.
    """

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    def take(self, partition: TopicPartition, epoch: int) -> set[str]:
        """Become the owner of a partition's index, and read its keys; none if a newer owner has it."""
        ((status, *_),) = self._redis.ask([self._script(partition, epoch, [], [])])
        return self.read(partition) if status == b"ok" else set()

    def read(self, partition: TopicPartition) -> set[str]:
        """The keys of a partition, whichever worker owns it."""
        name, cursor, found = self.name(partition), 0, set[str]()
        while True:  # in parts, because millions of keys at once would take longer than an answer may
            ((cursor, part),) = self._redis.ask([("HSCAN", name, cursor, "COUNT", PART)])
            found |= {key.decode() for key in part if key}
            if cursor == 0:
                return found

    def change(
        self,
        epochs: Mapping[TopicPartition, int],
        added: Mapping[TopicPartition, Iterable[str]],
        ended: Mapping[TopicPartition, Iterable[str]],
    ) -> None:
        """Add keys to their partitions and remove others; partitions without an epoch of ours are passed over."""
        commands = []
        for partition, epoch in epochs.items():
            new, gone = list(added.get(partition, ())), list(ended.get(partition, ()))
            if new or gone:
                commands.append(self._script(partition, epoch, new, gone))
        self._redis.ask(commands)

    def _script(self, partition: TopicPartition, epoch: int, added: list[str], ended: list[str]) -> Command:
        return ("EVAL", _SCRIPT, 1, self.name(partition), str(epoch), str(len(added)), *added, *ended)

    def name(self, partition: TopicPartition) -> str:
        """The Redis key of a partition's index."""
        return f"qstream:{self._redis.module}:keys:{partition}"
