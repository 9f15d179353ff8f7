"""A real Kafka cluster on loopback ports: one Java process a node, no containers."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import tempfile
import time
import uuid
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import confluent_kafka
from confluent_kafka.admin import AdminClient, NewTopic

from qstream.embedded.child import Child, end_child, free_ports, log_end, release, start_child
from qstream.errors import ConfigError, QstreamError
from qstream.testing.kafka_jars import JVM_FLAGS, KafkaHome, alone_in, kafka_home, resource_text
from schemas.wording import must_be

_READY_S: Final = 180.0
_TERMINATE_S: Final = 30.0
_MEMORY: Final = Path("/dev/shm")
_MEMORY_FREE: Final = 2 << 30  # bytes; a container may have 64 MiB there, and a broker that fills them dies


class BrokerFailed(QstreamError):
    """A broker ended or did not become ready in time; the message carries the end of its log."""


class JavaKafka:
    """A Kafka cluster of brokers that are controllers as well (KRaft), with the settings of a small real one.

    Guarantees: ready when the constructor returns, that is, each node lists all; a node keeps its ports and its data
    over ``kill``, ``terminate`` and ``restart``; no node outlives this process. ``close()`` may run twice.
    The first use fetches 43 MB of jars and makes a class archive, about half a minute; later ones start in a second.

    Parameters
    ----------
    nodes
        Brokers, >= 1; internal and new topics have min(nodes, 3) replicas.
    directory
        Folder of data and logs, made if absent and kept: a later cluster of as many nodes finds the data;
        None for a temporary one, removed by ``close()``: in memory where there is room, unless TMPDIR names another place.
    jvm_flags
        More flags for Java, in place of the class archive that makes the start quick.
    listeners
        Further doors of each node: name to protocol, such as ``{"CLIENTS": "SASL_SSL"}``; `addresses` has their addresses.
    properties
        More of the broker's properties, which win.

    Raises
    ------
    ConfigError
        No Java, no jars, Maven refused, or no node is asked for.
    BrokerFailed
        A node did not become ready.
    """

    bootstrap_servers: str
    addresses: dict[str, str]

    def __init__(
        self,
        nodes: int = 1,
        directory: Path | None = None,
        *,
        jvm_flags: Sequence[str] | None = None,
        listeners: Mapping[str, str] | None = None,
        properties: Mapping[str, object] | None = None,
    ) -> None:
        if nodes < 1:
            raise ConfigError(must_be("nodes of a Kafka cluster", ">= 1", nodes))
        self._home = kafka_home()
        self._jvm_flags = _archive_flags(self._home) if jvm_flags is None else tuple(jvm_flags)
        root = _temporary_folder() if directory is None else directory.absolute()
        self._folders = [root / f"node{index + 1}" for index in range(nodes)]
        self._protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"} | dict(listeners or {})
        self._more = dict(properties or {})
        ports = iter(free_ports(len(self._protocols) * nodes))
        self._doors = {name: [f"127.0.0.1:{next(ports)}" for _ in range(nodes)] for name in self._protocols}
        self._brokers, self._controllers = self._doors["PLAINTEXT"], self._doors["CONTROLLER"]
        self.addresses = {name: ",".join(addresses) for name, addresses in self._doors.items()}
        self.bootstrap_servers = self.addresses["PLAINTEXT"]
        self._children: list[Child] = []
        self._finalizer = weakref.finalize(self, release, os.getpid(), self._children, root if directory is None else None)
        try:
            self._prepare()
            self._children.extend(self._launch(node) for node in range(nodes))
            self._await_ready()
        except (BrokerFailed, OSError):
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """Process id of each node, as started last."""
        return [child.pid for child in self._children]

    def start(self) -> None:
        """Start all nodes that are down, and wait until each running node lists all."""
        for node, child in enumerate(self._children):
            if child.poll() is not None:
                self._children[node] = self._launch(node)
        self._await_ready()

    def kill(self, node: int = 0) -> None:
        """End a node at once (SIGKILL); return when it is gone."""
        end_child(self._children[node])

    def terminate(self, node: int = 0) -> None:
        """Shut a node down (SIGTERM), kill it after half a minute; return when it is gone."""
        end_child(self._children[node], _TERMINATE_S)

    def restart(self, node: int = 0) -> None:
        """Start one node again, terminating it first if it runs, and wait until the running nodes list each other."""
        self.terminate(node)
        self._children[node] = self._launch(node)
        self._await_ready()

    def log_tail(self, lines: int = 80) -> str:
        """Return the last lines of each node's log, and all that its Java printed."""
        parts = []
        for folder in self._folders:
            for log in (folder / "server.log", folder / "java.log"):
                parts += [f"--- {folder.name}/{log.name}", *log_end(log, lines)]
        return "\n".join(parts)

    def close(self) -> None:
        """Kill all nodes and remove their temporary folder; a second call does nothing."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self) -> None:
        """Write each node's settings, and its data folder unless an earlier cluster has left one."""
        nodes = len(self._folders)
        cluster_id = _cluster_id(self._folders[0] / "data") or _fresh_id()
        voters = ",".join(f"{index + 1}@{address}" for index, address in enumerate(self._controllers))
        for index, folder in enumerate(self._folders):
            data = folder / "data"
            if not data.exists():
                folder.mkdir(parents=True)
                shutil.copytree(self._home.template, data)
                (data / "meta.properties").write_text(
                    f"version=1\nnode.id={index + 1}\ncluster.id={cluster_id}\ndirectory.id={_fresh_id()}\n"
                )
            (folder / "log4j2.xml").write_text(resource_text("kafka-log4j2.xml"))
            properties = _properties(nodes) | {
                "node.id": index + 1,
                "listeners": ",".join(f"{name}://{addresses[index]}" for name, addresses in self._doors.items()),
                "listener.security.protocol.map": ",".join(f"{name}:{used}" for name, used in self._protocols.items()),
                "controller.quorum.voters": voters,
                "log.dirs": data,
            }
            properties |= self._more
            (folder / "server.properties").write_text("".join(f"{name}={value}\n" for name, value in properties.items()))

    def _launch(self, node: int) -> Child:
        if not self._finalizer.alive:
            raise ConfigError(f"Kafka at {self.bootstrap_servers} is closed")
        folder = self._folders[node]
        logging = [f"-Dqstream.log={folder}/server.log", f"-Dlog4j2.configurationFile={folder}/log4j2.xml"]
        command = [self._home.java, *JVM_FLAGS, *self._jvm_flags, *logging, "-cp", self._home.class_path]
        command += ["kafka.Kafka", str(folder / "server.properties")]
        return start_child(command, folder / "java.log", folder)

    def _await_ready(self) -> None:
        """Ask each running node at its own address, as the metadata of another may still list a dead one."""
        running = [node for node, child in enumerate(self._children) if child.poll() is None]
        deadline = time.monotonic() + _READY_S
        for node in running:
            while not {other + 1 for other in running} <= _listed(self._brokers[node]):
                dead = [node + 1 for node in running if self._children[node].poll() is not None]
                if dead or time.monotonic() > deadline:
                    what = f"node {dead[0]} ended" if dead else f"node {node + 1} not ready in {_READY_S:.0f} s"
                    raise BrokerFailed(f"Kafka at {self.bootstrap_servers}: {what}\n{self.log_tail()}")
                time.sleep(0.02)


