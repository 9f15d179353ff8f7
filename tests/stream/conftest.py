"""The rig of the stream tests: a sample agent on its own topics of the shared broker, and a Redis of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from qstream.embedded.redis import EmbeddedRedis
from qstream.stream.admin import apply_topics
from qstream.testing.rig import Rig
from schemas.topics import Topic
from tests.stream.notes import MakeTopic, note_topic
from tests.stream.registry import create_registry, delete_registry

MakeRig = Callable[..., Rig]


@pytest.fixture
def durable_redis() -> Iterator[EmbeddedRedis]:
    """A Redis that has its data again after a kill."""
    with EmbeddedRedis(append_only=True) as server:
        yield server


@pytest.fixture
def bare_kafka(local_kafka: str) -> str:
    """A broker without the topics of the registry; those of other tests may be there."""
    delete_registry(local_kafka)
    return local_kafka


@pytest.fixture
def registry_kafka(bare_kafka: str) -> str:
    """A broker with all topics of the registry, each of them empty."""
    create_registry(bare_kafka)
    return bare_kafka


@pytest.fixture
def make_rig(kafka: str, redis_server: EmbeddedRedis, topic_prefix: str) -> Iterator[MakeRig]:
    with ExitStack() as open_rigs:

        def make(**settings: Any) -> Rig:
            bootstrap, redis_url = settings.pop("bootstrap_servers", kafka), settings.pop("redis_url", redis_server.url)
            return open_rigs.enter_context(Rig(bootstrap, redis_url, topic_prefix, **settings))

        yield make


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig()


@pytest.fixture
def make_topic(kafka: str, topic_prefix: str) -> MakeTopic:
    """Make a topic of notes on the shared broker."""

    def make(name: str = "notes", **given: object) -> Topic:
        topic = note_topic(f"{topic_prefix}.{name}.v1", **given)
        (state,) = apply_topics(AdminClient({"bootstrap.servers": kafka}), [topic], 1)
        assert state.finding == "created", state
        return topic

    return make
