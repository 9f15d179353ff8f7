"""A partition that was paused when it was lost is read again when it comes back."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from qstream.config import load_settings
from qstream.contract import TopicPartition
from qstream.stream.consume import Intake
from qstream.testing.rig import wait_until


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_partition_lost_while_it_was_held_is_read_again_when_it_comes_back(
    kafka: str, topic_prefix: str, protocol: str
) -> None:
    topic = f"{topic_prefix}.in.v1"
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(topic, 1)])[topic].result()
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(topic, b"record")
    producer.flush(120.0)
    settings = load_settings(bootstrap_servers=kafka, group_prefix=topic_prefix, group_protocol=protocol)
    intake = Intake(settings, "pauses", [topic])
    intake.join()
    try:
        assert read(intake) == [0]
        intake.hold(TopicPartition(topic, 0), 0, 600.0)
        intake._consumer.unsubscribe()  # the revocation comes as in any rebalance
        meanwhile: list[object] = []
        wait_until(lambda: meanwhile.extend(intake.poll(0.1)) or not intake.assigned)
        assert meanwhile == []
        intake.join()
        assert read(intake) == [0]
    finally:
        intake.close()


def read(intake: Intake) -> list[int]:
    """Offsets of the first batch that comes."""
    return [message.offset() for message in wait_until(lambda: intake.poll(0.1))]
