"""Produce: events and dead letters to the broker, with headers and ids, every delivery confirmed."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from qstream.config import Settings, is_embedded
from qstream.contract import Event, TopicPartition
from qstream.errors import EXIT_FATAL, ConfigError, DeliveryFailed, Fatal, Fenced, NotAllowed
from qstream.stream.cause import denied
from qstream.stream.decode import Rejected, reject
from qstream.stream.faults import raise_if_fatal
from qstream.stream.headers import event_headers, passed_on
from qstream.stream.producers import Producers, producer_config
from schemas.deadletter import Headers
from schemas.frame import FrameError
from schemas.topics import Compression

log = logging.getLogger(__name__)
CLUSTER_ID_S = 10.0
REFUSED_FOR_GOOD = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError._BAD_MSG}


class Outbox:
    """The producers of one thread: what is sent is confirmed by the broker, or the whole turn fails.

    A record that the broker will never take takes those of its batch down with it. So after a refusal each of them becomes
    a suspect, and goes alone when the turn comes again; what is refused when alone is refused for good. A transaction has
    one producer, which compresses all topics alike; librdkafka sends what does not shrink as it is.
    """

    def __init__(self, settings: Settings, agent: str, dead_letter_topic: str) -> None:
        self.settings = settings
        self.source = f"qstream/{agent}"
        self.dead_letter_topic = dead_letter_topic
        self._failed: list[tuple[KafkaError, str]] = []
        self._suspects: set[str] = set()
        self._refused: dict[str, KafkaError] = {}
        # A record that is late is given up with all that follow it (`_wait`), not by the client, which would send those.
        config = producer_config(settings) | {"message.timeout.ms": 0}
        self.transactional = settings.delivery == "exactly_once"
        identity = f"{settings.group_prefix}.{agent}-{settings.worker_id}"
        self._hangs_s = 3 * settings.transaction_timeout_ms / 1000
        self._rights = {
            "transactional_id": f"WRITE on transactional id {identity}",
            "group": f"READ on group {settings.group_prefix}.{agent}",
        }
        if self.transactional:
            config |= {
                "transactional.id": identity,
                "transaction.timeout.ms": settings.transaction_timeout_ms,
                "message.timeout.ms": min(settings.delivery_timeout_ms, settings.transaction_timeout_ms),
            }
        self._producers = Producers(settings, config)
        self._transactor = self._producers.of(None)

    def start(self, cluster_id: Callable[[float], str | None]) -> None:
        """Fence earlier workers with this transactional id; nothing to do without transactions.

        `cluster_id` asks the broker within so many seconds. `ConfigError` if that is the embedded one.
        """
        if self.transactional:
            if is_embedded(cluster_id(CLUSTER_ID_S)):
                raise ConfigError(
                    "delivery must be 'at_least_once' on the embedded broker, got 'exactly_once': "
                    "the embedded broker cannot do transactions; name a real cluster by --bootstrap-servers"
                )
            with _watchdog(self._hangs_s):
                self._transact(self._transactor.init_transactions)

    def send(self, events: Sequence[Event], rejected: Sequence[Rejected]) -> list[Rejected]:
        """Deliver all and wait. Events that the broker can never take come back as dead letters of their cause, delivered.

        `DeliveryFailed` if anything was not confirmed in time: then the whole turn must be delivered again.
        """
        with self._fatal_named():
            return self._send(events, [*rejected])

    def _send(self, events: Sequence[Event], dead: list[Rejected]) -> list[Rejected]:
        self._failed.clear()  # the reports of a producer that was lost
        for event in events:
            try:
                self._put_event(event)
            except (FrameError, KafkaException) as exc:
                dead += _blame(event, exc)
        self._wait()
        for letter in dead:
            self._put_dead(letter)
        self._wait()
        self._suspects.clear()
        self._refused.clear()
        return dead

    @contextmanager
    def transaction(self, notes: Mapping[TopicPartition, tuple[int, str]], group_metadata: object) -> Iterator[None]:
        """What is sent inside becomes visible together with the offsets and their metadata, or not at all."""
        offsets = [KafkaPartition(p.topic, p.partition, offset, note) for p, (offset, note) in notes.items()]
        with _absence_named():
            self._transact(self._transactor.begin_transaction)
            with self._aborted_if_failed():
                yield
                with _watchdog(self._hangs_s):
                    self._transact(self._transactor.send_offsets_to_transaction, offsets, group_metadata)
                    self._transact(self._transactor.commit_transaction)

    @contextmanager
    def _aborted_if_failed(self) -> Iterator[None]:
        try:
            yield
        except DeliveryFailed:
            with self._fatal_named(), _watchdog(self._hangs_s):
                self._transactor.purge()
                self._transact(self._transactor.abort_transaction)
                self._transactor.flush(1.0)  # serves the reports of what was purged
            self._failed.clear()
            raise

    def close(self, timeout_s: float) -> None:
        """Send what is still queued, for at most `timeout_s`."""
        with self._fatal_named():
            self._producers.flush(timeout_s)

    def _fatal_named(self) -> AbstractContextManager[None]:
        return self._producers.failures_named(**self._rights)

    def _transact(self, call: Callable[..., object], *arguments: object) -> None:
        """A transactional call: retried while it may be, else `Fenced`, `Fatal`, or `DeliveryFailed` (abort and start over)."""
        while True:
            try:
                with self._fatal_named():
                    call(*arguments)
            except KafkaException as exc:
                error = exc.args[0]
                if error.code() == KafkaError.INVALID_PRODUCER_EPOCH:
                    raise Fenced(f"a newer worker has this transactional id: {error}") from exc
                if right := denied(error, **self._rights):
                    raise NotAllowed("a transaction was refused", right) from exc
                if not error.retriable():
                    raise DeliveryFailed(f"transaction: {error}") from exc
                time.sleep(0.05)
            else:
                return

    def _put_event(self, event: Event) -> None:
        if event.id in self._refused:
            raise KafkaException(self._refused[event.id])
        cause = event.cause
        moment = cause.timestamp_ms if cause else int(time.time() * 1000)
        content_type = event.topic.content_type
        headers = event_headers(event.topic.name, event.id, self.source, event.key, moment, content_type)
        if cause and cause.headers:
            headers += passed_on(cause.headers)
        body = event.frame.encode(content_type)
        self._put(event.id, event.topic.name, event.key.encode(), body, headers, event.topic.compression)

    def _put_dead(self, dead: Rejected) -> None:
        """A record as large as its topic allows may be too large with its letter: then the letter goes without the bytes."""
        name = f"dead letter {dead.letter.id}"
        letter, value = dead.letter, dead.value
        if name in self._refused and value is not None:
            letter, value = letter.model_copy(update={"omitted_bytes": len(value)}), None
        self._put(name, self.dead_letter_topic, dead.key, value, [*dead.headers, *letter.headers()])

    def _put(
        self,
        name: str,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        compression: Compression | None = None,
    ) -> None:
        producer = self._transactor if self.transactional else self._producers.of(compression)
        alone = name in self._suspects
        if alone:
            self._wait()
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=partial(self._report, name, topic, alone), headers=headers)
            except BufferError:
                self._wait()
            except KafkaException as exc:
                if self._producers.cause.fatal is not None:
                    raise
                self._report(name, topic, True, exc.args[0], None)
                break
            else:
                break
        if alone:
            self._wait()

    def _report(self, name: str, topic: str, alone: bool, error: KafkaError | None, _message: Message | None) -> None:
        if error is None:
            return
        self._failed.append((error, topic))
        if error.code() in REFUSED_FOR_GOOD:
            self._suspects.add(name)
            if alone:
                self._refused[name] = error

    def _wait(self) -> None:
        left = self._producers.flush(self.settings.delivery_timeout_ms / 1000 + 1)
        failed, self._failed = self._failed, []
        if left and not self.transactional:  # an abort drops what a transaction has left
            self._producers.give_up()
            self._failed.clear()
        for error, _ in failed:
            raise_if_fatal(error, **self._rights)
        self._producers.raise_if_failed(failed, left)


def _blame(event: Event, error: Exception) -> list[Rejected]:
    """The dead letter of the record that caused an event which can never be sent; a tick's event has no cause."""
    if event.cause is None:
        log.error("tick event %s cannot be sent: %s", event.id, error)
        return []
    return [reject(event.cause, error, "produce", f"event {event.id}: {error}")]


@contextmanager
def _absence_named() -> Iterator[None]:
    """A fatal error of a transaction in the operator's words: the client's own blame another worker."""
    try:
        yield
    except Fatal as exc:
        raise type(exc)(f"{exc}; so it is as well where the coordinating broker was away while a transaction was open") from exc


@contextmanager
def _watchdog(seconds: float) -> Iterator[None]:
    """End the process without commit if the block hangs: transactional calls wait for their coordinator without a limit."""
    timer = threading.Timer(seconds, _end_hanging, [seconds])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_hanging(seconds: float) -> None:
    log.critical(
        "a transaction did not end within %.3g s, its coordinating broker is away: the worker ends without commit", seconds
    )
    logging.shutdown()
    os._exit(EXIT_FATAL)
