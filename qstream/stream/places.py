"""Places: partitions and offsets in the client's types, in ours, and in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from confluent_kafka import Message
from confluent_kafka import TopicPartition as KafkaPartition

from qstream.contract import TopicPartition, partition_of


def came_from(message: Message) -> TopicPartition:
    """The partition of a message."""
    return partition_of(message.topic(), message.partition())


def own(partitions: Iterable[KafkaPartition]) -> set[TopicPartition]:
    """The same partitions in our type."""
    return {TopicPartition(p.topic, p.partition) for p in partitions}


def names(partitions: Iterable[TopicPartition]) -> str:
    """For people: ``topic 0 1 2, ...``."""
    by_topic: dict[str, list[str]] = {}
    for topic, partition in sorted(partitions):
        by_topic.setdefault(topic, [topic]).append(str(partition))
    return ", ".join(" ".join(words) for words in by_topic.values()) or "nothing"


def kafka_partitions(offsets: Mapping[TopicPartition, int]) -> list[KafkaPartition]:
    """The same offsets in the client's type."""
    return [KafkaPartition(p.topic, p.partition, offset) for p, offset in offsets.items()]
