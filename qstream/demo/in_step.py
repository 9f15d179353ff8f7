"""In step: how far an agent has come with what was published and how much it has answered, for scenes in step with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Final, Self

from confluent_kafka import TopicPartition as KafkaPartition

from agents.registry import Agent
from qstream.config import Settings
from qstream.stream.groups import group_client
from qstream.stream.partition import partition_of_key
from schemas.topics import Topic

ANSWER_S: Final = 60.0  # for a broker in this process, on a busy machine


class InStep:
    """Asks the broker for the records of some keys that the agent has committed, and for those that it has answered with."""

    def __init__(self, agent: Agent, settings: Settings, keys: Sequence[str]) -> None:
        self._client = group_client(settings, f"{settings.group_prefix}.{agent.name}")
        self._inputs = _of_keys((topic for topic in agent.topics if topic.role == "input"), keys)
        self._plans = _of_keys((topic for topic in agent.topics if topic.role == "plan"), keys)
        self._letters = [KafkaPartition(agent.dead_letters.name, at) for at in range(agent.dead_letters.partitions)]

    def processed(self) -> int:
        """Input records of which the processing is committed."""
        found = self._client.committed(self._inputs, timeout=ANSWER_S)
        return sum(max(0, int(at.offset)) for at in found)

    def plans(self) -> int:
        """Plans that the broker has."""
        return self._held(self._plans)

    def letters(self) -> int:
        """Dead letters that the broker has."""
        return self._held(self._letters)

    def _held(self, partitions: list[KafkaPartition]) -> int:
        return sum(int(self._client.get_watermark_offsets(at, timeout=ANSWER_S)[1]) for at in partitions)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client.close()


def _of_keys(topics: Iterable[Topic], keys: Sequence[str]) -> list[KafkaPartition]:
    """Where the records of the keys lie, each partition once."""
    places = {(topic.name, partition_of_key(key.encode(), topic.partitions)): None for topic in topics for key in keys}
    return [KafkaPartition(name, partition) for name, partition in places]
