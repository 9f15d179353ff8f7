"""LogIndex: which log the stored offsets of each input partition belong to, so that those of another one do not count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qstream.contract import TopicPartition
from qstream.state.connection import Connection


class LogIndex:
    """The identity of each input partition's log, and the epoch since which it is that one; one Redis hash a module.

    A topic that was deleted and created again, or a cluster that was restored, begins its offsets again under the same name.
    Epochs rise, so an offset counts if it was written in the epoch `since` or a later one. An identity is
    ``<kind>:<id>``; identities of different kinds say nothing about each other.
    """

    def __init__(self, connection: Connection) -> None:
        self._redis = connection
        self._name = f"qstream:{connection.module}:logs"

    def take(self, identities: Mapping[TopicPartition, str], epoch: int) -> dict[TopicPartition, int]:
        """The epoch since which each partition has this log: 0 for the first that is known, `epoch` if it is another one now."""
        known = self.known()
        since: dict[TopicPartition, int] = {}
        changed: dict[TopicPartition, str] = {}
        for partition, identity in identities.items():
            start, before = known.get(partition, (0, ""))
            if is_another(identity, before):
                start, changed[partition] = epoch, identity
            elif identity != before and not before.startswith("topic:"):
                changed[partition] = identity  # the first one that is known, or one that says more
            since[partition] = start
        self._set({partition: (since[partition], identity) for partition, identity in changed.items()})
        return since

    def restart(self, partitions: Iterable[TopicPartition], epoch: int) -> None:
        """Have partitions begin again at this epoch, though their log has the identity that it had."""
        known = self.known()
        self._set({partition: (epoch, known.get(partition, (0, ""))[1]) for partition in partitions})

    def known(self) -> dict[TopicPartition, tuple[int, str]]:
        """The epoch and the identity of each partition."""
        (found,) = self._redis.ask([("HGETALL", self._name)])
        known = {}
        for field, value in found.items():
            topic, _, partition = field.decode(errors="replace").rpartition(":")
            since, _, identity = value.decode(errors="replace").partition(" ")
            if topic and partition.isdecimal() and since.isdecimal():
                known[TopicPartition(topic, int(partition))] = int(since), identity
        return known

    def _set(self, logs: Mapping[TopicPartition, tuple[int, str]]) -> None:
        if logs:
            pairs = [word for partition, (since, identity) in logs.items() for word in (str(partition), f"{since} {identity}")]
            self._redis.ask([("HSET", self._name, *pairs)])


def is_another(identity: str, before: str) -> bool:
    """Whether two identities are those of different logs, as far as they say."""
    return identity != before and identity.partition(":")[0] == before.partition(":")[0]
