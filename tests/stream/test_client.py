"""Publisher and PlanSubscriber against a real broker: times, compression, one key's plans, bounds, topics that change."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from confluent_kafka import Message
from confluent_kafka.admin import AdminClient, NewPartitions

from qstream.config import Settings
from qstream.contract import Event, Record
from qstream.errors import ConfigError, Transient
from qstream.stream.admin import apply_topics, inspect_topics
from qstream.stream.client import VERSION_AHEAD_MS, PlanSubscriber, Publisher
from qstream.stream.partition import partition_of_key
from qstream.stream.produce import Outbox
from qstream.stream.read import follow, frame_of, read_all
from qstream.stream.tables import Tables
from qstream.testing.java_kafka import JavaKafka
from qstream.testing.rig import PATIENCE_S, wait_until
from schemas.experts import ExpertTopology
from schemas.frame import FrameError
from schemas.placement import PlacementPlan
from schemas.topics import Topic
from tests.stream.notes import MakeTopic, Note, note, note_topic, subscriber, versions
from tests.stream.raw_header import send_with_header

OLD_MS = 1_600_000_000_000
ATTRIBUTES_AT, CODEC_BITS = 21, 0b111  # of a record batch, Kafka's message format v2
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


@pytest.fixture
def publisher(kafka: str) -> Iterator[Publisher]:
    with Publisher(kafka) as publisher:
        yield publisher


def watch(messages: Iterator[Message | None], count: int) -> list[int]:
    """The versions of the next records, as `qstream watch` reads them."""
    return [frame_of(message, Note).version for message in islice(filter(None, messages), count)]


def test_a_plan_whose_headers_cannot_be_read_is_passed_over(kafka: str, make_topic: MakeTopic, publisher: Publisher):
    topic = make_topic(partitions=1)
    with subscriber(kafka, topic) as plans:
        send_with_header(kafka, topic.name, 0, b"m", note(version=1).encode(), b"\xff")
        publisher.publish(topic, note(version=2))
        publisher.flush()
        assert versions(plans, 1) == [2]
        assert plans.unreadable == 1


def test_a_plan_whose_version_is_far_ahead_is_passed_over_and_those_of_the_agent_are_taken(
    kafka: str, make_topic: MakeTopic, publisher: Publisher
):
    topic = Topic(make_topic(partitions=1).name, PlacementPlan, "model", "plan", "plans")
    now_ms = int(time.time() * 1000)
    with PlanSubscriber(topic, PlacementPlan, kafka) as plans:
        assert plans.wait_assigned()
        for version in (now_ms, 2**63 - 1, now_ms + VERSION_AHEAD_MS + 600_000, now_ms + 1):
            plan = PlacementPlan.example().model_copy(update={"version": version, "ttl_s": None})
            publisher.publish(topic, plan)
        publisher.flush()
        found: list[int] = []
        deadline = time.monotonic() + PATIENCE_S
        while len(found) < 2 and time.monotonic() < deadline:
            if (taken := plans.poll(0.1)) is not None:
                found.append(taken.version)
        assert found == [now_ms, now_ms + 1]
        assert plans.unreadable == 2


@pytest.mark.parametrize("group", [None, "again"])
def test_plans_of_a_topic_that_is_created_again_are_seen_though_places_and_ids_repeat(
    kafka: str, make_topic: MakeTopic, publisher: Publisher, group: str | None
):
    topic = make_topic(partitions=1, retention_ms=-1)  # else the broker deletes records with an old time at its next check
    own = {} if group is None else {"group": f"{topic.name}.{group}", "from_start": True}
    with subscriber(kafka, topic, **own) as plans:
        assert plans.wait_assigned()
        for n in range(1, 5):
            publisher.publish(topic, note(version=n), event_id=f"t/0/{n}", timestamp_ms=OLD_MS)
        publisher.publish(topic, note(version=9), event_id="t/0/1", timestamp_ms=OLD_MS)
        publisher.flush()
        assert versions(plans, 4) == [1, 2, 3, 4]
        wait_until(lambda: plans.poll(0.1) is None and plans.repeated == 1)
        admin = AdminClient({"bootstrap.servers": kafka})
        admin.delete_topics([topic.name])[topic.name].result()
        wait_until(lambda: apply_topics(admin, [topic], 1)[0].finding == "created")
        for n in range(1, 5):
            publisher.publish(topic, note(version=10 + n), event_id=f"t/0/{n}", timestamp_ms=OLD_MS + 1)
        publisher.flush()
        assert versions(plans, 4) == [11, 12, 13, 14]


def test_a_topic_that_is_created_again_after_its_leader_has_changed_is_read_by_all_readers(tmp_path: Path):
    """The old log has a higher leader epoch than the new one, which a Kafka client would wait for without end."""
    try:
        server = JavaKafka(directory=tmp_path)
    except ConfigError as exc:
        pytest.skip(str(exc))
    topic = note_topic("again.v1", partitions=1)
    with server:
        admin = AdminClient({"bootstrap.servers": server.bootstrap_servers})
        apply_topics(admin, [topic], 1)
        tables = Tables(Settings(bootstrap_servers=server.bootstrap_servers), [topic])
        with (
            Publisher(server.bootstrap_servers) as publisher,
            subscriber(server.bootstrap_servers, topic) as plans,
            subscriber(server.bootstrap_servers, topic, group="members", from_start=True) as member,
            closing(follow(Settings(bootstrap_servers=server.bootstrap_servers), topic.name)) as watched,
        ):
            publisher.publish(topic, note(version=1))
            publisher.flush()
            assert versions(plans, 1) == versions(member, 1) == watch(watched, 1) == [1]
            tables.read(threading.Event())
            server.restart()
            for version in (2, 3, 4):
                publisher.publish(topic, note("before", version=version))
            publisher.flush()
            assert versions(plans, 3) == versions(member, 3) == watch(watched, 3) == [2, 3, 4]  # so they know the new epoch
            wait_until(lambda: tables.changes() is not None and set(tables.rows[topic.name]) == {"m", "before"})
            admin.delete_topics([topic.name])[topic.name].result()
            wait_until(lambda: apply_topics(admin, [topic], 1)[0].finding == "created")
            for version in (5, 6):
                publisher.publish(topic, note("after", version=version))
            publisher.flush()
            assert versions(plans, 2) == versions(member, 2) == watch(watched, 2) == [5, 6]
            wait_until(lambda: tables.changes() is not None and set(tables.rows[topic.name]) == {"after"})
            member.close()
            publisher.publish(topic, note("later", version=7))
            publisher.flush()
            with subscriber(server.bootstrap_servers, topic, group="members") as successor:  # the group is where the new log is
                assert versions(successor, 1) == [7]
        tables.close()


def test_a_member_of_a_new_group_sees_what_is_published_once_it_has_its_partitions(
    kafka: str, make_topic: MakeTopic, publisher: Publisher
):
    topic = make_topic(partitions=1)
    publisher.publish(topic, note(version=1))
    publisher.flush()
    with subscriber(kafka, topic, group=f"{topic.name}.late") as plans:
        assert plans.wait_assigned(PATIENCE_S)
        publisher.publish(topic, note(version=2))
        publisher.flush()
        assert versions(plans, 1) == [2]


def test_a_replayed_record_keeps_its_time_and_one_without_a_time_has_now(kafka: str, make_topic: MakeTopic, publisher: Publisher):
    topic = make_topic(retention_ms=-1)
    before_ms = int(time.time() * 1000)
    publisher.publish(topic, note(version=1), timestamp_ms=OLD_MS)
    publisher.publish(topic, note(version=2))
    publisher.flush()

    old, new = read_all(Settings(bootstrap_servers=kafka), topic.name)

    assert old.timestamp()[1] == OLD_MS
    assert dict(old.headers())["ce_time"] == b"2020-09-13T12:26:40.000Z"
    assert new.timestamp()[1] >= before_ms


@pytest.mark.parametrize("timestamp_ms", [0, -1])
def test_a_time_that_the_client_would_take_for_now_is_refused(make_topic: MakeTopic, publisher: Publisher, timestamp_ms: int):
    with pytest.raises(ValueError, match=f"timestamp_ms must be a positive number of milliseconds, got {timestamp_ms}"):
        publisher.publish(make_topic(), note(), timestamp_ms=timestamp_ms)


def test_a_frame_of_another_class_than_the_topics_is_refused(make_topic: MakeTopic, publisher: Publisher):
    topic = make_topic()
    with pytest.raises(FrameError, match=r"must be Note, got ExpertTopology"):
        publisher.publish(topic, ExpertTopology.example())


def test_the_broker_stamps_a_topic_with_broker_time_and_a_topic_that_should_be_and_is_not_is_named(
    kafka: str, make_topic: MakeTopic, publisher: Publisher
):
    topic = make_topic(broker_time=True)
    before_ms = int(time.time() * 1000)
    publisher.publish(topic, note(), timestamp_ms=OLD_MS)
    publisher.flush()

    (record,) = read_all(Settings(bootstrap_servers=kafka), topic.name)
    assert record.timestamp()[1] >= before_ms - 1000
    client = AdminClient({"bootstrap.servers": kafka})
    plain = make_topic("plain")
    assert [state.finding for state in inspect_topics(client, [topic, plain])] == ["ok", "ok"]
    (state,) = inspect_topics(client, [note_topic(plain.name, broker_time=True)])
    assert state.finding == "differs"
    assert state.detail == "message.timestamp.type must be 'LogAppendTime', got 'CreateTime'"


def test_publisher_and_outbox_compress_by_topic_and_keep_the_order_within_each(tmp_path: Path):
    try:
        server = JavaKafka(directory=tmp_path)
    except ConfigError as exc:
        pytest.skip(str(exc))
    topics = [note_topic("own.v1", partitions=1)]
    topics += [note_topic(f"{codec}.v1", partitions=1, compression=codec) for codec in CODECS]
    dead = note_topic("dead.v1", partitions=1)
    # The content repeats itself, so that every codec makes it smaller: librdkafka sends what does not shrink as it is.
    frames = [note(version=version, text="x" * 150) for version in range(100)]
    with server:
        address = server.bootstrap_servers
        apply_topics(AdminClient({"bootstrap.servers": address}), [*topics, dead], 1)
        settings = Settings(bootstrap_servers=address)
        with Publisher(address) as publisher:
            for frame in frames[:50]:
                for topic in topics:
                    publisher.publish(topic, frame)
        outbox = Outbox(settings, "test", dead.name)
        outbox.send([event(topic, frame) for frame in frames[50:] for topic in topics], [])
        outbox.close(1.0)
        for topic in topics:
            assert [frame_of(record, Note).version for record in read_all(settings, topic.name)] == [*range(100)]
    codecs = {topic.name: codecs_of(tmp_path, topic.name) for topic in topics}
    assert codecs == {"own.v1": {CODECS["lz4"]}} | {f"{name}.v1": {code} for name, code in CODECS.items()}


def event(topic: Topic, frame: Note) -> Event:
    cause = Record("in", 0, frame.version, frame.model, frame, OLD_MS)
    return Event(topic, frame.model, cause.event_id(0), frame, cause)


def codecs_of(directory: Path, topic: str) -> set[int]:
    """The codecs of the record batches in the log of a topic's first partition."""
    (path,) = directory.glob(f"node1/data/{topic}-0/*.log")
    log, found, at = path.read_bytes(), set(), 0
    while len(log) > at + ATTRIBUTES_AT + 2 and (size := int.from_bytes(log[at + 8 : at + 12])):
        found.add(int.from_bytes(log[at + ATTRIBUTES_AT : at + ATTRIBUTES_AT + 2]) & CODEC_BITS)
        at += 12 + size
    return found


