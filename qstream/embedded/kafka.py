"""The embedded broker: librdkafka's mock cluster, served on a loopback port."""

from __future__ import annotations

import ctypes
import functools
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

import confluent_kafka
from confluent_kafka.admin import AdminClient

from qstream.errors import ConfigError
from schemas.wording import must_be

PROMPT: Final = {"fetch.wait.max.ms": "10"}
"""Client settings that keep latency low here, where an empty fetch waits to its end."""

_PRODUCER: Final = 0  # rd_kafka_type_t
_REPLICAS: Final = 1
_REBALANCE_DELAY_MS: Final = 50
_SELF_TEST_S: Final = 10.0

_HANDLE = ctypes.c_void_p
_SIGNATURES: Final = {
    "rd_kafka_conf_new": (_HANDLE, []),
    "rd_kafka_conf_set": (
        ctypes.c_int,
        [_HANDLE, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t],
    ),
    "rd_kafka_new": (_HANDLE, [ctypes.c_int, _HANDLE, ctypes.c_char_p, ctypes.c_size_t]),
    "rd_kafka_destroy": (None, [_HANDLE]),
    "rd_kafka_err2str": (ctypes.c_char_p, [ctypes.c_int]),
    "rd_kafka_mock_cluster_new": (_HANDLE, [_HANDLE, ctypes.c_int]),
    "rd_kafka_mock_cluster_destroy": (None, [_HANDLE]),
    "rd_kafka_mock_cluster_bootstraps": (ctypes.c_char_p, [_HANDLE]),
    "rd_kafka_mock_topic_create": (ctypes.c_int, [_HANDLE, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]),
    "rd_kafka_mock_broker_set_down": (ctypes.c_int, [_HANDLE, ctypes.c_int32]),
    "rd_kafka_mock_broker_set_up": (ctypes.c_int, [_HANDLE, ctypes.c_int32]),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [_HANDLE, ctypes.c_int32]),
}


class EmbeddedKafka:
    """A Kafka broker inside this process, for demos, development and tests; any client may connect to it.

    It speaks Kafka's protocol to every client on this machine and takes consumer groups (classic and KIP-848),
    idempotent producers, headers, keys, compression and timestamps. Its limits are librdkafka's (rdkafka_mock.c):

    - a partition keeps the last 5 MiB or 100,000 batches, in memory; nothing survives ``close()``;
    - messages up to 1 MB: larger ones are acknowledged and may never be read;
    - no admin requests: create topics here; a topic that a client asks for first gets four partitions;
    - no transactions: offsets sent to one are dropped and readers see aborted records;
    - no retention by time, no compaction, no lookup of offsets by time;
    - an empty fetch waits for the client's whole ``fetch.wait.max.ms``.

    Parameters
    ----------
    topics
        Name -> partitions, created before any client can connect.
    default_partitions
        Partitions of a topic that is created without a number.

    Raises
    ------
    ConfigError
        No librdkafka with a mock cluster is found, or the broker does not answer its self test.
    """

    bootstrap_servers: str

    def __init__(self, topics: Mapping[str, int] = MappingProxyType({}), default_partitions: int = 4) -> None:
        self._default_partitions = default_partitions
        self._library = _librdkafka()
        self._client = _client(self._library)
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, 1)
        self._finalizer = weakref.finalize(self, _destroy, os.getpid(), self._library, self._cluster, self._client)
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, _REBALANCE_DELAY_MS)
        self.bootstrap_servers = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        try:
            for name, partitions in topics.items():
                self.create_topic(name, partitions)
            _self_test(self.bootstrap_servers)
        except ConfigError:
            self.close()
            raise

    def create_topic(self, name: str, partitions: int | None = None) -> None:
        """Create a topic; ConfigError if it exists already or the broker refuses its name or size."""
        count = self._default_partitions if partitions is None else partitions
        if count < 1:
            raise ConfigError(must_be(f"the number of partitions of topic {name!r}", "at least 1", count))
        self._check(
            self._library.rd_kafka_mock_topic_create(self._open(), name.encode(), count, _REPLICAS),
            f"topic {name!r} with {count} partitions",
        )

    def set_broker_down(self, broker_id: int = 1) -> None:
        """Cut all connections and refuse new ones, until ``set_broker_up``; the records stay."""
        self._check(self._library.rd_kafka_mock_broker_set_down(self._open(), broker_id), f"broker {broker_id}")

    def set_broker_up(self, broker_id: int = 1) -> None:
        """Accept connections again."""
        self._check(self._library.rd_kafka_mock_broker_set_up(self._open(), broker_id), f"broker {broker_id}")

    def close(self) -> None:
        """End the broker and drop its records; a second call does nothing."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> int:
        if not self._finalizer.alive:
            raise ConfigError(f"the embedded broker at {self.bootstrap_servers} is closed")
        return int(self._cluster)

    def _check(self, error: int, subject: str) -> None:
        if error:
            reason = self._library.rd_kafka_err2str(error).decode()
            raise ConfigError(f"the embedded broker refused {subject}: {reason}")


def _client(library: ctypes.CDLL) -> int:
    """Create the client that a mock cluster needs for its records; it never connects to anything."""
    reason = ctypes.create_string_buffer(512)
    conf = library.rd_kafka_conf_new()
    library.rd_kafka_conf_set(conf, b"log_level", b"0", reason, len(reason))
    client = library.rd_kafka_new(_PRODUCER, conf, reason, len(reason))
    if not client:
        raise ConfigError(f"librdkafka cannot make a client for the embedded broker: {reason.value.decode()}")
    return int(client)


def _self_test(bootstrap_servers: str) -> None:
    """Read the metadata as any client would, since the mock cluster's interface is not declared stable."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    try:
        brokers = admin.list_topics(timeout=_SELF_TEST_S).brokers
    except confluent_kafka.KafkaException as exc:
        raise ConfigError(f"the embedded broker at {bootstrap_servers} does not answer: {exc}") from exc
    if 1 not in brokers:
        raise ConfigError(f"the embedded broker at {bootstrap_servers} lists the brokers {sorted(brokers)}, and not itself, 1")


def _destroy(owner_pid: int, library: ctypes.CDLL, cluster: int, client: int) -> None:
    """Free both; a forked copy of the owner has none of librdkafka's threads, and would wait for them forever."""
    if os.getpid() == owner_pid:
        library.rd_kafka_mock_cluster_destroy(cluster)
        library.rd_kafka_destroy(client)


@functools.cache
def _librdkafka() -> ctypes.CDLL:
    """Open the librdkafka that confluent-kafka itself has loaded."""
    package = Path(confluent_kafka.__file__).parent
    folders = (package.with_name("confluent_kafka.libs"), package)
    found = [path for folder in folders for path in sorted(folder.glob("librdkafka*.so*"))]
    searched = ", ".join(f"{folder}/librdkafka*.so*" for folder in folders)
    if not found:
        raise ConfigError(f"the embedded broker found no librdkafka: searched {searched}; install confluent-kafka from its wheel")
    library = ctypes.CDLL(str(found[0]))
    try:
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as exc:
        raise ConfigError(f"{found[0]} has no mock cluster: {exc}") from exc
    return library
