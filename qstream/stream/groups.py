"""Groups: what a consumer group is doing, and how far it is behind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, ConsumerGroupState, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription

from qstream.config import Settings
from qstream.errors import Transient
from qstream.stream.cause import Cause, denied, open_client
from qstream.stream.faults import raise_first
from schemas.topics import Topic

_STARTING = {KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR}


@dataclass(frozen=True, slots=True)
class GroupState:
    """State in Kafka's word, members, and records behind the end of its topics' partitions with a committed offset."""

    group: str
    state: str
    members: int
    lag: int


def group_client(settings: Settings, group: str) -> Consumer:
    """A client that asks for the group's offsets and sets them without being a member. To be closed.

    Not the admin client: librdkafka 2.16 may crash in its answer when the coordinator reports an error.
    """
    config: dict[str, object] = {"bootstrap.servers": settings.bootstrap_servers, "group.id": group, "enable.auto.commit": False}
    return open_client(Consumer, settings, config | settings.kafka_properties(), Cause())


def group_state(
    client: AdminClient, settings: Settings, group: str, topics: Sequence[Topic], timeout_s: float = 10.0
) -> GroupState:
    """Describe one group, ``absent`` if it never was; `Transient` names a right that is missing, or that no broker answers:
    the embedded one never does."""
    try:
        described = _described(client, group, timeout_s)
        if described.state == ConsumerGroupState.DEAD:
            return GroupState(group, "absent", 0, 0)
        lag = _lag(settings, group, topics, timeout_s)
    except KafkaException as exc:
        if exc.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return GroupState(group, "absent", 0, 0)
        if right := denied(exc.args[0], group=f"DESCRIBE on group {group}", topic="DESCRIBE on the topics of the agent"):
            raise Transient(right) from exc
        raise Transient(f"group {group}: {exc.args[0].name()}: {exc.args[0].str()}") from exc
    return GroupState(group, described.state.name.lower(), len(described.members), lag)


def _described(client: AdminClient, group: str, timeout_s: float) -> ConsumerGroupDescription:
    """Ask until the coordinator is ready: on a fresh cluster the first question makes one."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return client.describe_consumer_groups([group], request_timeout=timeout_s)[group].result()
        except KafkaException as exc:
            if exc.args[0].code() not in _STARTING or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _lag(settings: Settings, group: str, topics: Sequence[Topic], timeout_s: float) -> int:
    consumer = group_client(settings, group)
    try:
        known = consumer.list_topics(timeout=timeout_s).topics
        names = [topic.name for topic in topics if topic.name in known]
        asked = [KafkaPartition(name, partition) for name in names for partition in known[name].partitions]
        answers = consumer.committed(asked, timeout=timeout_s) if asked else []
        raise_first(answers)
        committed = [answer for answer in answers if answer.offset >= 0]
        return sum(max(0, consumer.get_watermark_offsets(at, timeout=timeout_s)[1] - at.offset) for at in committed)
    finally:
        consumer.close()
