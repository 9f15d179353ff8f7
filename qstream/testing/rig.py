"""Rig: a sample agent on topics of its own, as a thread or a process, and all that a test reads back."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, NewTopic
from pydantic import SecretStr

from qstream.config import Settings
from qstream.contract import TopicPartition
from qstream.embedded.child import end_child, log_end, start_child
from qstream.errors import QstreamError
from qstream.state.store import StateStore
from qstream.stream.headers import headers_of
from qstream.stream.loop import BatchLoop
from qstream.testing.sample import Ping, Pong, Sample, Tally
from schemas.deadletter import DeadLetter, Headers
from schemas.frame import JSON, SAFETENSORS
from schemas.topics import Topic

T = TypeVar("T")
PATIENCE_S: Final = 240.0
_ANSWER_S: Final = 120.0
_GROUP_ANSWER_S: Final = 10.0
_TAIL_ANSWER_S: Final = 20.0


class NeverHappened(QstreamError):
    """What a test waited for did not come in time."""


def wait_until(condition: Callable[[], T], timeout_s: float = PATIENCE_S, saying: Callable[[], object] = lambda: "") -> T:
    """Wait until `condition` is true and return what it gave; `NeverHappened` with what `saying` returns if it stays false."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise NeverHappened(f"not within {timeout_s:.0f} s: {saying()}")
        time.sleep(0.02)
    return found


class Tail:
    """All records of one topic so far, in the order of their arrival here; a reader of its own, in no group."""

    def __init__(self, bootstrap_servers: str, topic: str, partitions: int, isolation: str = "read_committed") -> None:
        self.messages: list[Message] = []
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"{topic}.tail",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "isolation.level": isolation,
                "fetch.wait.max.ms": 50,
                "reconnect.backoff.max.ms": 500,
                "topic.metadata.refresh.interval.ms": 2000,  # a topic made a moment ago may be missing in the first answer
                "log_level": 0,
            }
        )
        self._partitions = [KafkaPartition(topic, partition, 0) for partition in range(partitions)]
        self._next = dict.fromkeys(range(partitions), 0)
        self._consumer.assign(self._partitions)

    def read(self) -> list[Message]:
        """Everything that a reader could see when the call began; less while the broker does not answer."""
        try:
            ends = [self._consumer.get_watermark_offsets(at, timeout=_TAIL_ANSWER_S)[1] for at in self._partitions]
        except KafkaException:
            return self.messages
        deadline = time.monotonic() + _ANSWER_S
        while any(self._next[partition] < end for partition, end in enumerate(ends)) and time.monotonic() < deadline:
            for message in self._consumer.consume(500, 0.02):
                self._take(message)
        return self.messages

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is None:
            self.messages.append(message)
            self._next[message.partition()] = message.offset() + 1
        elif error.code() == KafkaError._PARTITION_EOF:  # the marks of transactions are not messages, but they end here
            self._next[message.partition()] = message.offset()


@contextmanager
def reading(broker: str, *topics: Topic) -> Iterator[list[Tail]]:
    """A reader of each topic, closed in the end."""
    with ExitStack() as closing:
        tails = [Tail(broker, topic.name, topic.partitions) for topic in topics]
        for tail in tails:
            closing.callback(tail.close)
        yield tails


class LoopThread:
    """A batch loop in a thread. Leaving the ``with`` block stops it, and raises what it died of."""

    def __init__(self, loop: BatchLoop[Any]) -> None:
        self.loop = loop
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.loop.run()
        except BaseException as exc:  # noqa: BLE001 raised again by `stop`
            self.error = exc
            self.loop.intake.close()
        finally:
            if (store := self.loop.ledger.store) is not None:
                store.close()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self, timeout_s: float = PATIENCE_S) -> None:
        """Drain and leave the group."""
        self.loop.stop()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise NeverHappened(f"the loop did not stop in {timeout_s:.0f} s")
        if self.error is not None:
            raise self.error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.loop.stop()
        self._thread.join(PATIENCE_S)
        if error is None:
            self.stop()


