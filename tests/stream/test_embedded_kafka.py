"""The embedded broker: served to any client, with faults, and gone when it is closed."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
from pathlib import Path

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient

from qstream.config import is_embedded
from qstream.embedded import kafka as embedded
from qstream.embedded.kafka import EmbeddedKafka
from qstream.errors import ConfigError

COUNTING_CONSUMER = """
import sys, confluent_kafka
consumer = confluent_kafka.Consumer({"bootstrap.servers": sys.argv[1], "group.id": sys.argv[2], "log_level": 0,
                                     "auto.offset.reset": "earliest"})
consumer.subscribe([sys.argv[3]])
seen = [record.value().decode() for _ in range(int(sys.argv[4])) if (record := consumer.poll(120.0))]
consumer.close()
print(",".join(seen))
"""


def metadata(bootstrap_servers: str) -> confluent_kafka.admin.ClusterMetadata:
    return AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0}).list_topics(timeout=60.0)


def producer(bootstrap_servers: str, **settings: object) -> confluent_kafka.Producer:
    return confluent_kafka.Producer({"bootstrap.servers": bootstrap_servers, "log_level": 0, **settings})


def accepts(bootstrap_servers: str) -> bool:
    host, port = bootstrap_servers.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_a_record_comes_back_with_key_headers_and_timestamp(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("round.trip", 1)
    sender = producer(embedded_kafka.bootstrap_servers, **{"compression.type": "lz4", "enable.idempotence": True})
    sender.produce("round.trip", b"value", b"key", headers={"ce_id": b"1"}, timestamp=1234)
    assert sender.flush(120.0) == 0
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": embedded_kafka.bootstrap_servers, "group.id": "g", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe(["round.trip"])
    record = consumer.poll(120.0)
    consumer.close()
    assert record is not None
    assert record.error() is None
    assert (record.key(), record.value(), record.offset()) == (b"key", b"value", 0)
    assert record.headers() == [("ce_id", b"1")]
    assert record.timestamp() == (confluent_kafka.TIMESTAMP_CREATE_TIME, 1234)


def test_topics_have_the_partitions_asked_for() -> None:
    with EmbeddedKafka({"one": 1, "twelve": 12}, default_partitions=3) as broker:
        broker.create_topic("three")
        topics = metadata(broker.bootstrap_servers).topics
        assert {name: len(topic.partitions) for name, topic in topics.items()} == {"one": 1, "twelve": 12, "three": 3}


def test_it_listens_on_loopback_only(embedded_kafka: EmbeddedKafka) -> None:
    assert embedded_kafka.bootstrap_servers.startswith("127.0.0.1:")
    assert {broker.host for broker in metadata(embedded_kafka.bootstrap_servers).brokers.values()} == {"127.0.0.1"}


def test_its_cluster_id_distinguishes_it_from_a_real_broker(embedded_kafka: EmbeddedKafka, kafka: str) -> None:
    assert is_embedded(metadata(embedded_kafka.bootstrap_servers).cluster_id)
    assert not is_embedded(metadata(kafka).cluster_id)
    assert not is_embedded(None)


def test_two_groups_in_other_processes_each_read_all(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("shared", 1)
    sender = producer(embedded_kafka.bootstrap_servers)
    for number in range(5):
        sender.produce("shared", str(number).encode())
    assert sender.flush(120.0) == 0
    command = [sys.executable, "-c", COUNTING_CONSUMER, embedded_kafka.bootstrap_servers]
    readers = [subprocess.Popen([*command, group, "shared", "5"], stdout=subprocess.PIPE, text=True) for group in ("a", "b")]
    assert [reader.communicate()[0].strip() for reader in readers] == ["0,1,2,3,4"] * 2


def test_a_record_sent_while_the_broker_is_down_arrives_when_it_is_up(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("faults", 1)
    sender = producer(embedded_kafka.bootstrap_servers, **{"reconnect.backoff.max.ms": 200})
    embedded_kafka.set_broker_down()
    sender.produce("faults", b"late")
    assert sender.flush(0.5) == 1
    embedded_kafka.set_broker_up()
    assert sender.flush(120.0) == 0


@pytest.mark.parametrize(("name", "partitions"), [("twice", 1), ("none", 0), ("negative", -1)])
def test_a_topic_that_cannot_be_is_refused_by_name(embedded_kafka: EmbeddedKafka, name: str, partitions: int) -> None:
    embedded_kafka.create_topic("twice", 1)
    with pytest.raises(ConfigError, match=name):
        embedded_kafka.create_topic(name, partitions)


def test_an_unknown_broker_is_refused(embedded_kafka: EmbeddedKafka) -> None:
    with pytest.raises(ConfigError, match="broker 7"):
        embedded_kafka.set_broker_down(7)


def test_closing_twice_is_once_and_a_closed_broker_takes_no_calls() -> None:
    broker = EmbeddedKafka()
    assert accepts(broker.bootstrap_servers)
    broker.close()
    broker.close()
    assert not accepts(broker.bootstrap_servers)
    with pytest.raises(ConfigError, match="closed"):
        broker.create_topic("late", 1)


def test_a_forgotten_broker_is_closed_by_the_garbage_collector() -> None:
    broker = EmbeddedKafka()
    address = broker.bootstrap_servers
    del broker
    gc.collect()
    assert not accepts(address)


def test_a_refused_topic_at_construction_leaves_no_broker() -> None:
    with pytest.raises(ConfigError, match="bad"):
        EmbeddedKafka({"bad": 0})


def test_a_broker_that_is_closed_while_clients_work_ends() -> None:
    broker = EmbeddedKafka({"busy": 4})
    sender = producer(broker.bootstrap_servers, **{"message.timeout.ms": 2000})
    for number in range(1000):
        sender.produce("busy", str(number).encode())
    broker.close()
    assert sender.flush(120.0) == 0  # each record got its report: delivered, or timed out


def test_a_forked_copy_leaves_the_broker_to_its_parent() -> None:
    code = """
import os
from qstream.embedded.kafka import EmbeddedKafka, _self_test
broker = EmbeddedKafka()
if (child := os.fork()) == 0:
    broker.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
_self_test(broker.bootstrap_servers)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_librdkafka_is_reported_with_the_places_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "confluent_kafka"
    monkeypatch.setattr(confluent_kafka, "__file__", os.fspath(package / "__init__.py"))
    with pytest.raises(ConfigError, match=r"confluent_kafka\.libs") as refusal:
        embedded._librdkafka.__wrapped__()
    assert os.fspath(package) in str(refusal.value)