def _properties(nodes: int) -> dict[str, object]:
    """Return the smallest settings that still behave like a real cluster, the same for each node."""
    replicas = min(nodes, 3)
    in_sync = max(1, replicas - 1)
    return {
        "process.roles": "broker,controller",
        "controller.listener.names": "CONTROLLER",
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.num.partitions": 4,
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.num.partitions": 4,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": 500,
        "share.coordinator.state.topic.num.partitions": 2,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        "group.consumer.min.session.timeout.ms": 1000,
        "group.consumer.session.timeout.ms": 6000,
        "group.consumer.min.heartbeat.interval.ms": 200,
        "group.consumer.heartbeat.interval.ms": 1000,
        "num.network.threads": 2,
        "num.io.threads": 2,
        "background.threads": 2,
        "log.cleaner.dedupe.buffer.size": 4194304,
        "log.cleaner.backoff.ms": 500,
        "log.retention.check.interval.ms": 1000,
        "log.index.size.max.bytes": 1048576,
        "log.segment.bytes": 67108864,
        "metadata.log.segment.bytes": 8388608,
        "initial.broker.registration.timeout.ms": int(_READY_S * 1000),  # a node that a busy machine holds up would end
        "broker.heartbeat.interval.ms": 250 if nodes == 1 else 500,
        # A killed node's successor has to wait for this session to end before it may register; a shorter one fences a node
        # that a busy machine keeps from its heartbeat, and then topics have no leader.
        "broker.session.timeout.ms": 6000,
        "controller.quorum.election.timeout.ms": 500,
        "controller.quorum.fetch.timeout.ms": 1500,
    }


