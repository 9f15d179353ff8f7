"""Producers: how qstream's producers are configured, and one producer for each compression that topics ask for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from confluent_kafka import KafkaError, Producer

from qstream.config import Settings
from qstream.errors import DeliveryFailed, Fatal, NotAllowed
from qstream.stream.cause import Cause, denied, open_client
from qstream.stream.faults import fatal_named
from qstream.stream.identity import PERIOD_S
from schemas.topics import TOPICS, Compression

MAX_RECORD_BYTES = max(int(topic.config()["max.message.bytes"]) for topic in TOPICS)  # each topic refuses at its own


def producer_config(settings: Settings) -> dict[str, object]:
    """librdkafka properties of a producer that keeps order and never repeats a record by itself."""
    return {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": settings.worker_id,
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "linger.ms": 2,
        "compression.type": "lz4",
        "message.max.bytes": MAX_RECORD_BYTES,
        "delivery.report.only.error": True,
        "message.timeout.ms": settings.delivery_timeout_ms,
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 500,
        "topic.metadata.refresh.interval.ms": int(PERIOD_S * 1000),  # else new partitions get nothing for five minutes
    } | {name: value for name, value in settings.kafka_properties().items() if not name.startswith("fetch.")}


class Producers:
    """A producer for the client's own compression, and one for each other compression that topics ask for.

    librdkafka knows one compression a producer. A topic's records go through one of them, so that they keep their order.
    """

    def __init__(self, settings: Settings, config: Mapping[str, object]) -> None:
        self.cause = Cause()
        self._settings = settings
        self._config = dict(config)
        self._made: dict[Compression | None, Producer] = {}
        self.of(None)

    def of(self, compression: Compression | None) -> Producer:
        """The producer for a topic with this compression."""
        producer = self._made.get(compression)
        if producer is None:
            own = {} if compression is None else {"compression.type": compression}
            producer = open_client(Producer, self._settings, self._config | own, self.cause)
            self._made[compression] = producer
        return producer

    @contextmanager
    def failures_named(self, **rights: str) -> Iterator[None]:
        """`Fatal`, `Fenced` or `NotAllowed` for an error that ended a producer; `rights` as `cause.denied` takes them.

        A user who may write to no topic at all loses the producer, which is then made again: the right may come later. With
        a transactional id that does not help, since a new producer would have to fence the old one.
        """
        cause = self.cause
        try:
            with fatal_named(cause, **rights):
                yield
        except Fatal as exc:
            right = None if cause.fatal is None else denied(cause.fatal, **rights)
            if right is None or "transactional.id" in self._config:
                raise
            if self.cause is cause:
                self._made, self.cause = {}, Cause()
            raise NotAllowed("records were refused", right) from exc

    def raise_if_denied(self, error: KafkaError, topic: str) -> None:
        """`NotAllowed` that names the right, if one is missing to write to the topic."""
        if right := denied(error, topic=f"WRITE on topic {topic}"):
            raise NotAllowed(f"records of {topic} were refused", right)

    def not_confirmed(self, count: int, error: KafkaError | None) -> DeliveryFailed:
        """The error for so many records that the broker did not confirm, with what the client said of the reason."""
        why = self.cause.explain(KafkaError(KafkaError._MSG_TIMED_OUT) if error is None else error)
        return DeliveryFailed(f"{count} records were not confirmed: {why}")

    def raise_if_failed(self, failed: Sequence[tuple[KafkaError, str]], left: int) -> None:
        """`NotAllowed` or `DeliveryFailed` if some records failed, each with its topic, or `left` were not confirmed in time."""
        for error, topic in failed:
            self.raise_if_denied(error, topic)
        if failed or left:
            raise self.not_confirmed(len(failed) + left, failed[0][0] if failed else None)
        self.cause.clear()

    def give_up(self) -> None:
        """Drop all that is queued or on its way, at once, so that nothing of it follows what is missing before it."""
        for producer in list(self._made.values()):
            producer.purge()
            producer.flush(1.0)  # serves the reports of what was dropped

    def flush(self, timeout_s: float) -> int:
        """Wait until all that is queued is confirmed; the number of records that are not in time."""
        deadline = time.monotonic() + timeout_s
        return sum(producer.flush(max(0.0, deadline - time.monotonic())) for producer in list(self._made.values()))
