"""Servers for tests: a real Kafka, a real Redis, the embedded broker; names and seeds that do not meet."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from qstream.embedded.kafka import EmbeddedKafka
from qstream.embedded.redis import EmbeddedRedis
from qstream.errors import ConfigError
from qstream.testing.java_kafka import JavaKafka
from qstream.testing.real_kafka import ADDRESS_SETTING, real_kafka

pytest_plugins = ["tests.kernels", "tests.order", "tests.skipped"]

# A busy machine draws slowly and answers late, which proves nothing about the code; in CI the same examples each time.
settings.register_profile(
    "qstream",
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("qstream")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-seeds", type=int, default=1, help="seeds that each test of tests/chaos runs with")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "chaos_seed" in metafunc.fixturenames:
        metafunc.parametrize("chaos_seed", range(metafunc.config.getoption("--chaos-seeds")))


@contextmanager
def running_kafka(own: bool = False) -> Iterator[str]:
    """A real broker, with `own` one that is started here; without one the test is skipped, in CI it fails."""
    with ExitStack() as running:
        try:
            yield running.enter_context(JavaKafka()).bootstrap_servers if own else running.enter_context(real_kafka())
        except ConfigError as exc:
            if os.environ.get("CI") == "true":
                pytest.fail(str(exc))
            pytest.skip(str(exc))


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Bootstrap servers of a real broker that all tests share."""
    with running_kafka() as address:
        yield address


@pytest.fixture(scope="session")
def local_kafka(request: pytest.FixtureRequest) -> Iterator[str]:
    """The shared broker, unless it was named by its address: what its owner has on it is not deleted."""
    if ADDRESS_SETTING not in os.environ:
        yield request.getfixturevalue("kafka")
        return
    with running_kafka(own=True) as address:
        yield address


@pytest.fixture
def redis_server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def embedded_kafka() -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka() as broker:
        yield broker


@pytest.fixture
def topic_prefix() -> str:
    """Begins the names of a test's topics and groups, so that tests can share a broker."""
    return f"test.{uuid.uuid4().hex[:12]}"


@pytest.fixture
def ipv6_loopback() -> str:
    """The address, where this machine has it."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as exc:
        pytest.skip(f"no IPv6 here: {exc}")
    return "::1"


@pytest.fixture
def orphaned(tmp_path: Path) -> Callable[[str], int]:
    """Run a program that starts a server and prints its pid, SIGKILL the program, return the server's pid."""

    def run(code: str) -> int:
        program = [sys.executable, "-c", f"import time\n{code}\ntime.sleep(600)"]
        left_here = {**os.environ, "TMPDIR": str(tmp_path)}
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=left_here) as parent:
            try:
                assert parent.stdout is not None
                return int(parent.stdout.readline())
            finally:
                parent.send_signal(signal.SIGKILL)

    return run