def test_a_subscriber_of_one_key_sees_only_that_keys_plans_whatever_the_partitions(
    kafka: str, make_topic: MakeTopic, publisher: Publisher
):
    topic = make_topic()
    models = [f"model-{n}" for n in range(12)]
    for version in (1, 2):
        for model in models:
            publisher.publish(topic, note(model, version))
    publisher.flush()
    lies = {record.key().decode(): record.partition() for record in read_all(Settings(bootstrap_servers=kafka), topic.name)}
    assert lies == {model: partition_of_key(model.encode(), 4) for model in models}

    for model in ("model-0", "model-1", "model-2"):
        with subscriber(kafka, topic, key=model, from_start=True) as plans:
            assert versions(plans, 2) == [1, 2]
            assert list(plans.latest) == [model]
            publisher.publish(topic, note("model-3", 3))
            publisher.publish(topic, note(model, 3))
            publisher.flush()
            assert versions(plans, 1) == [3]


def test_a_subscriber_without_group_sees_what_is_published_right_after_it_is_made_and_nothing_older(
    kafka: str, make_topic: MakeTopic, publisher: Publisher
):
    topic = make_topic()
    publisher.publish(topic, note(version=1))
    publisher.flush()
    for given in ({}, {"key": "m"}):
        with subscriber(kafka, topic, **given) as plans:
            assert plans.wait_assigned(0.0)
            publisher.publish(topic, note(version=2))
            publisher.flush()
            assert versions(plans, 1) == [2]


