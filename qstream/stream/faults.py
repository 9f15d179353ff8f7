"""Faults: which errors of the Kafka client end its user, and the first error of an answer for several partitions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaPartition

from qstream.errors import Fatal, Fenced
from qstream.stream.cause import denied

FENCING_ERRORS = {KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED, KafkaError.UNRELEASED_INSTANCE_ID}


def raise_if_fatal(error: KafkaError, **rights: str) -> None:
    """`Fenced` or `Fatal` for an error after which this client can do nothing more; `rights` as `cause.denied` takes them."""
    if error.code() in FENCING_ERRORS:
        raise Fenced(f"another worker with this identity took over: {error}")
    if error.fatal():
        raise Fatal(f"the Kafka client failed for good: {denied(error, **rights) or error}")


@contextmanager
def fatal_named(transactor: Producer | None = None, **rights: str) -> Iterator[None]:
    """`Fenced` or `Fatal` for a fatal error that the client raises by itself, from any call that serves its callbacks.

    A callback that runs after it turns it into the cause of a SystemError, or, if it caught that, leaves a SystemError
    without a cause. Then a transactional producer, `transactor`, is asked for the error: no `error_cb` gets a fatal one.
    """
    try:
        yield
    except (KafkaException, SystemError) as exc:
        error = exc if isinstance(exc, KafkaException) else exc.__cause__
        if isinstance(error, KafkaException):
            raise_if_fatal(error.args[0], **rights)
        if isinstance(exc, SystemError):
            if transactor is not None:
                _raise_fatal_of(transactor, **rights)
            raise Fatal(f"the Kafka client failed for good: {exc}") from exc
        raise


def _raise_fatal_of(transactor: Producer, **rights: str) -> None:
    """A producer that has failed for good refuses to begin a transaction by the error that ended it, one in a transaction
    by another one: either way at once, and nothing begins."""
    try:
        transactor.begin_transaction()
    except KafkaException as exc:
        raise_if_fatal(exc.args[0], **rights)


def raise_first(answers: Iterable[KafkaPartition]) -> None:
    """KafkaException if one partition was refused, though others were not."""
    for answer in answers:
        if answer.error is not None:
            raise KafkaException(answer.error)
