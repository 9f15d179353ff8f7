"""A topic that is created again, or a log that was restored, on a real broker: what is new counts, though its offsets are old."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from confluent_kafka import KafkaException
from prometheus_client import REGISTRY
from redis import Redis

from qstream.errors import ConfigError
from qstream.testing.java_kafka import JavaKafka
from qstream.testing.rig import Rig, wait_until
from qstream.testing.sample import Ping, Tally
from schemas.topics import Topic

MakeRig = Callable[..., Rig]
OLD = [Ping.of("a", n) for n in range(5)]
NEW = [Ping.of("a", 100 + n) for n in range(9)]


def recreate(rig: Rig, topic: Topic) -> None:
    """Delete a topic and create it at once, as soon as the broker lets us."""
    rig.delete_topic(topic)

    def created() -> bool:
        with suppress(KafkaException):
            rig.create_topic(topic)
            return True
        return False

    def empty() -> bool:
        with suppress(KafkaException):
            return not any(rig.end_offsets(topic))
        return False

    wait_until(created)
    wait_until(empty)  # for a moment the broker still writes to the old log, and what it takes there is gone


def restarts(rig: Rig) -> float:
    labels = {"agent": rig.sample.name, "topic": rig.sample.pings.name}
    return REGISTRY.get_sample_value("qstream_partitions_restarted_total", labels) or 0.0


def newest(rig: Rig) -> list[int]:
    tally = rig.tally("a")
    return [] if tally is None else tally.recent.tolist()


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_topic_that_is_created_again_while_no_worker_runs_is_read_from_its_start(make_rig: MakeRig, delivery: str):
    rig = make_rig(partitions=2, delivery=delivery)
    rig.publish(OLD)
    with rig.loop():
        wait_until(lambda: rig.tally("a") == Tally.of(*OLD))
        wait_until(lambda: rig.committed_records() == len(OLD))
    assert restarts(rig) == 0
    recreate(rig, rig.sample.pings)
    rig.publish(NEW[:3])
    with rig.loop():
        wait_until(lambda: rig.tally("a") == Tally.of(*OLD, *NEW[:3]), saying=lambda: rig.tally("a"))
        wait_until(lambda: rig.committed_records() == 3)
    assert restarts(rig) == 2
    rig.publish(NEW[3:])
    with rig.loop():
        wait_until(lambda: rig.tally("a") == Tally.of(*OLD, *NEW), saying=lambda: rig.tally("a"))
    assert restarts(rig) == 2
    assert rig.letters() == []


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_topic_that_is_created_again_under_a_running_worker_loses_none_of_its_new_records(make_rig: MakeRig, delivery: str):
    rig = make_rig(partitions=1, delivery=delivery)
    rig.publish(OLD)
    with rig.loop():
        wait_until(lambda: rig.committed_records() == len(OLD))
        recreate(rig, rig.sample.pings)
        rig.publish(NEW)
        # Until the worker learns of it, it may count some of the new records at the place where it was; then all of them.
        wait_until(lambda: newest(rig) == [ping.values[0] for ping in NEW[-8:]], saying=lambda: rig.tally("a"))
        wait_until(lambda: rig.committed_records() == len(NEW))
    assert restarts(rig) == 1


@pytest.fixture(scope="module")
def own_kafka() -> Iterator[JavaKafka]:
    """A broker that may be restarted."""
    try:
        server = JavaKafka()
    except ConfigError as exc:
        pytest.skip(str(exc))
    with server:
        yield server


@pytest.mark.parametrize(
    "given",
    [{"static_membership": True}, {"delivery": "exactly_once", "group_protocol": "consumer"}],
    ids=["static", "transactions"],
)
def test_workers_go_on_with_a_topic_that_is_created_again_after_its_leader_has_changed(
    own_kafka: JavaKafka, make_rig: MakeRig, given: dict[str, object]
):
    """The old log has a higher leader epoch than the new one, which a Kafka client would wait for without end."""
    rig = make_rig(bootstrap_servers=own_kafka.bootstrap_servers, partitions=2, **given)
    own_kafka.restart()
    before = [Ping.of(key, n) for key in "abcdef" for n in (1, 2, 3)]
    with rig.loop(worker_id="worker-0"), rig.loop(worker_id="worker-1"):
        rig.publish(before)
        wait_until(lambda: rig.committed_records() == len(before), saying=rig.committed_records)
        recreate(rig, rig.sample.pings)
        after = [Ping.of(key, n) for key in "abcdef" for n in (4, 5)]
        rig.publish(after)
        wait_until(lambda: rig.committed_records() == len(after), saying=rig.committed_records)
        expected = {key: [1, 2, 3, 4, 5] for key in "abcdef"}
        assert {key: rig.tally(key).recent.tolist() for key in expected} == expected
    assert restarts(rig) == 2
    assert rig.letters() == []


def test_a_log_that_ends_before_the_offsets_of_the_states_is_read_from_its_start(rig: Rig):
    """As a cluster that was restored to an earlier time, with topics of the same identity."""
    rig.publish(OLD)
    with rig.loop():
        wait_until(lambda: rig.committed_records() == len(OLD))
    redis = Redis.from_url(rig.settings.redis_url.get_secret_value())
    (name,) = (name for name in redis.keys("qstream:{*}") if b":check-" not in name)
    (offset,) = [field for field in redis.hkeys(name) if field.startswith(b"offset:")]
    redis.hset(name, offset, 1000)
    redis.close()
    with rig.loop():
        rig.publish(NEW)
        wait_until(lambda: rig.tally("a") == Tally.of(*OLD, *OLD, *NEW), saying=lambda: rig.tally("a"))
    assert restarts(rig) == 1


def test_redis_that_is_away_when_a_created_topic_is_assigned_is_waited_for(make_rig: MakeRig):
    rig = make_rig(partitions=1)
    rig.publish(OLD)
    with rig.loop():
        wait_until(lambda: rig.committed_records() == len(OLD))
    recreate(rig, rig.sample.pings)
    rig.publish(NEW)
    redis = Redis.from_url(rig.settings.redis_url.get_secret_value())
    redis.client_pause(3000)
    with rig.loop():
        wait_until(lambda: rig.tally("a") == Tally.of(*OLD, *NEW), saying=lambda: rig.tally("a"))
    redis.close()
    assert restarts(rig) == 1
