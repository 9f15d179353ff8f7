"""Client: what a producer and an orchestrator embed, `Publisher`, `PlanSubscriber` and `Exchange`."""

from __future__ import annotations

import logging
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Generic, Self, TypeVar

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message, Producer

from qstream.config import Settings, load_settings
from qstream.contract import TopicPartition
from qstream.errors import ConfigError, NotAllowed
from qstream.stream.cause import OnceAMinute, denied
from qstream.stream.faults import raise_if_fatal
from qstream.stream.headers import event_headers, event_id_of
from qstream.stream.identity import Identities
from qstream.stream.member import ANSWER_S, Member
from qstream.stream.partition import partition_of_key
from qstream.stream.producers import Producers, producer_config
from qstream.stream.read import Reading, frame_of, open_reader
from schemas.deadletter import Headers
from schemas.frame import SAFETENSORS, ContentType, Frame, FrameError
from schemas.plan import Plan, VersionedPlan
from schemas.topics import Compression, Topic
from schemas.wording import Shown, must_be

log = logging.getLogger(__name__)
F = TypeVar("F", bound=Frame)
REMEMBERED_IDS = 100_000
MAX_LATEST_KEYS = 4096
MAX_LATEST_BYTES = 256 << 20
VERSION_AHEAD_MS = 7_200_000  # agents let records be an hour ahead, and clocks may differ


