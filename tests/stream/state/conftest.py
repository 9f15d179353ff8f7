"""A Redis for the tests of one file, and stores on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
import redis

from qstream.embedded.redis import EmbeddedRedis
from qstream.state.store import StateStore
from tests.stream.state.counts import PATIENCE_MS, Counts

HASTE_MS: Final = 1500


@pytest.fixture(scope="module")
def shared_server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def redis_at(shared_server: EmbeddedRedis) -> Iterator[EmbeddedRedis]:
    """A running, empty Redis; a test may pause or kill it, or change its settings to those that are reset here."""
    shared_server.start()
    with redis.Redis.from_url(shared_server.url) as client:
        client.replicaof("NO", "ONE")
        client.config_set("maxmemory", 0)
        client.flushall()
    yield shared_server
    shared_server.resume()


@pytest.fixture
def raw(redis_at: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_at.url) as client:
        yield client


@pytest.fixture
def store(redis_at: EmbeddedRedis) -> Iterator[StateStore[Counts]]:
    with StateStore(redis_at.url, "m", Counts, PATIENCE_MS) as found:
        yield found


@pytest.fixture
def hasty_store(redis_at: EmbeddedRedis) -> Iterator[StateStore[Counts]]:
    """A store for tests that pause Redis: it soon gives up."""
    with StateStore(redis_at.url, "m", Counts, HASTE_MS) as found:
        yield found
