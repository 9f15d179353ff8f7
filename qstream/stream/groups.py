"""Groups: what a consumer group is doing, and how far it is behind."""

from __future__ import annotations

from dataclasses import dataclass

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, OffsetSpec

from qstream.errors import Transient


@dataclass(frozen=True, slots=True)
class GroupState:
    """State in Kafka's word, members, and records behind the end of the partitions that have a committed offset."""

    group: str
    state: str
    members: int
    lag: int


def group_state(client: AdminClient, group: str, timeout_s: float = 10.0) -> GroupState:
    """Describe one group, ``absent`` if it never was; `Transient` if the broker does not tell: the embedded one never does."""
    try:
        described = client.describe_consumer_groups([group], request_timeout=timeout_s)[group].result()
        listed = client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)], request_timeout=timeout_s)
        committed = [found for found in listed[group].result().topic_partitions if found.offset >= 0]
        asked = {found: OffsetSpec.latest() for found in committed}
        ends = client.list_offsets(asked, request_timeout=timeout_s) if asked else {}
        high = {(at.topic, at.partition): future.result().offset for at, future in ends.items()}
    except KafkaException as exc:
        if exc.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return GroupState(group, "absent", 0, 0)
        raise Transient(f"group {group}: {exc.args[0].str()}") from exc
    lag = sum(max(0, high[found.topic, found.partition] - found.offset) for found in committed)
    return GroupState(group, described.state.name.lower(), len(described.members), lag)
