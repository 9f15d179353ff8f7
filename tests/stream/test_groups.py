"""Groups: who reads outside one leaves none behind on the broker."""

from __future__ import annotations

import threading

import pytest
from confluent_kafka.admin import AdminClient

from qstream.embedded.redis import EmbeddedRedis
from qstream.stream.client import PlanSubscriber
from qstream.stream.read import follow, read_all
from qstream.stream.tables import Tables
from qstream.testing.rig import Rig, wait_until
from qstream.testing.sample import Ping, Pong
from tests.conftest import running_kafka


@pytest.fixture
def own_rig(redis_server: EmbeddedRedis, topic_prefix: str):
    """A rig on a broker of its own."""
    with running_kafka(own=True) as address, Rig(address, redis_server.url, topic_prefix, partitions=1) as rig:
        yield rig


def test_readers_outside_a_group_leave_none(own_rig: Rig):
    sample, settings = own_rig.sample, own_rig.settings
    own_rig.publish([Ping.of("a", 1)])
    assert list(read_all(settings, sample.pings.name))
    following = follow(settings, sample.pings.name, from_start=True)
    wait_until(lambda: next(following))
    following.close()
    tables = Tables(settings, [sample.gates])
    tables.read(threading.Event())
    tables.close()
    with PlanSubscriber(sample.pongs, Pong, settings.bootstrap_servers, settings=settings) as plans:
        plans.poll(0.2)
    client = AdminClient({"bootstrap.servers": settings.bootstrap_servers})

    def groups() -> list[str]:
        return [group.group_id for group in client.list_consumer_groups().result().valid]

    with own_rig.loop():
        wait_until(lambda: own_rig.group in groups())
        assert groups() == [own_rig.group]
