"""Lag: records that are still to be read, whatever the log holds beside them: aborted, in an open transaction, or committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from prometheus_client import REGISTRY

from qstream.metrics import LAG
from qstream.stream.groups import group_state
from qstream.testing.rig import Rig, wait_until
from qstream.testing.sample import Ping, Tally

MakeRig = Callable[..., Rig]


def next_lag(rig: Rig) -> float:
    """What the worker says of its pings the next time that it says it."""
    labels = {"agent": rig.sample.name, "topic": rig.sample.pings.name}
    LAG.labels(**labels).set(-1)
    found = -1.0

    def is_said() -> bool:
        nonlocal found
        found = REGISTRY.get_sample_value("qstream_consumer_lag_records", labels)
        return found >= 0

    wait_until(is_said)
    return found


def group_lag(rig: Rig) -> int:
    """What `qstream doctor` says of the group."""
    client = AdminClient({"bootstrap.servers": rig.bootstrap_servers, "log_level": 0})
    return group_state(client, rig.settings, rig.group, rig.sample.inputs).lag


@pytest.fixture
def upstream(kafka: str, topic_prefix: str) -> Producer:
    """A producer whose records come in transactions."""
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": f"{topic_prefix}.upstream"})
    producer.init_transactions(120)
    return producer


def send(upstream: Producer, rig: Rig, values: Sequence[int]) -> None:
    """Send pings of one name in a transaction, which stays open."""
    upstream.begin_transaction()
    for value in values:
        upstream.produce(rig.sample.pings.name, Ping.of("a", value).encode(), b"a")
    upstream.flush(120)


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_records_of_an_aborted_transaction_are_no_lag(delivery: str, make_rig: MakeRig, upstream: Producer):
    rig = make_rig(partitions=1, delivery=delivery)
    with rig.loop():
        send(upstream, rig, range(3))
        upstream.commit_transaction(120)
        send(upstream, rig, range(50))
        upstream.abort_transaction(120)
        wait_until(lambda: rig.committed_records() == 3 + 1 + 50 + 1, saying=rig.committed)  # each transaction has a mark
        assert next_lag(rig) == 0
        assert group_lag(rig) == 0
    assert rig.tally("a") == Tally.of(*(Ping.of("a", value) for value in range(3)))


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_log_of_aborted_records_alone_is_no_lag(delivery: str, make_rig: MakeRig, upstream: Producer):
    rig = make_rig(partitions=1, delivery=delivery)
    send(upstream, rig, range(50))
    upstream.abort_transaction(120)
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 50 + 1, saying=rig.committed)
        assert next_lag(rig) == 0
        assert group_lag(rig) == 0


def test_records_of_an_open_transaction_are_no_lag_once_all_that_can_be_read_was_read(make_rig: MakeRig, upstream: Producer):
    rig = make_rig(partitions=1)
    with rig.loop() as worker:
        send(upstream, rig, range(50))
        wait_until(lambda: worker.loop.intake.at_end)
        assert next_lag(rig) == 0
        upstream.commit_transaction(120)
        wait_until(lambda: rig.committed_records() == 50 + 1, saying=rig.committed)


@pytest.mark.parametrize("new", [0, 5])
def test_a_worker_that_has_read_nothing_yet_is_behind_by_what_its_group_has_not_committed(new: int, make_rig: MakeRig):
    rig = make_rig(partitions=1)
    rig.publish([Ping.of("a", value) for value in range(30)])
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 30)
    rig.publish([Ping.of("a", value) for value in range(new)])
    with rig.loop(rig.processor()) as worker:
        worker.loop.controlled.paused = True  # before it joins
        wait_until(lambda: worker.loop.intake.assigned)
        assert next_lag(rig) == new
        assert rig.committed_records() == 30