def time_of(frame: Frame) -> int | None:
    """When what the frame reports ended, in milliseconds; None if it does not say."""
    time_ns = getattr(frame, "t1_ns", None) or getattr(frame, "ts_ns", None)
    return None if time_ns is None else time_ns // 1_000_000 or None


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
        self._producers = Producers(base, producer_config(base) | {"bootstrap.servers": bootstrap_servers})
        # No lock: a report that the client's fatal error interrupts would never give it back.
        self._failed: deque[tuple[KafkaError, str]] = deque()
        self._topics: set[str] = set()

    def publish(
        self,
        topic: Topic,
        frame: Frame,
        *,
        event_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: ContentType = SAFETENSORS,
        timestamp_ms: int | None = None,
    ) -> None:
        """Queue one frame under its key. `FrameError` if it is too large or of another class than the topic's.

        `timestamp_ms` is the record's time, which modules take for the time of what happened; None is now. A recording that
        is replayed keeps its times by it; a topic with `broker_time` ignores it, and one that deletes old records counts
        their age from it.
        """
        if type(frame) is not topic.frame:
            raise FrameError(must_be(f"a frame on {topic.name}", topic.frame.__name__, Shown(type(frame).__name__)))
        key = str(getattr(frame, topic.key))
        moment_ms = int(time.time() * 1000) if timestamp_ms is None else timestamp_ms
        fields = event_headers(topic.name, event_id or str(uuid.uuid4()), self.source, key, moment_ms, content_type)
        fields += [(name, value.encode()) for name, value in (headers or {}).items()]
        body = frame.encode(content_type)
        self.publish_raw(topic.name, key.encode(), body, fields, timestamp_ms=timestamp_ms, compression=topic.compression)

    def publish_raw(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        *,
        timestamp_ms: int | None = None,
        compression: Compression | None = None,
    ) -> None:
        """Queue bytes as they are. ValueError if `timestamp_ms` is not positive."""
        if timestamp_ms is not None and timestamp_ms < 1:  # the client would take 0 for now
            raise ValueError(must_be("timestamp_ms", "a positive number of milliseconds", timestamp_ms))
        moment = {} if timestamp_ms is None else {"timestamp": timestamp_ms}
        self._topics.add(topic)
        with self._fatal_named():
            self._queue(self._producers.of(compression), topic, value=value, key=key, headers=list(headers), **moment)

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until everything queued is confirmed."""
        with self._fatal_named():
            left = self._producers.flush(self._timeout_s + 1 if timeout_s is None else timeout_s)
        self._producers.raise_if_failed(self._take_failed(), left)

    def require_confirmed(self) -> None:
        """`DeliveryFailed` if something that was queued has failed by now; waits for nothing."""
        with self._fatal_named():
            self._producers.flush(0.0)
        if failed := self._take_failed():
            self._producers.raise_if_failed(failed, 0)

    def _take_failed(self) -> list[tuple[KafkaError, str]]:
        return [self._failed.popleft() for _ in range(len(self._failed))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.flush()
        else:
            with self._fatal_named():
                self._producers.flush(1.0)

    def _queue(self, producer: Producer, topic: str, **record: object) -> None:
        while True:
            try:
                producer.produce(topic, on_delivery=partial(self._report, topic), **record)
            except BufferError:
                producer.poll(0.05)
            except KafkaException as exc:
                if self._producers.cause.fatal is not None:
                    raise
                self._report(topic, exc.args[0], None)
                return
            else:
                producer.poll(0)
                return

    @contextmanager
    def _fatal_named(self) -> Iterator[None]:
        try:
            with self._producers.failures_named(cluster=f"WRITE on topic {', '.join(sorted(self._topics))}"):
                yield
        except NotAllowed:
            self._failed.clear()  # the reports of a producer that is no longer used
            raise

    def _report(self, topic: str, error: KafkaError | None, _message: Message | None) -> None:
        if error is not None:
            self._failed.append((error, topic))


class PlanSubscriber(Generic[F]):
    """The plans of one topic as they come: each id once, expired ones dropped, the newest by key kept.

    A subscriber without `group` reads every partition on its own, from now on or, with ``from_start``, from the earliest
    plan kept; with `key` it reads only that key's partition and plans. With `group` the members share the partitions.
    `latest` keeps the plans of the `max_keys` keys that were planned last, and of those no more than `max_bytes`; a plan
    counts with the bytes that it came in. A plan whose version is more than two hours ahead of the time does not come from
    an agent, and is passed over as unreadable: a subscriber that followed it would take no other. Partitions that the topic
    gets later are read too, within seconds. Use it from one thread, in a ``with`` block.

    Raises
    ------
    Transient
        Without `group`: the topic is absent, or no broker answers.
    ConfigError
        Both `key` and `group` are given.
    """

    def __init__(
        self,
        topic: Topic,
        frame: type[F],
        bootstrap_servers: str,
        *,
        group: str | None = None,
        key: str | None = None,
        from_start: bool = False,
        max_keys: int = MAX_LATEST_KEYS,
        max_bytes: int = MAX_LATEST_BYTES,
        settings: Settings | None = None,
    ) -> None:
        if key is not None and group is not None:
            raise ConfigError(must_be("key", "None with a group, whose members share the partitions", key))
        self.topic = topic
        self.frame = frame
        self._group = group
        self.latest: OrderedDict[str, F] = OrderedDict()
        self.repeated = self.expired = self.unreadable = 0
        self._key = None if key is None else key.encode()
        self._max_keys, self._max_bytes = max_keys, max_bytes
        self._sizes: dict[str, int] = {}
        self._kept_bytes = 0
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._seldom = OnceAMinute(log)
        base = (settings or load_settings()).model_copy(update={"bootstrap_servers": bootstrap_servers})
        self._logs = Identities(base, [topic.name])
        self._source: Reading | Member
        if group is None:
            self._source = self._read_alone(base, from_start)
        else:
            self._source = Member(base, topic.name, group, from_start, self._logs)

    def _read_alone(self, settings: Settings, from_start: bool) -> Reading:
        """Reads all partitions, or the key's: outside any group, so that what comes from now on is seen."""
        consumer, spans = open_reader(settings, self.topic.name)
        wanted = spans if self._key is None else [partition_of_key(self._key, len(spans))]
        starts = {TopicPartition(self.topic.name, at): OFFSET_BEGINNING if from_start else spans[at][1] for at in wanted}
        key = self._key
        choose = None if key is None else lambda partitions: [partition_of_key(key, len(partitions))]
        self._logs.ask(ANSWER_S)
        return Reading(settings, consumer, starts, self._logs, choose)

    def wait_assigned(self, timeout_s: float = 15.0) -> bool:
        """Poll until the partitions are assigned: plans published from then on are seen. False on timeout."""
        deadline = time.monotonic() + timeout_s
        while not self._source.assigned and time.monotonic() < deadline:
            message = self._source.poll(0.05)
            if message is not None and message.error() is None:
                self._take(message)
        return self._source.assigned

    def poll(self, timeout_s: float = 0.0, now_ns: int | None = None) -> F | None:
        """The next plan, or None if none came in time. `latest` has it by key.

        None also comes early, for a record that is passed over: repeated, expired or unreadable.
        """
        deadline = time.monotonic() + timeout_s
        if self._logs.changes():
            log.warning("%s is another log than before, its topic was created again: read from its start", self.topic.name)
            self._source.begin_again()
        while (message := self._source.poll(max(0.0, deadline - time.monotonic()))) is not None:
            error = message.error()
            if error is None:
                if self._key is None or message.key() == self._key:
                    return self._take(message, now_ns)
            elif error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED and self._group is None:
                continue  # who reads alone is in no group: it needs no right on one
            elif error.code() != KafkaError._PARTITION_EOF:
                raise_if_fatal(error)
                rights = {"topic": f"READ on topic {self.topic.name}", "group": f"READ on group {self._group}"}
                self._seldom.warning(f"subscriber: {denied(error, **rights) or error}")
                return None
        return None

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
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _take(self, message: Message, now_ns: int | None = None) -> F | None:
        try:
            event_id = event_id_of(message)
            if event_id in self._ids:
                self.repeated += 1
                return None
            plan = frame_of(message, self.frame)
            _check_version(plan, now_ns)
        except FrameError as exc:
            self.unreadable += 1
            log.warning("unreadable plan at %s/%s: %s", message.partition(), message.offset(), exc)
            return None
        self._ids[event_id] = None
        if len(self._ids) > REMEMBERED_IDS:
            self._ids.popitem(last=False)
        if isinstance(plan, Plan) and plan.expired(time.time_ns() if now_ns is None else now_ns):
            self.expired += 1
            return None
        self._keep(str(getattr(plan, self.topic.key)), plan, len(message.value() or b""))
        return plan

    def _keep(self, key: str, plan: F, size: int) -> None:
        """Note the newest plan of a key, and let go of those whose keys were planned longest ago."""
        self._kept_bytes += size - self._sizes.pop(key, 0)
        self._sizes[key] = size
        self.latest[key] = plan
        self.latest.move_to_end(key)
        while len(self.latest) > 1 and (len(self.latest) > self._max_keys or self._kept_bytes > self._max_bytes):
            oldest, _ = self.latest.popitem(last=False)
            self._kept_bytes -= self._sizes.pop(oldest)


