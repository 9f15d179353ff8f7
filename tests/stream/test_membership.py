"""Membership on a real broker: a worker is ready when its group knows it, with partitions or without."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
from confluent_kafka.admin import AdminClient

from qstream.testing.rig import Rig, wait_until


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_worker_that_gets_no_partition_is_ready_all_the_same(make_rig: Callable[..., Rig], protocol: str):
    rig = make_rig(partitions=1, group_protocol=protocol)
    with ExitStack() as running:
        threads = [running.enter_context(rig.loop(worker_id=f"worker-{n}")) for n in range(4)]
        statuses = wait_until(lambda: [found for found in [[t.loop.status() for t in threads]] if all(s.ready for s in found)])[0]
        wait_until(lambda: sum(t.loop.status().partitions for t in threads) == 2)
        assert all(status.running for status in statuses)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_worker_names_the_topics_that_it_waits_for_and_takes_them_up_soon_after_they_are_made(
    make_rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture, protocol: str
):
    rig = make_rig(partitions=2, group_protocol=protocol)
    late = rig.sample.pings
    rig.delete_topic(late)
    client = AdminClient({"bootstrap.servers": rig.bootstrap_servers})
    ours = {topic.name for topic in rig.sample.inputs}
    wait_until(lambda: client.list_topics(timeout=60).topics.keys() & ours == {rig.sample.gates.name})
    with rig.loop() as thread:
        wait_until(lambda: thread.loop.status().missing_topics == (late.name,))
        assert not thread.loop.status().ready
        warning = f"waiting for topics that the cluster lacks: {late.name}; create by: qstream topics apply"
        wait_until(lambda: any(warning in message for message in caplog.messages))
        rig.create_topic(late)
        wait_until(lambda: thread.loop.status().partitions == rig.sample.gates.partitions + late.partitions)
        assert thread.loop.status().missing_topics == ()


def test_a_worker_that_waits_for_a_topic_ends_on_demand(rig: Rig):
    rig.delete_topic(rig.sample.pongs)
    client = AdminClient({"bootstrap.servers": rig.bootstrap_servers})
    wait_until(lambda: rig.sample.pongs.name not in client.list_topics(timeout=60).topics)
    with rig.loop() as thread:
        wait_until(lambda: thread.loop.status().missing_topics == (rig.sample.pongs.name,))
    assert not thread.alive
