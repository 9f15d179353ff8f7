"""What a module and the stream agree on: records in, events and state out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

from qstream.errors import Poison
from schemas.control import Scalar
from schemas.deadletter import Headers
from schemas.frame import Frame
from schemas.topics import Topic

S = TypeVar("S", bound=Frame)


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}"


@lru_cache(maxsize=1 << 16)
def partition_of(topic: str, partition: int) -> TopicPartition:
    """The same object for the same partition: thousands of records a second ask for one of a few."""
    return TopicPartition(topic, partition)


@dataclass(slots=True, eq=False)  # as immutable as if frozen, which would cost three times as much to make
class Record:
    """One decoded record of an input topic; not to be changed.

    `value` and `raw_key` are the bytes as they came, for a dead letter; `key` is the unit of order.
    """

    topic: str
    partition: int
    offset: int
    key: str
    frame: Frame
    timestamp_ms: int
    headers: Headers = ()
    value: bytes = b""
    raw_key: bytes | None = None

    @property
    def origin(self) -> TopicPartition:
        """The partition that it came from."""
        return partition_of(self.topic, self.partition)

    @property
    def id(self) -> str:
        """``<topic>/<partition>/<offset>``, the same on every delivery."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    def event_id(self, n: int) -> str:
        """Id of the n-th event that this record causes."""
        return f"{self.id}/{n}"


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Records of one key in order."""

    key: str
    records: Sequence[Record]


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """A frame to publish. `cause` is the last input record that it covers, None for a tick's event.

    `id` is ``cause.event_id(n)``, or ``tick/<key>/<state version>/<n>``: consumers recognise a repetition by it.
    """

    topic: Topic
    key: str
    id: str
    frame: Frame
    cause: Record | None


@dataclass(frozen=True, eq=False)
class Result(Generic[S]):
    """What came of a batch: events in order, records that can never be processed, and the new state (None: unchanged)."""

    events: Sequence[Event] = ()
    dead: Sequence[Poison] = ()
    state: S | None = None


class Processor(Protocol[S]):
    """One module seen from the stream.

    `process` is synchronous, deterministic for (batch, state, now_ns) and does no I/O; it never changes `state` in place.
    `now_ns` is the newest record's timestamp of the batch in `process`, and the wall clock only in `on_tick`. Any split of
    the same records into batches gives the same events and the same final state. The call may be repeated for one record.

    Raises in `process`: `Poison` (that record becomes a dead letter, the others are processed again without it),
    `Transient` (the batch waits), `Fatal` (the worker stops without commit). Any other exception is searched by bisection
    down to the record at fault, which becomes a dead letter with its stack trace.
    """

    @property
    def name(self) -> str:
        """The agent's name; the consumer group is ``<prefix>.<name>``."""
        ...

    @property
    def inputs(self) -> tuple[Topic, ...]:
        """Topics to consume. A compacted one is a table, read whole at every assignment."""
        ...

    @property
    def outputs(self) -> tuple[Topic, ...]:
        """Topics of the events."""
        ...

    @property
    def state(self) -> type[S] | None:
        """The frame that holds a key's state, None for a stateless module."""
        ...

    @property
    def tick_s(self) -> float | None:
        """Period of `on_tick`, None for none."""
        ...

    def process(self, batch: Batch, state: S | None, now_ns: int) -> Result[S]: ...

    def on_tick(self, key: str, state: S, now_ns: int, version: int) -> Result[S]: ...

    def configure(self, options: Mapping[str, Scalar]) -> Self:
        """The same processor with some toggles changed; `OptionError` names an unknown one or a bad value."""
        ...

    def warm(self) -> None:
        """Compile and load what the first batch needs; called before the worker reports ready."""
        ...
