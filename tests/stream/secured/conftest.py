"""One broker and one Redis with TLS, passwords and access rights, and users with exactly the rights that a test gives them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from agents.registry import all_topics
from qstream.config import Settings
from qstream.errors import ConfigError
from qstream.stream.admin import apply_topics
from qstream.testing.rig import Rig, wait_until
from qstream.testing.sample import Ping
from qstream.testing.secured import CERTIFIED, CLIENTS, SecuredKafka, tls_redis
from tests.stream.secured.rights import Entry, Right


@pytest.fixture(scope="package")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SecuredKafka, str]]:
    """One broker and one Redis for all tests of this folder; each test has users of its own."""
    with ExitStack() as running:
        try:
            kafka = running.enter_context(SecuredKafka(tmp_path_factory.mktemp("certificates")))
            redis_url = running.enter_context(tls_redis(kafka.certificates))
        except ConfigError as exc:
            if os.environ.get("CI") == "true":
                pytest.fail(str(exc))
            pytest.skip(str(exc))
        yield kafka, redis_url


@pytest.fixture
def secured(servers: tuple[SecuredKafka, str]) -> SecuredKafka:
    return servers[0]


@pytest.fixture(scope="package")
def shared_rig(servers: tuple[SecuredKafka, str]) -> Iterator[Rig]:
    """Topics with a record and a dead letter, for tests that change nothing."""
    secured, redis_url = servers
    with Rig(secured.bootstrap_servers, redis_url, "test.secured", partitions=1, redis_timeout_ms=20_000) as rig:
        rig.publish([Ping.of("a", 1), Ping.of("b", 1, act="poison")])
        with rig.loop():
            wait_until(lambda: rig.pongs() and rig.letters())
        yield rig


@pytest.fixture
def rig(servers: tuple[SecuredKafka, str], topic_prefix: str) -> Iterator[Rig]:
    """A sample agent whose topics the test reads and writes by the door without rules."""
    secured, redis_url = servers
    with Rig(secured.bootstrap_servers, redis_url, topic_prefix, partitions=1, redis_timeout_ms=20_000) as rig:
        yield rig


BY_CERTIFICATE = {"security_protocol": "SSL"} | dict.fromkeys(("sasl_mechanism", "sasl_username", "sasl_password"))


@pytest.fixture
def entry(secured: SecuredKafka) -> Entry:
    """Settings of a new user with these rights and no other; locations are names in the folder of the certificates."""

    def make(*rights: Right, at: str = CLIENTS, **changes: Any) -> Settings:
        changes = (BY_CERTIFICATE if at == CERTIFIED else {}) | changes
        changes |= {name: str(secured.certificates / given) for name, given in changes.items() if given and "location" in name}
        properties = secured.properties(secured.user(*rights), **changes) | {"log_level": "0"}
        return Settings(bootstrap_servers=secured.addresses[at], kafka=properties, group_prefix="rig", delivery_timeout_ms=5000)

    return make


@pytest.fixture(scope="package")
def registry_topics(servers: tuple[SecuredKafka, str]) -> None:
    apply_topics(AdminClient({"bootstrap.servers": servers[0].bootstrap_servers}), all_topics())
