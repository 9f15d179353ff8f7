"""KeyIndex: which keys each input partition feeds, so that a new owner finds those that send nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, cast

from qstream.contract import TopicPartition
from qstream.state.connection import Connection

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
        if not self._run(partition, epoch, [], []):
            return set()
        with self._redis.answers():  # in parts, because millions of keys at once would take longer than an answer may
            found = self._redis.client.hscan_iter(self._name(partition), count=PART)
            return {key.decode() for key, _ in found if key}

    def change(
        self,
        epochs: Mapping[TopicPartition, int],
        added: Mapping[TopicPartition, Iterable[str]],
        ended: Mapping[TopicPartition, Iterable[str]],
    ) -> None:
        """Add keys to their partitions and remove others; partitions without an epoch of ours are passed over."""
        for partition, epoch in epochs.items():
            new, gone = list(added.get(partition, ())), list(ended.get(partition, ()))
            if new or gone:
                self._run(partition, epoch, new, gone)

    def _run(self, partition: TopicPartition, epoch: int, added: list[str], ended: list[str]) -> bool:
        with self._redis.answers():
            arguments = [str(epoch), str(len(added)), *added, *ended]
            reply = cast("list[bytes]", self._redis.client.eval(_SCRIPT, 1, self._name(partition), *arguments))
        return reply[0] == b"ok"

    def _name(self, partition: TopicPartition) -> str:
        return f"qstream:{self._redis.module}:keys:{partition}"