class Program:
    """A worker as a process that a test may stop, resume and kill; it never outlives the test."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        words = [f"{name}={value}" for name, value in environment.items()]
        self._child = start_child(["/usr/bin/env", *words, sys.executable, *command], log, log.parent)

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._child.poll()

    def pause(self) -> None:
        """Stop it in its tracks (SIGSTOP)."""
        self._child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._child.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to drain (SIGTERM)."""
        self._child.terminate()

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Its exit status."""
        return self._child.wait(timeout_s)

    def kill(self) -> None:
        """End it at once (SIGKILL); return when it is gone."""
        end_child(self._child)

    def log_tail(self, lines: int = 60) -> str:
        """The end of what it wrote."""
        return "\n".join(log_end(self.log, lines))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Rig:
    """A `Sample` with its topics on a broker; `settings` are those of its workers.

    Parameters
    ----------
    name
        Names the agent, its topics and its group.
    ping_config, topic_config, letter_config
        Further configuration of the topics of the pings, the pongs and the dead letters.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        redis_url: str,
        name: str,
        partitions: int = 4,
        ping_config: Mapping[str, str] | None = None,
        topic_config: Mapping[str, str] | None = None,
        letter_config: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.sample = Sample(name, partitions)
        self.bootstrap_servers = bootstrap_servers
        fast: dict[str, Any] = {"retry_max_s": 0.5, "session_timeout_ms": 6000, "worker_id": "worker-0", "port": 0}
        self.settings = Settings(
            bootstrap_servers=bootstrap_servers, redis_url=SecretStr(redis_url), group_prefix="rig", **(fast | settings)
        )
        self.group = f"rig.{name}"
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 2,
                "message.max.bytes": 2_000_000,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._onlooker = Consumer(
            {"bootstrap.servers": bootstrap_servers, "group.id": self.group, "reconnect.backoff.max.ms": 500, "log_level": 0}
        )
        self._inputs = [KafkaPartition(t.name, p) for t in self.sample.inputs for p in range(t.partitions)]
        self.store: StateStore[Tally] = StateStore(redis_url, name, Tally, 20_000)
        self._tails: dict[tuple[str, str], Tail] = {}
        sample = self.sample
        self.create_topic(sample.pings, ping_config)
        self.create_topic(sample.gates)
        self.create_topic(sample.pongs, topic_config)
        self.create_topic(sample.letters, letter_config)

    def create_topic(self, topic: Topic, config: Mapping[str, str] | None = None) -> None:
        """Create a topic as the registry describes it, with further configuration."""
        new = NewTopic(topic.name, topic.partitions, 1, config=topic.config() | dict(config or {}))
        self._admin.create_topics([new])[topic.name].result(_ANSWER_S)

    def delete_topic(self, topic: Topic) -> None:
        """Delete a topic."""
        self._admin.delete_topics([topic.name])[topic.name].result(_ANSWER_S)

    def processor(self, **options: Any) -> Sample:
        """The sample with some options."""
        return self.sample.configure(options)

    def loop(self, sample: Sample | None = None, **settings: Any) -> LoopThread:
        """Start a loop in a thread."""
        changed = self.settings.model_copy(update=settings)
        store = StateStore(changed.redis_url.get_secret_value(), self.sample.name, Tally, changed.redis_timeout_ms)
        return LoopThread(BatchLoop(sample or self.sample, changed, store))

    def program(self, log: Path, options: Mapping[str, object] | None = None, **settings: Any) -> Program:
        """Start a worker process."""
        changed = self.settings.model_copy(update={"options": dict(options or {}), **settings})
        plain = {"redis_url": changed.redis_url.get_secret_value(), "kafka": changed.kafka_properties()}
        given = json.dumps(changed.model_dump(mode="json") | plain)
        command = ["-m", "qstream.testing.worker", self.sample.name, str(self.sample.partitions), given]
        return Program(command, {}, log)

    def publish(self, pings: Iterable[Ping], topic: Topic | None = None, headers: Headers = ()) -> None:
        """Publish pings under their names and wait until the broker has them."""
        target = (topic or self.sample.pings).name
        for ping in pings:
            self.publish_raw(target, ping.encode(SAFETENSORS), ping.name.encode(), headers, flush=False)
        self.flush()

    def publish_raw(
        self, topic: str, value: bytes | None, key: bytes | None, headers: Headers = (), *, flush: bool = True, **where: int
    ) -> None:
        """Publish bytes as they are; ``partition=`` and ``timestamp=`` (ms) say where and when."""
        self._producer.produce(topic, value, key, headers=list(headers), **where)
        self._producer.poll(0)
        if flush:
            self.flush()

    def flush(self) -> None:
        """Wait until everything published is confirmed."""
        if left := self._producer.flush(PATIENCE_S):
            raise NeverHappened(f"{left} records were not confirmed")

    def tail(self, topic: Topic, isolation: str = "read_committed") -> list[Message]:
        """Everything on a topic so far."""
        reader = self._tails.get((topic.name, isolation))
        if reader is None:
            reader = self._tails[topic.name, isolation] = Tail(self.bootstrap_servers, topic.name, topic.partitions, isolation)
        return reader.read()

    def pongs(self, isolation: str = "read_committed") -> list[tuple[str, Pong]]:
        """Id and frame of every event so far."""
        found = self.tail(self.sample.pongs, isolation)
        return [(header(message, "ce_id"), Pong.decode(message.value(), JSON)) for message in found]

    def expected_ids(self, count: int) -> set[str]:
        """The ids of the events of all pings, once `count` of them are there."""
        wait_until(lambda: len(self.tail(self.sample.pings)) >= count)
        return {f"{m.topic()}/{m.partition()}/{m.offset()}/0" for m in self.tail(self.sample.pings)}

    def letters(self) -> list[tuple[DeadLetter, Message]]:
        """Every dead letter so far."""
        return [(DeadLetter.from_headers(headers_of(message)), message) for message in self.tail(self.sample.letters)]

    def committed(self) -> dict[TopicPartition, int]:
        """Next offsets that the group has committed; none while the broker does not tell."""
        # Not by the admin client: librdkafka 2.16 crashes there when the coordinator has moved or is not ready.
        try:
            found = self._onlooker.committed(self._inputs, timeout=_GROUP_ANSWER_S)
        except KafkaException:
            return {}
        return {TopicPartition(at.topic, at.partition): at.offset for at in found if at.offset >= 0}

    def committed_records(self, topic: Topic | None = None) -> int:
        """Records of the pings, or of another topic, behind the committed offsets, over all partitions."""
        name = (topic or self.sample.pings).name
        return sum(offset for at, offset in self.committed().items() if at.topic == name)

    def end_offsets(self, topic: Topic) -> list[int]:
        """Where the log of each partition ends; `KafkaException` while the broker does not tell."""
        partitions = [KafkaPartition(topic.name, partition) for partition in range(topic.partitions)]
        return [self._onlooker.get_watermark_offsets(at, timeout=_GROUP_ANSWER_S)[1] for at in partitions]

    def tally(self, name: str) -> Tally | None:
        """The stored state of a name."""
        return self.store.load(name).state

    def close(self) -> None:
        """End all readers."""
        for reader in self._tails.values():
            reader.close()
        self._onlooker.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def header(message: Message, name: str) -> str:
    """The text of one header, empty without it."""
    found = dict(headers_of(message)).get(name)
    return (found or b"").decode()
