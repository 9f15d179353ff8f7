"""Headers: reading those of any record, CloudEvents 1.0 on those of qstream, and the trace context that goes with it."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from operator import methodcaller

from confluent_kafka import Message

from schemas.deadletter import Headers
from schemas.frame import FrameError
from schemas.wording import Shown, must_be

CONTENT_TYPE = "content-type"
EVENT_TYPE = "ce_type"
LAST_MS = 253_402_300_799_000  # 9999-12-31T23:59:59Z, the last second that RFC 3339 can write
PASSED_ON = ("traceparent", "tracestate")
# Called by C code, which checks what it returns: the client returns a list with a null pointer in it together with an error,
# and the interpreter's fast path for ``message.headers()`` would go on with the list, to a segmentation fault.
_read_headers = methodcaller("headers")


def headers_of(message: Message) -> Headers:
    """The headers of a record. `FrameError` if the client cannot read them, because a name is not UTF-8: then the message has
    none from now on."""
    try:
        headers: Headers = _read_headers(message) or ()
        return headers
    except (UnicodeDecodeError, SystemError) as exc:
        # The client would give out that list from now on.
        message.set_headers([])
        cause = exc.__cause__ if isinstance(exc, SystemError) else exc
        if not isinstance(cause, UnicodeDecodeError):
            raise
        name = cause.object
        raise FrameError(must_be("names of headers", "UTF-8", name.decode(errors="backslashreplace"))) from exc


def value_of(message: Message, kind: str) -> bytes:
    """The bytes of a record that is to hold a frame of some kind. `FrameError` for one without value."""
    value: bytes | None = message.value()
    if value is None:
        raise FrameError(must_be("value", f"a {kind}", Shown("null: a tombstone, which only ends a row of a compacted topic")))
    return value


def event_headers(
    topic: str, event_id: str, source: str, subject: str, timestamp_ms: int, content: str
) -> list[tuple[str, bytes]]:
    """CloudEvents 1.0 headers in Kafka's binary mode."""
    return [
        *_kind(topic, source, content),
        ("ce_id", event_id.encode()),
        ("ce_time", _moment(timestamp_ms)),
        ("ce_subject", subject.encode()),
    ]


@lru_cache(maxsize=1024)
def _kind(topic: str, source: str, content: str) -> tuple[tuple[str, bytes], ...]:
    """The headers that all events of one kind share."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_source", source.encode()),
        (EVENT_TYPE, topic.encode()),
        (CONTENT_TYPE, content.encode()),
    )


@lru_cache(maxsize=1024)
def _moment(timestamp_ms: int) -> bytes:
    """RFC 3339; records that come in a batch share few milliseconds. A time beyond the year 9999 becomes its last second."""
    moment = datetime.fromtimestamp(min(timestamp_ms, LAST_MS) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()


def passed_on(headers: Headers) -> list[tuple[str, bytes]]:
    """The trace context of the cause, for its events."""
    return [(name, value) for name, value in headers if name in PASSED_ON and value is not None]


def event_id_of(message: Message) -> str:
    """The id in the headers; without one, the record's place. Both with the time of the record or of its cause: ids repeat
    when a topic is created again. A tick's event has its id alone, for its time is another one at each repetition."""
    headers = dict(headers_of(message))
    given, moment = headers.get("ce_id"), headers.get("ce_time")
    if not given:
        return f"{message.topic()}/{message.partition()}/{message.offset()} {message.timestamp()[1]}"
    name = given.decode(errors="replace")
    return name if moment is None or name.startswith("tick/") else f"{name} {moment.decode(errors='replace')}"