def _check_version(plan: Frame, now_ns: int | None) -> None:
    """`FrameError` if the version of a plan is not near the time in ms, as agents count, or below."""
    most = max(time.time_ns(), now_ns or 0) // 1_000_000 + VERSION_AHEAD_MS
    if isinstance(plan, VersionedPlan) and plan.version > most:
        raise FrameError(must_be("version", f"at most {most}, the time in ms and two hours", plan.version))


class Exchange(Generic[F]):
    """Questions on one topic and their answers on another, through a publisher and a subscriber that the caller owns.

    Use it from the subscriber's thread, one question at a time.
    """

    def __init__(self, publisher: Publisher, subscriber: PlanSubscriber[F]) -> None:
        self.publisher = publisher
        self.subscriber = subscriber

    def ask(self, topic: Topic, frame: Frame, match: Callable[[F], bool], timeout_s: float) -> F | None:
        """Publish `frame` and wait for the first plan that `match` accepts; None if none came in time.

        The answer names its question: `match` compares an id, such as ``lambda plan: plan.batch_id == batch.batch_id``.
        Other plans that come meanwhile are in the subscriber's `latest`. `DeliveryFailed` if the broker did not confirm
        the question.
        """
        deadline = time.monotonic() + timeout_s
        if not self.subscriber.wait_assigned(timeout_s):
            return None
        self.publisher.publish(topic, frame)
        self.publisher.flush(max(0.0, deadline - time.monotonic()))
        while (left := deadline - time.monotonic()) > 0:
            plan = self.subscriber.poll(left)
            if plan is not None and match(plan):
                return plan
        return None