def _temporary_folder() -> Path:
    """Return a new folder, in memory if it can be: a broker syncs files of each new partition, on a disk some 20 ms for each."""
    usable = "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _MEMORY_FREE
    return Path(tempfile.mkdtemp(prefix="qstream-kafka-", dir=_MEMORY if usable else None))


def _listed(address: str) -> set[int]:
    """Return the ids of the brokers that the one at ``address`` lists; none while it does not answer."""
    settings = {"bootstrap.servers": address, "log_level": 0, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 50}
    try:
        return set(AdminClient(settings).list_topics(timeout=1.0).brokers)
    except confluent_kafka.KafkaException:
        return set()


def _fresh_id() -> str:
    """Return a UUID in Kafka's spelling: 22 characters of base64 for URLs."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _cluster_id(data: Path) -> str | None:
    meta = data / "meta.properties"
    lines = meta.read_text().splitlines() if meta.exists() else []
    return next((line.removeprefix("cluster.id=") for line in lines if line.startswith("cluster.id=")), None)


def _archive_flags(home: KafkaHome) -> tuple[str, ...]:
    """Return the flags that use the class archive, made now if there is none; none if Java cannot make one."""
    if not home.archive.exists():
        with alone_in(home.folder):
            if not home.archive.exists():
                _make_archive(home)
    if home.archive.stat().st_size == 0:
        return ()
    return (f"-XX:SharedArchiveFile={home.archive}", "-Xshare:auto")


def _make_archive(home: KafkaHome) -> None:
    """Run a broker through what tests do, and keep the classes that its Java loaded; rename, as two runs may race."""
    part = home.archive.with_suffix(f".{uuid.uuid4().hex}")
    try:
        with JavaKafka(jvm_flags=[f"-XX:ArchiveClassesAtExit={part}"]) as kafka:
            _exercise(kafka.bootstrap_servers)
            kafka.terminate()
            if kafka._children[0].returncode == -signal.SIGKILL:  # it was still writing
                part.unlink(missing_ok=True)
    except (BrokerFailed, confluent_kafka.KafkaException, OSError):
        part.unlink(missing_ok=True)
    if not part.exists():
        part.touch()
    part.replace(home.archive)


def _exercise(bootstrap_servers: str) -> None:
    """Create a topic, produce in a transaction, consume in a group with a commit."""
    common = {"bootstrap.servers": bootstrap_servers, "log_level": 0}
    admin = AdminClient(common)
    admin.create_topics([NewTopic("exercise", 1)])["exercise"].result(20.0)
    producer = confluent_kafka.Producer({**common, "transactional.id": "exercise"})
    producer.init_transactions(20.0)
    producer.begin_transaction()
    producer.produce("exercise", b"value", b"key")
    producer.commit_transaction(20.0)
    consumer = confluent_kafka.Consumer({**common, "group.id": "exercise", "auto.offset.reset": "earliest"})
    try:
        consumer.subscribe(["exercise"])
        if consumer.poll(20.0) is not None:
            consumer.commit(asynchronous=False)
    finally:
        consumer.close()
