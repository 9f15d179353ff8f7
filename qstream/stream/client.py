"""Client: what a producer and an orchestrator embed, `Publisher` and `PlanSubscriber`."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Generic, Self, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

from qstream.config import Settings, load_settings
from qstream.errors import DeliveryFailed
from qstream.stream.consume import raise_if_fatal
from qstream.stream.produce import event_headers, producer_config
from qstream.stream.read import frame_of
from schemas.deadletter import Headers
from schemas.frame import SAFETENSORS, ContentType, Frame, FrameError
from schemas.topics import Topic

log = logging.getLogger(__name__)
F = TypeVar("F", bound=Frame)
REMEMBERED_IDS = 100_000


class Publisher:
    """Publishes frames to input topics: batched, partitioned by murmur2 of the key, every delivery confirmed.

    `publish` queues and returns; it waits while the queue is full. `flush` returns when the broker has everything, and
    raises `DeliveryFailed` with the number and the first reason if it has not. Use it in a ``with`` block, from any thread.

    >>> with Publisher("localhost:9092") as publisher:                       # doctest: +SKIP
    ...     publisher.publish(TOKENS_BATCH, batch)
    """

    def __init__(self, bootstrap_servers: str, source: str = "producer", settings: Settings | None = None) -> None:
        self.source = source
        base = settings or load_settings()
        self._timeout_s = base.delivery_timeout_ms / 1000
        self._producer = Producer(producer_config(base) | {"bootstrap.servers": bootstrap_servers})
        self._failed: list[KafkaError] = []
        self._lock = threading.Lock()

    def publish(
        self,
        topic: Topic,
        frame: Frame,
        *,
        event_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: ContentType = SAFETENSORS,
    ) -> None:
        """Queue one frame under its key. `FrameError` if it is too large or of another class than the topic's."""
        if type(frame) is not topic.frame:
            raise FrameError(f"{type(frame).__name__} on {topic.name}, allowed is {topic.frame.__name__}")
        key = str(getattr(frame, topic.key))
        now_ms = int(time.time() * 1000)
        fields = event_headers(topic.name, event_id or str(uuid.uuid4()), self.source, key, now_ms, content_type)
        fields += [(name, value.encode()) for name, value in (headers or {}).items()]
        self.publish_raw(topic.name, key.encode(), frame.encode(content_type), fields)

    def publish_raw(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Queue bytes as they are."""
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=self._report, headers=list(headers))
            except BufferError:
                self._producer.poll(0.05)
            except KafkaException as exc:
                self._report(exc.args[0], None)
                return
            else:
                self._producer.poll(0)
                return

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until everything queued is confirmed."""
        left = self._producer.flush(self._timeout_s + 1 if timeout_s is None else timeout_s)
        with self._lock:
            failed, self._failed = self._failed, []
        if failed or left:
            raise DeliveryFailed(f"{len(failed) + left} records were not confirmed: {failed[0] if failed else 'timeout'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.flush()
        else:
            self._producer.flush(1.0)

    def _report(self, error: KafkaError | None, _message: Message | None) -> None:
        if error is not None:
            with self._lock:
                self._failed.append(error)


class PlanSubscriber(Generic[F]):
    """The plans of one topic as they come: each id once, expired ones dropped, the newest by key kept.

    A subscriber without `group` reads every partition on its own, from now on or, with ``from_start``, from the earliest
    plan kept; with `group` the members share the partitions. Use it from one thread, in a ``with`` block.
    """

    def __init__(
        self,
        topic: Topic,
        frame: type[F],
        bootstrap_servers: str,
        *,
        group: str | None = None,
        from_start: bool = False,
        settings: Settings | None = None,
    ) -> None:
        self.topic = topic
        self.frame = frame
        self.latest: dict[str, F] = {}
        self.repeated = self.expired = self.unreadable = 0
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": group or f"qstream.subscriber.{uuid.uuid4()}",
                "enable.auto.commit": group is not None,
                "auto.offset.reset": "earliest" if from_start else "latest",
                "isolation.level": "read_committed",
                "partition.assignment.strategy": "cooperative-sticky",
                "fetch.wait.max.ms": 100,
                "session.timeout.ms": 10_000,
            }
            | dict((settings or load_settings()).kafka)
        )
        self._consumer.subscribe([topic.name], on_assign=self._note_assignment)
        self._assigned = threading.Event()

    def wait_assigned(self, timeout_s: float = 15.0) -> bool:
        """Poll until the partitions are assigned: plans published from then on are seen. False on timeout."""
        deadline = time.monotonic() + timeout_s
        while not self._assigned.is_set() and time.monotonic() < deadline:
            message = self._consumer.poll(0.05)
            if message is not None and message.error() is None:
                self._take(message)
        return self._assigned.is_set()

    def poll(self, timeout_s: float = 0.0, now_ns: int | None = None) -> F | None:
        """The next plan, or None if none came in time. `latest` has it by key."""
        message = self._consumer.poll(timeout_s)
        if message is None:
            return None
        error = message.error()
        if error is not None:
            raise_if_fatal(error)
            log.warning("subscriber: %s", error)
            return None
        return self._take(message, now_ns)

    def drain(self, timeout_s: float = 0.0) -> Iterator[F]:
        """Plans until none comes for `timeout_s`; repeated, expired and unreadable records are passed over."""
        deadline = time.monotonic() + timeout_s
        while True:
            taken = self.repeated + self.expired + self.unreadable
            plan = self.poll(max(0.0, deadline - time.monotonic()))
            if plan is not None:
                yield plan
            elif taken == self.repeated + self.expired + self.unreadable and time.monotonic() >= deadline:
                return

    def close(self) -> None:
        """Leave the topic."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _note_assignment(self, _consumer: Consumer, _partitions: object) -> None:
        self._assigned.set()

    def _take(self, message: Message, now_ns: int | None = None) -> F | None:
        given = dict(message.headers() or ()).get("ce_id")
        place = f"{message.topic()}/{message.partition()}/{message.offset()}"
        event_id = given.decode(errors="replace") if given else place
        if event_id in self._ids:
            self.repeated += 1
            return None
        try:
            plan = frame_of(message, self.frame)
        except FrameError as exc:
            self.unreadable += 1
            log.warning("unreadable plan at %s/%s: %s", message.partition(), message.offset(), exc)
            return None
        self._ids[event_id] = None
        if len(self._ids) > REMEMBERED_IDS:
            self._ids.popitem(last=False)
        ttl_s, ts_ns = getattr(plan, "ttl_s", None), getattr(plan, "ts_ns", 0)
        if ttl_s is not None and (time.time_ns() if now_ns is None else now_ns) > ts_ns + int(ttl_s * 1e9):
            self.expired += 1
            return None
        self.latest[str(getattr(plan, self.topic.key))] = plan
        return plan
