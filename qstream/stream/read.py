"""Read: a topic outside any consumer group, whole or from now on; nothing is committed."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from qstream.config import Settings
from qstream.contract import TopicPartition
from qstream.errors import Transient, Unreachable
from qstream.stream.cause import Cause, denied, open_client
from qstream.stream.faults import raise_if_fatal
from qstream.stream.headers import CONTENT_TYPE, headers_of, value_of
from qstream.stream.identity import PERIOD_S, Identities
from qstream.stream.partition import partition_of_key
from qstream.stream.stall import Stall
from schemas.deadletter import DeadLetter
from schemas.frame import Frame, body_type

F = TypeVar("F", bound=Frame)
_ANSWER_S: Final = 10.0
_POLL_S: Final = 0.1
FIRST_ANSWER_S: Final = 2.0  # for the first answer of what the cluster says of a topic
log = logging.getLogger(__name__)
_MOVING = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_TOPIC_OR_PART}
_UNKNOWN = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC}


def read_all(settings: Settings, topic: str, key: str | None = None) -> Iterator[Message]:
    """Every record that the topic holds when the call begins, in order within a partition; with `key` those of that key alone.

    Records of aborted transactions are passed over. `Transient` if the topic is absent or the broker stops answering.
    """
    consumer, spans = open_reader(settings, topic)
    wanted = spans.keys() if key is None else {partition_of_key(key.encode(), len(spans))}
    left = {partition: high for partition, (low, high) in spans.items() if high > low and partition in wanted}
    try:
        consumer.assign([KafkaPartition(topic, partition, OFFSET_BEGINNING) for partition in left])
        deadline = time.monotonic() + _ANSWER_S
        while left:
            message = consumer.poll(_POLL_S)
            if message is None:
                if time.monotonic() > deadline:
                    raise Transient(f"topic {topic} was not read to its end: nothing came for {_ANSWER_S:.0f} s")
                continue
            ended = _is_end(message)
            if message.error() is not None and not ended:
                continue
            end = left.get(message.partition(), 0)
            if not ended and message.offset() < end and (key is None or message.key() == key.encode()):
                yield message
            if ended or message.offset() + 1 >= end:
                left.pop(message.partition(), None)
            deadline = time.monotonic() + _ANSWER_S
    finally:
        consumer.close()


def follow(settings: Settings, topic: str, from_start: bool = False) -> Iterator[Message | None]:
    """Records as they come, for ever; None whenever none came for a moment, so that the caller may stop.

    What is published after the call returns is seen. `Transient` if the topic is absent or no broker answers.
    """
    consumer, spans = open_reader(settings, topic)
    starts = {TopicPartition(topic, at): OFFSET_BEGINNING if from_start else high for at, (_, high) in spans.items()}
    logs = Identities(settings, [topic])
    logs.ask(FIRST_ANSWER_S)
    return _poll_for_ever(Reading(settings, consumer, starts, logs), logs)


def frame_of(message: Message, frame: type[F]) -> F:
    """The frame of a record, of a dead letter its reason; `FrameError` if it is unreadable."""
    headers = headers_of(message)
    if issubclass(frame, DeadLetter):
        return frame.from_headers(headers)
    body = value_of(message, frame.__name__)
    given = next((text for name, text in headers if name == CONTENT_TYPE and text), b"")
    return frame.decode(body, given.decode(errors="replace").split(";")[0].strip() or body_type(body))


def _poll_for_ever(reading: Reading, logs: Identities) -> Iterator[Message | None]:
    try:
        while True:
            if changed := logs.changes():
                log.warning("%s was created again: read from its start", ", ".join(changed))
                reading.begin_again()
            message = reading.poll(_POLL_S)
            yield None if message is None or _is_end(message) or message.error() is not None else message
    finally:
        reading.close()


def reader(settings: Settings, cause: Cause) -> Consumer:
    """A consumer outside any group, without assignment. To be closed."""
    config: dict[str, object] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "group.id": f"{settings.group_prefix}.reader.{uuid.uuid4()}",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 100,
        # A partition that has lost its leader to the client would otherwise be read again after up to five minutes.
        "topic.metadata.refresh.interval.ms": int(PERIOD_S * 1000),
    }
    return open_client(Consumer, settings, config | settings.kafka_properties(), cause)


def partitions_of(consumer: Consumer, topic: str, timeout_s: float = _ANSWER_S, cause: Cause | None = None) -> tuple[int, ...]:
    """The partitions of a topic. `Transient` if it is absent or no broker answers.

    `cause` says why, for a consumer without assignment: it is polled for that, which would lose records.
    """
    with _transient(consumer, cause, topic):
        known = consumer.list_topics(topic, timeout=timeout_s).topics[topic]
        if known.error is not None:
            raise KafkaException(known.error)
        return tuple(known.partitions)


class Reading:
    """What a consumer outside any group reads, kept going for as long as it is polled. Used by one thread.

    Partitions that its topics get later are read from their beginning. A client that has stopped fetching one of them is
    replaced by a new one, which goes on at the same offsets. It is `assigned` from the beginning.

    Parameters
    ----------
    consumer
        A `reader` without assignment; closed by `close`.
    starts
        The offset at which each partition is read first.
    logs
        What the cluster says of these topics; asked for its `changes` by the owner.
    choose
        Of all partitions of a topic those that are wanted; None for all.
    """

    assigned: Final = True

    def __init__(
        self,
        settings: Settings,
        consumer: Consumer,
        starts: Mapping[TopicPartition, int],
        logs: Identities,
        choose: Callable[[Sequence[int]], Sequence[int]] | None = None,
    ) -> None:
        self._settings = settings
        self._consumer = consumer
        self._logs = logs
        self._known: Mapping[str, Sequence[int]] = {}
        self._choose = choose or (lambda partitions: partitions)
        self._stall = Stall(logs)
        self._stall.next |= starts
        self._assign()

    @property
    def partitions(self) -> set[TopicPartition]:
        """All that is read."""
        return set(self._stall.next)

    def poll(self, timeout_s: float) -> Message | None:
        """The next message, as of a consumer."""
        self._take_up()
        message = self._consumer.poll(timeout_s)
        if message is not None:
            self._stall.note(message)
        elif self._stall.found(lambda: self._stall.next):
            self._replace()
        return message

    def begin_again(self) -> None:
        """Read all from the start, by a new client: a topic was created again.

        A client holds on to the highest leader epoch that it has seen of a partition. A new log begins at epoch 0, and its
        client waits for the leader of the old log, however it seeks or is assigned.
        """
        self._stall.next = dict.fromkeys(self._stall.next, OFFSET_BEGINNING)
        self._replace()

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()

    def _replace(self) -> None:
        self._consumer.close()
        self._consumer = reader(self._settings, Cause())
        self._assign()

    def _assign(self) -> None:
        self._consumer.assign([KafkaPartition(*at, offset) for at, offset in sorted(self._stall.next.items())])

    def _take_up(self) -> None:
        """Read the partitions that the newest answer has and the one before it had not."""
        if self._logs.partitions is self._known:
            return
        self._known = self._logs.partitions
        wanted = {TopicPartition(topic, at) for topic, partitions in self._known.items() for at in self._choose(partitions)}
        if new := sorted(wanted - self._stall.next.keys()):
            log.info("new partitions: %s", ", ".join(f"{at.topic}:{at.partition}" for at in new))
            self._consumer.incremental_assign([KafkaPartition(*at, OFFSET_BEGINNING) for at in new])
            self._stall.next |= dict.fromkeys(new, OFFSET_BEGINNING)


def open_reader(settings: Settings, topic: str) -> tuple[Consumer, dict[int, tuple[int, int]]]:
    """A reader of one topic, and the first and next offset of each partition; errors as `partitions_of`."""
    cause = Cause()
    consumer = reader(settings, cause)
    try:
        partitions = partitions_of(consumer, topic, cause=cause)
        with _transient(consumer, cause, topic):
            return consumer, {partition: _watermarks(consumer, KafkaPartition(topic, partition)) for partition in partitions}
    except Transient:
        consumer.close()
        raise


@contextmanager
def _transient(consumer: Consumer, cause: Cause | None, topic: str) -> Iterator[None]:
    try:
        yield
    except KafkaException as exc:
        error = exc.args[0]
        if error.code() in _UNKNOWN:
            raise Transient(f"the cluster has no topic {topic}; create it by: qstream topics apply") from exc
        if right := denied(error, topic=f"DESCRIBE on topic {topic}"):
            raise Transient(f"{right}, or it does not exist") from exc
        if cause is None:
            raise Unreachable(f"topic {topic}: no broker answers: {error.str()}", "") from exc
        consumer.poll(0)  # serves the error callback
        found = "the broker refuses this client" if cause.is_refusal else "no broker answers"
        raise Unreachable(f"topic {topic}: {found}: {cause.explain(error)}", cause.fix(error)) from exc


def _watermarks(consumer: Consumer, partition: KafkaPartition) -> tuple[int, int]:
    """First and next offset; a partition that is new or moves to another broker is asked again."""
    deadline = time.monotonic() + _ANSWER_S
    while True:
        try:
            low, high = consumer.get_watermark_offsets(partition, timeout=_ANSWER_S)
        except KafkaException as exc:
            if exc.args[0].code() not in _MOVING or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
        else:
            return low, high


def _is_end(message: Message) -> bool:
    """Whether this marks the end of a partition; `Fatal` for an error after which nothing more can come."""
    error = message.error()
    if error is None:
        return False
    if error.code() == KafkaError._PARTITION_EOF:
        return True
    if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:  # a reader is in no group: it needs no right on one
        return False
    raise_if_fatal(error)
    if right := denied(error, topic=f"READ on topic {message.topic()}"):
        raise Transient(right)
    if error.code() == KafkaError._AUTHENTICATION:
        raise Transient(f"the broker refused the reader: {error.str()}")
    return False
