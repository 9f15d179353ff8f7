"""What a module and the stream agree on: records in, events and state out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, Self, TypeVar

from qstream.errors import OptionError, Poison
from schemas.control import Scalar
from schemas.deadletter import Headers
from schemas.frame import Frame
from schemas.topics import Topic
from schemas.wording import must_be

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

    `value` and `raw_key` are the bytes as they came, for a dead letter; `key` is the unit of order; `origin` is the partition
    that it came from.
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
    origin: TopicPartition = field(init=False)

    def __post_init__(self) -> None:
        self.origin = partition_of(self.topic, self.partition)

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
class Tick:
    """One call of `on_tick` for one key.

    Attributes
    ----------
    version
        Of the state that the tick is given.
    now_ns
        The wall clock, the same for all keys of one round of ticks.
    idle
        No record of the key was processed between the previous tick of the key and this one, and both ticks saw the same
        assignment of partitions. The first tick after a start or after a rebalance is therefore never idle.
    """

    key: str
    version: int
    now_ns: int
    idle: bool

    def event_id(self, n: int) -> str:
        """Id of the n-th event of this tick: the same until the state changes, so that a repetition can be recognised."""
        return f"tick/{self.key}/{self.version}/{n}"


@dataclass(slots=True, eq=False)  # not frozen, for the same reason
class Event:
    """A frame to publish; not to be changed. `cause` is the last input record that it covers, None for a tick's event.

    `id` is ``cause.event_id(n)`` or ``tick.event_id(n)``: consumers recognise a repetition by it. `solver_s` is how long the
    solver of a plan took: it goes into the metrics and does not travel, since it is another one at each repetition.
    """

    topic: Topic
    key: str
    id: str
    frame: Frame
    cause: Record | None
    solver_s: float | None = None


@dataclass(frozen=True, eq=False)
class Result(Generic[S]):
    """What came of a batch or a tick.

    `events` in order, `dead` the records that can never be processed, `state` the new state (None: unchanged). `forget`
    ends the key: its state is deleted as a write is made, so the next record of the key finds none; `state` must be None.
    """

    events: Sequence[Event] = ()
    dead: Sequence[Poison] = ()
    state: S | None = None
    forget: bool = False

    def __post_init__(self) -> None:
        if self.forget and self.state is not None:
            raise ValueError(must_be("state", "None in a result that forgets the key", self.state))


class Processor(Protocol[S]):
    """One module seen from the stream.

    A class that names `Processor` as its base must define `name`, `inputs`, `outputs`, `state` and `process`; the rest has
    defaults. A class with all members is a processor without naming it.

    `process` is synchronous, deterministic for (batch, state, now_ns) and does no I/O; it never changes `state` in place.
    `now_ns` is the newest record's timestamp of the batch in `process`, and the wall clock only in `on_tick`. Any split of
    the same records into batches gives the same events and the same final state. The call may be repeated for one record.

    Raises in `process`: `Poison` (that record becomes a dead letter, the others are processed again without it),
    `Transient` (the batch waits), `Fatal` (the worker stops without commit). Any other exception is searched by bisection
    down to the record at fault, which becomes a dead letter with its stack trace.
    """

    if TYPE_CHECKING:  # read-only to the type checker; at run time plain attributes, which a subclass may set as it likes

        @property
        def name(self) -> str:
            """The agent's name; the consumer group is ``<prefix>.<name>``."""
            ...

        @property
        def inputs(self) -> tuple[Topic, ...]:
            """Topics to consume. A compacted one is read whole at every assignment, into the states of its keys."""
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
        def tables(self) -> tuple[Topic, ...]:
            """Compacted topics that every worker reads whole, outside the group; their rows come by `with_tables`."""
            return ()

        @property
        def learners(self) -> tuple[str, ...]:
            """Dotted fields of the state, a `LearningState`, that learn. With any, `LEARN_COMMAND` must be among the inputs:
            its records are obeyed before they reach `process`."""
            return ()

        @property
        def models(self) -> object:
            """The trained models in use, a `qstream.learn.registry.Models` that `with_tables` has made; None without any."""
            return None

        @property
        def tick_s(self) -> float | None:
            """Period of `on_tick` in seconds, None for no ticks."""
            return None

        @property
        def state_ttl_s(self) -> float | None:
            """Seconds after its last change at which a key's state is deleted, None for never."""
            return None

    else:
        tables = ()
        learners = ()
        models = tick_s = state_ttl_s = None

    def process(self, batch: Batch, state: S | None, now_ns: int) -> Result[S]: ...

    def on_tick(self, tick: Tick, state: S) -> Result[S]:
        """What a key does by the clock. A fault costs that tick: it is logged, and the next one follows."""
        return Result()

    def configure(self, options: Mapping[str, Scalar]) -> Self:
        """The same processor with some toggles changed; `OptionError` names an unknown one or a bad value."""
        if options:
            raise OptionError(must_be("options", f"empty, {self.name} has none", sorted(options)))
        return self

    def with_tables(self, rows: Mapping[str, Mapping[str, Frame]]) -> Self:
        """The same processor with the rows of its `tables`: by topic name and key. Called between batches."""
        return self

    def warm(self) -> None:
        """Compile and load what the first batch needs; called before the worker reports ready."""
        return


def may_tick(processor: Processor[S]) -> bool:
    """Whether its class does something by the clock, which options may switch on at any time."""
    return getattr(type(processor), "on_tick", None) is not Processor.on_tick


def periods(processor: Processor[S]) -> tuple[float | None, float | None]:
    """Its `tick_s` and `state_ttl_s`; `OptionError` unless each is None or a finite number above 0."""
    found = processor.tick_s, processor.state_ttl_s
    for name, seconds in zip(("tick_s", "state_ttl_s"), found, strict=True):
        if seconds is not None and not (isinstance(seconds, int | float) and math.isfinite(seconds) and seconds > 0):
            raise OptionError(f"{processor.name}: " + must_be(name, "None or a finite number of seconds above 0", seconds))
    return found