def test_a_subscriber_of_a_group_shares_its_partitions_and_takes_no_key(kafka: str, make_topic: MakeTopic, publisher: Publisher):
    topic = make_topic()
    with pytest.raises(ConfigError, match=r"key must be None with a group, .*got 'm'"):
        subscriber(kafka, topic, key="m", group="g")
    with subscriber("127.0.0.1:1", topic, group="g", settings=Settings(kafka={"log_level": "0"})) as plans:
        assert not plans.wait_assigned(0.1)
    with subscriber(kafka, topic, group=f"{topic.name}.group") as plans:
        assert plans.wait_assigned(PATIENCE_S)


def test_a_topic_that_is_absent_is_named(kafka: str, topic_prefix: str):
    with pytest.raises(Transient, match=rf"no topic {topic_prefix}.*qstream topics apply"):
        subscriber(kafka, note_topic(f"{topic_prefix}.none.v1"))


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [
        ({"max_keys": 3}, ["model-4", "model-0", "model-5"]),
        ({"max_bytes": 1000}, ["model-0", "model-5"]),
        ({"max_bytes": 1}, ["model-5"]),
        ({}, ["model-1", "model-2", "model-3", "model-4", "model-0", "model-5"]),
    ],
    ids=str,
)
def test_the_newest_plans_are_kept_within_a_bound_of_keys_and_of_bytes(
    kafka: str, make_topic: MakeTopic, publisher: Publisher, bounds: dict[str, int], kept: Sequence[str]
):
    topic = make_topic(partitions=1)
    sent = [note(f"model-{n}", 1, "x" * 250) for n in [*range(5), 0, 5]]
    assert all(len(frame.encode()) in range(334, 500) for frame in sent)  # two fit into 1,000 bytes, three do not
    for frame in sent:
        publisher.publish(topic, frame)
    publisher.flush()
    with subscriber(kafka, topic, from_start=True, **bounds) as plans:
        assert len(versions(plans, len(sent))) == len(sent)
        assert list(plans.latest) == kept


@pytest.mark.parametrize("alone", [True, False])
def test_a_publisher_and_a_subscriber_take_up_partitions_that_the_topic_gets_later(
    kafka: str, make_topic: MakeTopic, publisher: Publisher, alone: bool
):
    topic = make_topic()
    moving = next(
        key for key in map(str, range(1000)) if partition_of_key(key.encode(), 4) < 4 <= partition_of_key(key.encode(), 8)
    )
    with subscriber(kafka, topic, key=moving if alone else None) as plans:
        publisher.publish(topic, note(moving, 1))
        publisher.flush()
        assert versions(plans, 1) == [1]
        client = AdminClient({"bootstrap.servers": kafka})
        client.create_partitions([NewPartitions(topic.name, 8)])[topic.name].result(60)
        moved = partition_of_key(moving.encode(), 8)
        sent = 1

        def arrives_there() -> bool:
            nonlocal sent
            sent += 1
            publisher.publish(topic, note(moving, sent))
            publisher.flush()
            return any(message.partition() == moved for message in read_all(Settings(bootstrap_servers=kafka), topic.name))

        wait_until(arrives_there)
        assert sorted(versions(plans, sent - 1)) == [*range(2, sent + 1)]
