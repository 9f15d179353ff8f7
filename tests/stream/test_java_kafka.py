"""A real Kafka from Maven's jars: transactions, durability, and how it is found."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import confluent_kafka
import psutil
import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from qstream.errors import ConfigError
from qstream.testing.java_kafka import BrokerFailed, JavaKafka
from qstream.testing.kafka_jars import VERSIONS, KafkaHome, java_available, kafka_home
from qstream.testing.real_kafka import real_kafka


@pytest.fixture
def java() -> None:
    if (reason := java_available()) is not None:
        pytest.skip(reason)


@pytest.fixture
def cluster(java: None) -> Iterator[JavaKafka]:
    with JavaKafka() as running:
        yield running


@pytest.fixture
def real_home(java: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> KafkaHome:
    """A Kafka that is there; from here on the cache is an empty folder, and Maven serves that Kafka's jars.

    The stand-in for Maven refuses the newest version.
    """
    home = kafka_home()
    programs = tmp_path / "programs"
    with_program(
        programs,
        "mvn",
        f"""
        for word in "$@"; do case "$word" in
          -Dkafka.version={VERSIONS[0]}) echo "Could not find artifact"; exit 1;;
          -DoutputDirectory=*) target="${{word#*=}}";;
        esac; done
        cp {home.folder}/libs/*.jar "$target"
        """,
    )
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("QSTREAM_KAFKA_CACHE", str(tmp_path / "cache"))
    return home


def create(bootstrap_servers: str, *topics: NewTopic) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    for made in admin.create_topics(list(topics)).values():
        made.result(120.0)


def produce(bootstrap_servers: str, topic: str, values: Sequence[bytes], **settings: object) -> None:
    failures: list[object] = []
    sender = confluent_kafka.Producer(
        {"bootstrap.servers": bootstrap_servers, "enable.idempotence": True, "log_level": 0, **settings}
    )
    for value in values:
        sender.produce(topic, value, on_delivery=lambda error, _: failures.append(error) if error else None)
    assert sender.flush(120.0) == 0
    assert failures == []


def consume(bootstrap_servers: str, topic: str, count: int, isolation: str = "read_committed") -> list[bytes]:
    """Read ``count`` records, and then for a moment more, so that a record too many is seen."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": f"{topic}.{isolation}",
            "auto.offset.reset": "earliest",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    consumer.subscribe([topic])
    values: list[bytes] = []
    while record := consumer.poll(120.0 if len(values) < count else 0.5):
        assert record.error() is None
        values.append(record.value())
    consumer.close()
    return values


def with_program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(stat.S_IRWXU)


def test_records_come_back_in_order(kafka: str, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.order"
    create(kafka, NewTopic(topic, 1))
    sent = [str(number).encode() for number in range(1000)]
    produce(kafka, topic, sent)
    assert consume(kafka, topic, 1000) == sent


def test_topics_are_created_with_partitions_and_settings_and_not_by_accident(kafka: str, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.compacted"
    create(kafka, NewTopic(topic, 6, config={"cleanup.policy": "compact"}))
    admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
    assert len(admin.list_topics(topic, timeout=60.0).topics[topic].partitions) == 6
    resource = ConfigResource(ResourceType.TOPIC, topic)
    settings = admin.describe_configs([resource])[resource].result(120.0)
    assert settings["cleanup.policy"].value == "compact"
    with pytest.raises(confluent_kafka.KafkaException, match="TOPIC_ALREADY_EXISTS"):
        create(kafka, NewTopic(topic, 6))


def test_readers_of_committed_records_see_neither_aborted_nor_fenced_ones(kafka: str, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.transactions"
    create(kafka, NewTopic(topic, 1))
    settings = {"bootstrap.servers": kafka, "transactional.id": topic_prefix, "log_level": 0}
    first = confluent_kafka.Producer(settings)
    first.init_transactions(120.0)
    for value, commit in ((b"aborted", False), (b"committed", True)):
        first.begin_transaction()
        first.produce(topic, value)
        first.flush(120.0)
        (first.commit_transaction if commit else first.abort_transaction)(120.0)
    first.begin_transaction()
    first.produce(topic, b"of a zombie")
    first.flush(120.0)

    second = confluent_kafka.Producer(settings)
    second.init_transactions(120.0)
    second.begin_transaction()
    second.produce(topic, b"of its successor")
    second.commit_transaction(120.0)
    with pytest.raises(confluent_kafka.KafkaException) as refusal:
        first.commit_transaction(120.0)
    assert refusal.value.args[0].code() == confluent_kafka.KafkaError._FENCED
    assert consume(kafka, topic, 2) == [b"committed", b"of its successor"]
    everything = [b"aborted", b"committed", b"of a zombie", b"of its successor"]
    assert consume(kafka, topic, 4, "read_uncommitted") == everything


def test_acknowledged_records_survive_each_end_of_the_only_node(cluster: JavaKafka) -> None:
    create(cluster.bootstrap_servers, NewTopic("kept", 1))
    for value, end in ((b"before a kill", cluster.kill), (b"before a shutdown", cluster.terminate)):
        produce(cluster.bootstrap_servers, "kept", [value])
        pid = cluster.pids[0]
        end()
        assert not psutil.pid_exists(pid)
        cluster.restart()
    produce(cluster.bootstrap_servers, "kept", [b"after"])
    assert consume(cluster.bootstrap_servers, "kept", 3) == [b"before a kill", b"before a shutdown", b"after"]


def test_a_cluster_finds_the_data_that_an_earlier_one_left_in_the_folder(java: None, tmp_path: Path) -> None:
    with JavaKafka(directory=tmp_path) as earlier:
        create(earlier.bootstrap_servers, NewTopic("left", 1))
        produce(earlier.bootstrap_servers, "left", [b"value"])
    with JavaKafka(directory=tmp_path) as later:
        assert consume(later.bootstrap_servers, "left", 1) == [b"value"]


def test_three_nodes_take_records_while_one_is_dead_and_list_it_when_it_is_back(java: None) -> None:
    with JavaKafka(3) as cluster:
        create(cluster.bootstrap_servers, NewTopic("replicated", 3))
        produce(cluster.bootstrap_servers, "replicated", [b"all"])
        cluster.kill(1)
        produce(cluster.bootstrap_servers, "replicated", [b"two of three"], acks="all")
        cluster.start()
        address = cluster.bootstrap_servers.split(",")[1]
        listed = AdminClient({"bootstrap.servers": address, "log_level": 0}).list_topics(timeout=60.0)
        assert set(listed.brokers) == {1, 2, 3}
        assert sorted(consume(cluster.bootstrap_servers, "replicated", 2)) == [b"all", b"two of three"]


def test_it_dies_with_a_killed_parent(java: None, orphaned: Callable[[str], int]) -> None:
    kafka_home()
    code = "from qstream.testing.java_kafka import JavaKafka\nk = JavaKafka()\nprint(k.pids[0], flush=True)"
    pid = orphaned(code)
    deadline = time.monotonic() + 120.0
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"broker {pid} still runs"
        time.sleep(0.05)


def test_a_closed_cluster_removes_its_folder_and_does_not_start_again(cluster: JavaKafka) -> None:
    folder = Path(psutil.Process(cluster.pids[0]).cwd())
    cluster.close()
    cluster.close()
    assert not folder.exists()
    with pytest.raises(ConfigError, match="closed"):
        cluster.restart()


def test_a_cluster_of_no_nodes_is_refused() -> None:
    with pytest.raises(ConfigError, match="nodes"):
        JavaKafka(0)


def test_a_broker_that_cannot_start_is_reported_with_its_log(java: None) -> None:
    with pytest.raises(BrokerFailed, match="no-such-flag"):
        JavaKafka(jvm_flags=["-XX:no-such-flag"])


def test_a_java_that_cannot_make_a_class_archive_starts_a_broker_without(real_home: KafkaHome, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / VERSIONS[0]
    folder.mkdir(parents=True)
    for part in ("libs", "template"):
        (folder / part).symlink_to(real_home.folder / part)
    kafka_home().archive.touch()  # the mark that an attempt failed
    with JavaKafka() as cluster:
        assert not any("SharedArchiveFile" in word for word in psutil.Process(cluster.pids[0]).cmdline())


def test_the_next_version_is_fetched_in_full_when_maven_refuses_one(real_home: KafkaHome, tmp_path: Path) -> None:
    home = kafka_home()
    assert home.folder == tmp_path / "cache" / VERSIONS[1]
    assert len(home.class_path.split(":")) == len(real_home.class_path.split(":"))
    assert (home.template / "meta.properties").is_file()
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [VERSIONS[1]]


def test_two_runs_that_fetch_at_once_end_with_one_folder(real_home: KafkaHome, tmp_path: Path) -> None:
    code = "from qstream.testing.kafka_jars import kafka_home; print(kafka_home().folder)"
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert {run.communicate()[0].strip() for run in runs} == {str(tmp_path / "cache" / VERSIONS[1])}
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [VERSIONS[1]]


def test_maven_that_serves_nothing_is_named_with_its_answers(java: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_program(tmp_path / "programs", "mvn", "echo no route to the repository; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}/programs:{os.environ['PATH']}")
    monkeypatch.setenv("QSTREAM_KAFKA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match=f"{VERSIONS[-1]}: no route to the repository"):
        kafka_home()


@pytest.mark.parametrize(
    ("programs", "reason"),
    [
        ({}, "no java"),
        ({"java": """echo 'openjdk version "1.8.0_392"' >&2"""}, "is Java 1:"),
        ({"java": """echo 'openjdk version "11.0.20"' >&2""", "mvn": "exit 1"}, "is Java 11:"),
        ({"java": """echo 'openjdk version "21" 2023-09-19' >&2"""}, "no mvn on PATH"),
        ({"java": """echo 'openjdk version "21" 2023-09-19' >&2""", "mvn": "exit 1"}, None),
    ],
)
def test_what_is_missing_for_a_java_kafka_is_told(
    programs: dict[str, str], reason: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, script in programs.items():
        with_program(tmp_path / "programs", name, script)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    monkeypatch.setenv("QSTREAM_KAFKA_CACHE", str(tmp_path / "cache"))
    missing = java_available()
    assert missing is None if reason is None else reason in (missing or "")


def test_a_given_address_is_taken_as_the_real_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSTREAM_TEST_KAFKA", "broker.example:9092")
    with real_kafka() as address:
        assert address == "broker.example:9092"


def test_no_real_broker_is_reported_with_all_reasons(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("QSTREAM_TEST_KAFKA", "JAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="QSTREAM_TEST_KAFKA is not set; no docker on PATH; no Java Kafka: no java"):
        real_kafka().__enter__()
