"""Faults: which errors of the Kafka client end its user, and the first error of an answer for several partitions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from qstream.errors import Fatal, Fenced
from qstream.stream.cause import Cause, denied

FENCING_ERRORS = {KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED, KafkaError.UNRELEASED_INSTANCE_ID}


def raise_if_fatal(error: KafkaError, **rights: str) -> None:
    """`Fenced` or `Fatal` for an error after which this client can do nothing more; `rights` as `cause.denied` takes them."""
    if error.code() in FENCING_ERRORS:
        raise Fenced(f"another worker with this identity took over: {error}")
    if error.fatal():
        raise Fatal(f"the Kafka client failed for good: {denied(error, **rights) or error}")


@contextmanager
def fatal_named(cause: Cause, **rights: str) -> Iterator[None]:
    """`Fenced` or `Fatal` for the error that ended the client of `cause`, from any call that serves its callbacks.

    The call raises it as it is, or as the cause of a SystemError of a callback that ran after it, or a SystemError without
    a cause if it was lost; a call that comes later says only that there was one.
    """
    try:
        yield
    except (KafkaException, SystemError) as exc:
        error = exc if isinstance(exc, KafkaException) else exc.__cause__
        if cause.fatal is not None:
            raise_if_fatal(cause.fatal, **rights)
        if isinstance(error, KafkaException):
            raise_if_fatal(error.args[0], **rights)
        if isinstance(exc, SystemError):
            raise Fatal(f"the Kafka client failed for good: {exc}") from exc
        raise


def raise_first(answers: Iterable[KafkaPartition]) -> None:
    """KafkaException if one partition was refused, though others were not."""
    for answer in answers:
        if answer.error is not None:
            raise KafkaException(answer.error)
