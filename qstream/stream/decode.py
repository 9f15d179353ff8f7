"""Decode: messages into records grouped by key, or into dead letters."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from confluent_kafka import Message

from qstream.contract import Record
from qstream.stream.clocks import stamp_ms
from qstream.stream.headers import CONTENT_TYPE, EVENT_TYPE, headers_of, value_of
from schemas.deadletter import MAX_MESSAGE, MAX_STACK, DeadLetter, Headers
from schemas.frame import FrameError, body_type
from schemas.topics import Topic
from schemas.wording import must_be

ATTEMPTS_HEADER = "qstream_attempts"


@dataclass(frozen=True, slots=True, eq=False)
class Rejected:
    """A record that cannot be processed: the reason, and its own bytes for the dead-letter topic."""

    letter: DeadLetter
    key: bytes | None
    value: bytes | None
    headers: Headers


def decode(
    messages: Iterable[Message], topics: Mapping[str, Topic], time_of: Callable[[Message], int] = stamp_ms
) -> tuple[list[Record], list[Rejected]]:
    """Validate every message; faults become `Rejected`, tombstones of compacted topics are passed over.

    `time_of` says when a record happened, in ms since 1970; by default what its timestamp says.
    """
    records: list[Record] = []
    rejected: list[Rejected] = []
    for message in messages:
        topic = topics[message.topic()]
        if message.value() is None and topic.compacted:
            continue
        try:
            records.append(_record(message, topic, time_of))
        except FrameError as exc:
            rejected.append(_reject_message(message, exc))
    return records, rejected


def by_key(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records grouped by key, in order within a key."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.key, []).append(record)
    return groups


def reject(record: Record, error: BaseException, stage: Literal["process", "produce"], reason: str | None = None) -> Rejected:
    """A dead letter for a record that was decoded but cannot be processed or answered."""
    letter = DeadLetter(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        stage=stage,
        error_class=type(error).__name__[:200],
        error_message=(reason or str(error) or type(error).__name__)[:MAX_MESSAGE],
        stack_trace=_stack(error),
        attempts=attempts(record.headers) + 1,
        timestamp_ms=max(record.timestamp_ms, 0),
    )
    return Rejected(letter, record.raw_key, record.value, record.headers)


def attempts(headers: Headers) -> int:
    """How often the record has been a dead letter before."""
    for name, value in headers:
        if name == ATTEMPTS_HEADER and value is not None and value.isdigit() and len(value) < 7:
            return int(value)
    return 0


def _record(message: Message, topic: Topic, time_of: Callable[[Message], int]) -> Record:
    value = value_of(message, topic.frame.__name__)
    headers = headers_of(message)
    content_type = ""
    for name, text in headers:
        if name == CONTENT_TYPE and text:
            content_type = _media_type(text)
        elif name == EVENT_TYPE and text is not None and text != topic.name.encode():
            raise FrameError(must_be(f"header {EVENT_TYPE}", repr(topic.name), text.decode(errors="replace")))
    frame = topic.frame.decode(value, content_type or body_type(value))
    key = str(getattr(frame, topic.key))
    raw_key = message.key()
    if raw_key is not None and raw_key != key.encode():
        raise FrameError(must_be("record key", f"{topic.key} {key!r}", raw_key[:100].decode(errors="replace")))
    return Record(topic.name, message.partition(), message.offset(), key, frame, time_of(message), headers, value, raw_key)


@lru_cache(maxsize=256)
def _media_type(content_type: bytes) -> str:
    """Without parameters such as the charset."""
    return content_type.decode(errors="replace").split(";")[0].strip()


def _reject_message(message: Message, error: FrameError) -> Rejected:
    """A dead letter with the bytes of a record; headers that cannot be read do not travel."""
    headers: Headers = message.headers() or ()  # readable or empty, once `headers_of` has tried
    letter = DeadLetter(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        stage="decode",
        error_class=type(error).__name__,
        error_message=str(error)[:MAX_MESSAGE],
        attempts=attempts(headers) + 1,
        timestamp_ms=stamp_ms(message),
    )
    return Rejected(letter, message.key(), message.value(), headers)


def _stack(error: BaseException) -> str:
    """The end of the stack trace, where the fault is."""
    return "".join(traceback.format_exception(error))[-MAX_STACK:]
