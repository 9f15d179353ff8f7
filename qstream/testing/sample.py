"""Sample: a counter by key whose records say what goes wrong, to try the stream with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qstream.contract import Batch, Event, Processor, Record, Result, Tick
from qstream.errors import Fatal, OptionError, Poison, Transient
from schemas.control import Scalar
from schemas.deadletter import DeadLetter
from schemas.frame import Axes, Count, Frame, Name
from schemas.topics import Topic, dead_letter_name
from schemas.wording import must_be

Act = Literal["count", "open", "need", "poison", "reject", "break", "large", "fatal", "end", "hold"]
_DIGEST_PRIME = 2**61 - 1


class Ping(Frame):
    """Something to count under `name`.

    `act` is what else it does: `need` waits until an `open` of the same name was counted, `poison` raises and `reject`
    returns a Poison, `break` divides by zero, `large` answers with `size` letters, `fatal` stops the worker, `end` ends the name
    once it is counted, `hold` keeps the worker in `process` until the file exists that its option `hold` names.
    """

    name: Name
    act: Act = Field(default="count")
    size: Count = Field(default=0)
    values: Annotated[NDArray[np.int64], Axes("values")]

    @classmethod
    def example(cls) -> Self:
        return cls.of("a", 1, 2)

    @classmethod
    def of(cls, name: str, *values: int, act: Act = "count", size: int = 0) -> Self:
        """A ping of some values."""
        return cls.build(name=name, act=act, size=size, values=np.array(values, np.int64))


class Tally(Frame):
    """The count of one name: `digest` depends on the order of the values, `recent` are the newest eight."""

    count: Count = Field(default=0)
    total: int = Field(default=0)
    digest: Count = Field(default=0)
    opened: bool = Field(default=False)
    recent: Annotated[NDArray[np.int64], Axes("recent")]

    @classmethod
    def example(cls) -> Self:
        return cls.of(Ping.example())

    @classmethod
    def of(cls, *pings: Ping) -> Self:
        """The tally after these pings."""
        tally = cls(recent=np.empty(0, np.int64))
        for ping in pings:
            tally = tally.add(ping, 1)
        return tally

    def add(self, ping: Ping, factor: int) -> Self:
        """The next tally."""
        digest = self.digest
        for value in ping.values.tolist():
            digest = (digest * 31 + value + 1) % _DIGEST_PRIME
        return self.model_copy(
            update={
                "count": self.count + 1,
                "total": self.total + factor * int(ping.values.sum()),
                "digest": digest,
                "opened": self.opened or ping.act == "open",
                "recent": np.concatenate([self.recent, ping.values])[-8:],
            }
        )


class Pong(Frame):
    """The tally of one name after one ping."""

    name: Name
    count: Count
    total: int
    digest: Count
    pad: str = Field(default="")

    @classmethod
    def example(cls) -> Self:
        return cls(name="a", count=1, total=3, digest=1)


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """`factor` multiplies the total; `pause_s` is slept in every call of `process`; `tick_s` gives a pong by the clock; `ttl_s`
    is how long a tally is kept; `hold` is the path of a file that ends the wait of pings that hold."""

    factor: int = 1
    pause_s: float = 0.0
    tick_s: float | None = None
    ttl_s: float | None = None
    hold: str = ""


class Sample(Processor[Tally]):
    """The module: one pong for each ping. Topics and groups are named after `name`, so that many can share a broker."""

    name: str
    state: type[Tally] | None = Tally

    def __init__(self, name: str, partitions: int = 4, options: SampleOptions | None = None) -> None:
        self.name = name
        self.partitions = partitions
        self.options = options or SampleOptions()
        self.pings = Topic(f"{name}.ping.v1", Ping, "name", "input", "things to count", partitions)
        self.gates = Topic(f"{name}.gate.v1", Ping, "name", "input", "what pings may need", partitions, compacted=True)
        self.pongs = Topic(f"{name}.pong.v1", Pong, "name", "plan", "what was counted", partitions)
        self.letters = Topic(dead_letter_name(name), DeadLetter, "topic", "dead-letter", "what could not be counted", 1)
        self.inputs: tuple[Topic, ...] = (self.pings, self.gates)
        self.outputs: tuple[Topic, ...] = (self.pongs,)

    @property
    def tick_s(self) -> float | None:
        return self.options.tick_s

    @property
    def state_ttl_s(self) -> float | None:
        return self.options.ttl_s

    def configure(self, options: Mapping[str, Scalar]) -> Self:
        known = SampleOptions.__dataclass_fields__
        if unknown := options.keys() - known:
            raise OptionError(must_be("option", f"one of {', '.join(known)}", min(unknown)))
        return type(self)(self.name, self.partitions, replace(self.options, **options))  # type: ignore[arg-type]

    def on_tick(self, tick: Tick, state: Tally) -> Result[Tally]:
        return Result([Event(self.pongs, tick.key, tick.event_id(0), _pong(tick.key, state), None)])

    def process(self, batch: Batch, state: Tally | None, now_ns: int) -> Result[Tally]:
        time.sleep(self.options.pause_s)
        tally, ended = state, False
        events: list[Event] = []
        dead: list[Poison] = []
        for record in batch.records:
            ping = record.frame
            assert isinstance(ping, Ping)
            if ping.act == "reject":
                dead.append(Poison(record, "rejected on request"))
                continue
            tally = tally or Tally.of()
            _act(record, ping, tally, Path(self.options.hold))
            tally = tally.add(ping, self.options.factor)
            pong = _pong(batch.key, tally, ping.size if ping.act == "large" else 0)
            events.append(Event(self.pongs, batch.key, record.event_id(0), pong, record))
            if ended := ping.act == "end":
                tally = None
        return Result(events, dead, tally if events else None, forget=ended)


def _act(record: Record, ping: Ping, tally: Tally, hold: Path) -> None:
    match ping.act:
        case "poison":
            raise Poison(record, "poison on request")
        case "break":
            _ = 1 // (ping.size - ping.size)
        case "fatal":
            raise Fatal("fatal on request")
        case "need" if not tally.opened:
            raise Transient(f"{ping.name} is not open")
        case "hold":
            while not hold.exists():
                time.sleep(0.01)


def _pong(key: str, tally: Tally, size: int = 0) -> Pong:
    # Letters that no compression makes small, the same on every call.
    pad = "".join(np.random.default_rng(0).choice(list("0123456789abcdef"), size)) if size else ""
    return Pong(name=key, count=tally.count, total=tally.total, digest=tally.digest, pad=pad)
