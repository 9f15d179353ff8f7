"""Find a real Kafka broker for a test run: a given address, a container, or a Java process."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from qstream.errors import ConfigError
from qstream.testing.java_kafka import JavaKafka

ADDRESS_SETTING: Final = "QSTREAM_TEST_KAFKA"
_ENGINE_S: Final = 3.0


@contextmanager
def real_kafka() -> Iterator[str]:
    """Yield the bootstrap servers of a real broker; one that was started here ends on exit.

    In this order: the address in QSTREAM_TEST_KAFKA, a container if an engine answers, Java Kafka.

    Raises
    ------
    ConfigError
        There is none; the message gives the reason for each.
    BrokerFailed
        Java Kafka is there and did not start.
    """
    with ExitStack() as running:
        yield _first(running)


def _first(running: ExitStack) -> str:
    reasons = []
    for source in (_given, _container, _java):
        try:
            return source(running)
        except ConfigError as exc:
            reasons.append(str(exc))
    raise ConfigError("no real Kafka broker: " + "; ".join(reasons))


def _given(_: ExitStack) -> str:
    if address := os.environ.get(ADDRESS_SETTING):
        return address
    raise ConfigError(f"{ADDRESS_SETTING} is not set")


def _container(running: ExitStack) -> str:
    if (docker := shutil.which("docker")) is None:
        raise ConfigError("no docker on PATH")
    try:
        subprocess.run([docker, "version"], capture_output=True, check=True, timeout=_ENGINE_S)
    except (subprocess.SubprocessError, OSError) as exc:
        raise ConfigError(f"no container engine answers: {exc}") from exc
    try:
        # Of the dev extra, and slow to load: only where an engine is there.
        from docker.errors import DockerException  # type: ignore[import-untyped] # noqa: PLC0415 - as said
        from testcontainers.community.kafka import KafkaContainer  # noqa: PLC0415 - as above
    except ImportError as exc:
        raise ConfigError(f"testcontainers is not installed: {exc}") from exc
    try:
        return str(running.enter_context(KafkaContainer().with_kraft()).get_bootstrap_server())
    except (DockerException, TimeoutError) as exc:
        raise ConfigError(f"the container engine did not start Kafka: {exc}") from exc


def _java(running: ExitStack) -> str:
    return running.enter_context(JavaKafka()).bootstrap_servers
