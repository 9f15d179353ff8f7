"""A real worker of an agent as a process of its own, on a real broker and a real store, with its CPU time and memory."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Consumer, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient

from qstream.embedded.child import end_child, free_ports, start_child
from qstream.embedded.redis import EmbeddedRedis
from qstream.stream.admin import apply_topics
from qstream.testing.java_kafka import JavaKafka
from schemas.topics import Topic

ROOT = Path(__file__).parents[2]
PATIENCE_S = 600.0
# Those of Kafka's own start script. With the small heap of the tests, a collection stops the broker for 15 ms twice a second.
JVM_FLAGS = (
    *("-Xms1g", "-Xmx1g", "-XX:-UseSerialGC", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"),
    *("-XX:InitiatingHeapOccupancyPercent=35", "-XX:TieredStopAtLevel=4"),
)
_GRACE_S = 20.0
_PROGRAM = """
import importlib, json, sys
from agents.app import run
from qstream.config import load_settings
module, name = sys.argv[1].split(":")
run(getattr(importlib.import_module(module), name), load_settings(**json.loads(sys.argv[2])), "WARNING")
"""


@dataclass(frozen=True)
class Servers:
    """Addresses of a Kafka broker and a Redis, both real, on loopback and empty at first."""

    kafka: str
    redis: str


@contextmanager
def servers(topics: Sequence[Topic]) -> Iterator[Servers]:
    """Start both, with these topics."""
    with JavaKafka(jvm_flags=JVM_FLAGS) as kafka, EmbeddedRedis() as redis:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
        faults = [state for state in apply_topics(admin, topics) if state.finding not in ("created", "ok")]
        if faults:
            raise RuntimeError(f"topics not created: {faults}")
        yield Servers(kafka.bootstrap_servers, redis.url)


class Worker:
    """One running worker, read from outside."""

    def __init__(self, pid: int, port: int, log: Path, started: float) -> None:
        self.started = started
        self.log = log
        self._process = psutil.Process(pid)
        self._site = f"http://127.0.0.1:{port}"

    def cpu_s(self) -> float:
        """User and system time of all its threads so far."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def resident_mib(self) -> float:
        return float(self._process.memory_info().rss) / 2**20

    def metric(self, sample: str) -> float:
        """The value of a sample of its metrics page, such as ``name{label="x"}``; 0 where it is not there."""
        with urllib.request.urlopen(f"{self._site}/metrics", timeout=PATIENCE_S) as page:
            lines = page.read().decode().splitlines()
        return float(next((line.rpartition(" ")[2] for line in lines if line.rpartition(" ")[0] == sample), 0.0))

    def await_ready(self) -> float:
        """Seconds from the start of the process until /readyz says 200."""
        self.wait(self._is_ready, 0.02)
        return time.perf_counter() - self.started

    def kill(self) -> None:
        """SIGKILL, as a crash of the machine would."""
        self._process.kill()

    def wait(self, condition: Callable[[], bool], pause_s: float) -> None:
        """Ask again until it holds; RuntimeError with the end of the log if that takes minutes, or if the worker ended."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline or not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE:
                raise RuntimeError(f"the worker gave up or hangs: {self.log.read_text()[-2000:]}")
            time.sleep(pause_s)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._site}/readyz", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:  # refused, or 503
            return False


@contextmanager
def worker(agent: str, at: Servers, **settings: Any) -> Iterator[Worker]:
    """Start ``module:NAME`` with these settings as a Faust worker; it is drained at the end."""
    port = free_ports(1)[0]
    given = {"bootstrap_servers": at.kafka, "redis_url": at.redis, "port": port, "worker_id": "bench", **settings}
    with program([sys.executable, "-c", _PROGRAM, agent, json.dumps(given)], port) as running:
        yield running


@contextmanager
def program(command: list[str], port: int = 0) -> Iterator[Worker]:
    """Start any program that answers records; SIGTERM ends it."""
    with tempfile.TemporaryDirectory(prefix="qstream-bench-") as folder:
        log = Path(folder) / "worker.log"
        started = time.perf_counter()
        child = start_child(command, log, ROOT)
        try:
            yield Worker(child.pid, port, log, started)
        finally:
            end_child(child, _GRACE_S)


@dataclass
class Progress:
    """The worker's CPU time and the events on a topic, over time."""

    seconds: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    events: list[int] = field(default_factory=list)

    def between(self, low: float = 0.1, high: float = 0.9) -> tuple[float, float]:
        """CPU seconds and wall seconds an event, from the samples between two shares of all events."""
        total = self.events[-1]
        inside = [i for i, count in enumerate(self.events) if low * total <= count <= high * total]
        if len(inside) < 3:
            raise RuntimeError(f"only {len(inside)} samples: more events are needed")
        counts = [self.events[i] for i in inside]
        cpu = statistics.linear_regression(counts, [self.cpu_s[i] for i in inside]).slope
        wall = statistics.linear_regression(counts, [self.seconds[i] for i in inside]).slope
        return cpu, wall


def follow(running: Worker, at: Servers, topic: Topic, total: int, period_s: float = 0.05, before: int = 0) -> Progress:
    """Sample until `topic` holds `total` events more than `before`."""
    with closing(_reader(at)) as consumer:
        return _follow(running, lambda: _events(consumer, topic) - before, total, period_s)


def follow_input(running: Worker, at: Servers, agent: str, topic: Topic, total: int, period_s: float = 0.05) -> Progress:
    """Sample until the agent has committed `total` records of an input, for one that makes few events."""
    partitions = [KafkaPartition(topic.name, partition) for partition in range(topic.partitions)]
    with closing(Consumer({"bootstrap.servers": at.kafka, "group.id": f"qstream.{agent}", "log_level": 0})) as consumer:
        return _follow(running, lambda: _committed(consumer, partitions), total, period_s)


def _committed(consumer: Consumer, partitions: list[KafkaPartition]) -> int:
    """Records behind the committed offsets; 0 while the group has no coordinator yet."""
    try:
        return sum(max(0, int(at.offset)) for at in consumer.committed(partitions, timeout=10))
    except KafkaException:
        return 0


def _follow(running: Worker, count: Callable[[], int], total: int, period_s: float) -> Progress:
    progress = Progress()

    def sample() -> bool:
        events = count()
        progress.seconds.append(time.perf_counter())
        progress.cpu_s.append(running.cpu_s())
        progress.events.append(events)
        return events >= total

    running.wait(sample, period_s)
    return progress


def count_events(at: Servers, topic: Topic) -> int:
    """How many events `topic` holds."""
    with closing(_reader(at)) as consumer:
        return _events(consumer, topic)


def _reader(at: Servers) -> Consumer:
    return Consumer({"bootstrap.servers": at.kafka, "group.id": "bench.follow", "log_level": 0})


def _events(consumer: Consumer, topic: Topic) -> int:
    partitions = [KafkaPartition(topic.name, partition) for partition in range(topic.partitions)]
    return sum(int(consumer.get_watermark_offsets(partition, timeout=10)[1]) for partition in partitions)
