"""DeadLetter: why a record could not be processed; its own bytes, key and headers travel unchanged with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError

from schemas.frame import Count, Frame, FrameError, Name, explain

Headers = Sequence[tuple[str, bytes | None]]
PREFIX = "__connect.errors."
MAX_MESSAGE = 1000
MAX_STACK = 8000
HEADER_NAMES = {
    "topic": "topic",
    "partition": "partition",
    "offset": "offset",
    "stage": "stage",
    "error_class": "exception.class.name",
    "error_message": "exception.message",
    "stack_trace": "exception.stacktrace",
    "attempts": "attempts",
    "timestamp_ms": "timestamp",
    "omitted_bytes": "omitted.bytes",
}


def _utf8(text: Any) -> Any:
    """Text that UTF-8 can hold: an error may quote any string, and its letter has to be written all the same."""
    return text.encode(errors="replace").decode() if isinstance(text, str) else text


Message = Annotated[str, BeforeValidator(_utf8)]


class DeadLetter(Frame):
    """The error of one record, written as Kafka Connect's error headers on the dead-letter topic.

    Source: Kafka Connect, DeadLetterQueueReporter (``__connect.errors.*``). `attempts` counts how often the record came
    here: a redriven record that fails again keeps counting. `omitted_bytes` is the size of a value that is not with the
    letter, because both together were too large for the topic; it still lies where `id` says.
    """

    topic: Name = Field(description="topic of the record that failed")
    partition: Count = Field(description="its partition")
    offset: Count = Field(description="its offset")
    stage: Literal["decode", "process", "produce"] = Field(description="what failed")
    error_class: Name = Field(description="name of the exception's class")
    error_message: Message = Field(default="", max_length=MAX_MESSAGE, description="message of the exception")
    stack_trace: Message = Field(default="", max_length=MAX_STACK, description="stack trace of the exception")
    attempts: int = Field(default=1, ge=1, lt=2**63, description="how often the record was dead-lettered, this time included")
    timestamp_ms: Count = Field(description="timestamp of the record, ms since 1970")
    omitted_bytes: Count = Field(
        default=0, description="bytes of a value that is too large to travel with the letter; 0: it does"
    )

    @property
    def id(self) -> str:
        """The record that failed; the same on every repetition."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    def headers(self) -> list[tuple[str, bytes]]:
        """The error headers."""
        values = self.model_dump(exclude={"frame"} if self.omitted_bytes else {"frame", "omitted_bytes"})
        return [(PREFIX + HEADER_NAMES[name], str(value).encode()) for name, value in values.items() if value != ""]

    @classmethod
    def from_headers(cls, headers: Headers) -> Self:
        """Read the error headers of a dead letter; `FrameError` if it has none."""
        found = {name: value for name, value in headers if value is not None}
        fields = {f: found[PREFIX + h].decode(errors="replace") for f, h in HEADER_NAMES.items() if PREFIX + h in found}
        if not fields:
            raise FrameError(f"DeadLetter: the record has no {PREFIX}* headers")
        try:
            return cls.model_validate_strings(fields)
        except ValidationError as exc:
            raise FrameError(explain(cls, exc)) from exc

    @staticmethod
    def original(headers: Headers) -> list[tuple[str, bytes | None]]:
        """The headers without the error headers, as the record had them when it failed."""
        return [(name, value) for name, value in headers if not name.startswith(PREFIX)]

    @classmethod
    def example(cls) -> Self:
        return cls(
            topic="qstream.tokens.batch.v1",
            partition=3,
            offset=17,
            stage="decode",
            error_class="FrameError",
            error_message="TokenBatch.v1.token_id must be uint64, got dtype F32",
            timestamp_ms=1_700_000_000_000,
        )
