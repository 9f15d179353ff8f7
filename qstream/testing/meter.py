"""Meter: an agent that learns from readings of a host's CPU use, to try on real input and under faults what learning keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from agents.registry import Agent
from qstream.contract import Batch, Event, Processor, Record, Result
from qstream.errors import Poison
from qstream.learn import bandit, conformal, forecast, recurrent, version
from qstream.learn.bandit import BanditState
from qstream.learn.conformal import ConformalState
from qstream.learn.evolve import evolve
from qstream.learn.forecast import ForecastState
from qstream.learn.recurrent import RecurrentState
from qstream.learn.registry import Models, Registry
from qstream.learn.version import VersionState
from schemas.deadletter import DeadLetter
from schemas.frame import Axes, Count, Frame, Name
from schemas.topics import MODELS, Topic, dead_letter_name

N = TypeVar("N", np.float64, np.int64)
NAME: Final = "meter"
RATE_HZ: Final = 10
SECOND: Final = 10  # readings in the second that is forecast
ARMS: Final = ("falls", "rises")
MODEL: Final = "forecast"
FEATURES: Final = ("constant", "load", "forecast")


class Reading(Frame):
    """CPU use of a host, number by number, and what earlier guesses have earned by now.

    `rewarded` are the numbers of the readings whose guesses earned `reward`, in any order, repeated or too early as may be.
    `fault` says how the processor must fail on it.
    """

    host: Name
    number: Count
    load: float
    fault: Literal["", "poison", "error"] = ""
    rewarded: Annotated[NDArray[np.int64], Axes("rewards")]
    reward: Annotated[NDArray[np.float64], Axes("rewards")]

    @classmethod
    def example(cls) -> Self:
        return cls.of("host-3", 17, 0.4, {12: 1.0})

    @classmethod
    def of(cls, host: str, number: int, load: float, earned: dict[int, float] | None = None, fault: str = "") -> Self:
        """A reading; `load` is the part of the CPU time of all cores that was used, `earned` the rewards by number."""
        numbers, values = np.array(list(earned or {}), np.int64), np.array(list((earned or {}).values()), np.float64)
        return cls.build(host=host, number=number, load=load, fault=fault, rewarded=numbers, reward=values)


class MeterState(Frame):
    """What is learnt of a host. `promised` and `ceiling` are the answers and bounds of the last second, `recent` its readings;
    reading i stands at ``i % 10``. A model's forecasts are `offered`, of the version `offered_by` (-1: none), next to those of
    the `incumbent`. The sums are over the forecasts that were met."""

    next_number: Count = 0
    missed: Count = 0
    repeated: Count = 0
    met: Count = 0
    within: Count = 0
    error: float = 0.0
    error_of_last: float = 0.0
    recent: Annotated[NDArray[np.float64], Axes("second")]
    promised: Annotated[NDArray[np.float64], Axes("second")]
    ceiling: Annotated[NDArray[np.float64], Axes("second")]
    incumbent: Annotated[NDArray[np.float64], Axes("second")]
    offered: Annotated[NDArray[np.float64], Axes("second")]
    offered_by: Annotated[NDArray[np.int64], Axes("second")]
    network: RecurrentState
    pinned: VersionState
    forecast: ForecastState
    margin: ConformalState
    guess: BanditState

    @classmethod
    def example(cls) -> Self:
        return cls.start()

    @classmethod
    def start(cls) -> Self:
        """The state of a host that no reading has come from."""
        empty = np.zeros(SECOND)
        return cls(
            recent=empty,
            promised=empty,
            ceiling=empty,
            incumbent=empty,
            offered=empty,
            offered_by=np.full(SECOND, -1, np.int64),
            network=recurrent.start(horizon=SECOND),
            pinned=version.start(MODEL, bound=0.2),
            forecast=forecast.start(horizon=SECOND, past=600),
            margin=conformal.start(),
            guess=bandit.start(ARMS, FEATURES),
        )


class Outlook(Frame):
    """What a host's next second will be like, as known at one reading.

    `mean` is the forecast of the mean load, `bound` what that mean exceeds in one of twenty cases, `guess` whether it will be
    above the present load. The rest are the state's counters: readings learnt from, missed and repeated, forecasts that were
    met, those within their bound, and the sums of absolute errors of the forecasts and of the last value. `model_version` is the
    version of the model that answered, -1 where it did not.
    """

    host: Name
    number: Count
    load: float
    mean: float
    bound: float
    guess: Literal["falls", "rises"]
    updates: Count
    missed: Count
    repeated: Count
    matched: Count
    unmatched: Count
    met: Count
    within: Count
    error: float
    error_of_last: float
    model_version: int
    promotions: Count
    rollbacks: Count
    forecasters: Annotated[tuple[Name, ...], Field(strict=False)]
    weight: Annotated[NDArray[np.float64], Axes("forecasters")]

    @classmethod
    def example(cls) -> Self:
        [event], _ = read(MeterState.start(), "host-3", [Record("meter.reading.v1", 0, 0, "host-3", Reading.example(), 0)])
        assert isinstance(event.frame, cls)
        return event.frame


READINGS: Final = Topic("meter.reading.v1", Reading, "host", "input", "readings of CPU use", 4)
OUTLOOKS: Final = Topic("meter.outlook.v1", Outlook, "host", "plan", "what the next second will be like", 4)
LETTERS: Final = Topic(dead_letter_name(NAME), DeadLetter, "topic", "dead-letter", "readings that could not be processed", 1)


@dataclass(frozen=True)
class Meter(Processor[MeterState]):
    """One outlook for each reading."""

    name: str = NAME
    inputs: tuple[Topic, ...] = (READINGS,)
    outputs: tuple[Topic, ...] = (OUTLOOKS,)
    state: type[MeterState] = MeterState
    tables: tuple[Topic, ...] = (MODELS,)
    models: Models = field(default_factory=Models)

    def with_tables(self, rows: Mapping[str, Mapping[str, Frame]]) -> Self:
        return replace(self, models=Registry(NAME, {MODEL: recurrent.WANT}).taken(rows[MODELS.name]))

    def process(self, batch: Batch, state: MeterState | None, now_ns: int) -> Result[MeterState]:
        events, learnt = read(state or MeterState.start(), batch.key, batch.records, self.models)
        return Result(events, state=learnt)

    def warm(self) -> None:
        """Compile the kernels, by one reading that was met."""
        records = [
            Record(READINGS.name, 0, n, "warm", Reading.of("warm", n, 0.1 * n, {n - 1: 1.0}), 0) for n in range(SECOND + 2)
        ]
        read(MeterState.start(), "warm", records)


def read(state: MeterState, host: str, records: Sequence[Record], models: Models | None = None) -> tuple[list[Event], MeterState]:
    """The outlooks of the records in order, and the state after them."""
    events = []
    for record in records:
        reading = record.frame
        assert isinstance(reading, Reading)
        if reading.fault == "poison":
            raise Poison(record, f"reading {reading.number} can never be processed")
        if reading.fault == "error":
            raise ArithmeticError(f"reading {reading.number} meets a bug")
        state, outlook = learn(state, host, reading, record.timestamp_ms * 1_000_000, models or Models())
        events.append(Event(OUTLOOKS, host, record.event_id(0), outlook, record))
    return events, state


def learn(state: MeterState, host: str, reading: Reading, now_ns: int, models: Models) -> tuple[MeterState, Outlook]:
    """The state after a reading, and the outlook then."""
    state = _met(state, reading.load)
    guess = state.guess
    for number, value in zip(reading.rewarded.tolist(), reading.reward.tolist(), strict=True):
        guess, _ = bandit.reward(guess, f"{host}/{number}", value, now_ns)
    slot = state.forecast.steps % SECOND
    forecaster, found = forecast.step(state.forecast, [reading.load])
    incumbent = float(found.mean[0])
    pinned, used = version.choose(state.pinned, models)
    network, offered = recurrent.step(state.network, reading.load, used.model)
    by = used.model.version if used.model is not None and offered is not None and used.candidate else -1
    answered_by = by if used.answers else -1
    mean = incumbent if answered_by < 0 or offered is None else offered
    bound = min(1.0, mean + float(conformal.bound(state.margin, first=1.0)[0]))
    guess, choice = bandit.choose(guess, [1.0, reading.load, mean], f"{host}/{reading.number}", now_ns)
    rings = {"recent": reading.load, "promised": mean, "ceiling": bound, "incumbent": incumbent, "offered": offered or 0.0}
    state = evolve(
        state,
        next_number=max(state.next_number, reading.number + 1),
        missed=state.missed + max(0, reading.number - state.next_number),
        repeated=state.repeated + (reading.number < state.next_number),
        forecast=forecaster,
        guess=guess,
        network=network,
        pinned=pinned,
        offered_by=_put(state.offered_by, slot, by),
        **{name: _put(getattr(state, name), slot, value) for name, value in rings.items()},
    )
    return state, _outlook(state, host, reading, mean, bound, ARMS[choice.arm], answered_by, found.weight[0])


def _met(state: MeterState, load: float) -> MeterState:
    """The state after the second was complete whose forecast stands where this reading will."""
    slot = state.forecast.steps % SECOND
    if state.forecast.steps < SECOND:
        return state
    came = float(np.mean(_put(state.recent, slot, load)))
    made, bound = float(state.promised[slot]), float(state.ceiling[slot])
    by = int(state.offered_by[slot])
    losses = abs(float(state.incumbent[slot]) - came), abs(float(state.offered[slot]) - came)
    pinned, _ = version.compare(state.pinned, f"{MODEL}@{by}" if by >= 0 else "", *losses)
    return evolve(
        state,
        pinned=pinned,
        met=state.met + 1,
        within=state.within + (came <= bound),
        error=state.error + abs(made - came),
        error_of_last=state.error_of_last + abs(float(state.recent[slot]) - came),
        margin=conformal.learn(state.margin, [came - made], [bound - made]),
    )


def _put(ring: NDArray[N], slot: int, value: float) -> NDArray[N]:
    changed = ring.copy()
    changed[slot] = value
    return changed


def _outlook(
    state: MeterState,
    host: str,
    reading: Reading,
    mean: float,
    bound: float,
    guess: str,
    answered_by: int,
    weight: NDArray[np.float64],
) -> Outlook:
    counters = ("missed", "repeated", "met", "within", "error", "error_of_last")
    return Outlook.build(
        host=host,
        number=reading.number,
        load=reading.load,
        mean=mean,
        bound=bound,
        guess=guess,
        updates=state.forecast.steps,
        model_version=answered_by,
        promotions=state.pinned.guard.promotions,
        rollbacks=state.pinned.guard.rollbacks,
        matched=state.guess.rewards,
        unmatched=state.guess.unmatched,
        forecasters=forecast.names(state.forecast),
        weight=weight,
        **{name: getattr(state, name) for name in counters},
    )


def examples() -> list[Record]:
    """Readings of one host with rewards that come late, early, twice or never."""
    rng = np.random.default_rng(0)
    loads = np.clip(0.4 + 0.3 * np.sin(np.arange(40) / 4) + rng.normal(0, 0.05, 40), 0, 1)
    earned = [{max(0, n - 5): 1.0, n + 3: 0.5} if n % 3 == 0 else {} for n in range(40)]
    frames = [Reading.of("host-3", n, float(loads[n]), earned[n]) for n in range(40)]
    return [Record(READINGS.name, 0, n, "host-3", frame, 1_700_000_000_000 + 100 * n) for n, frame in enumerate(frames)]


AGENT = Agent(
    name=NAME,
    purpose="forecasts a host's CPU use of the next second",
    topics=(READINGS, OUTLOOKS, MODELS),
    processor=lambda settings: Meter(),
    examples="qstream.testing.meter:examples",
    settings={"session_timeout_ms": 2000},  # a demo kills it, and shows who goes on
    scenes={"learn": "qstream.demo.learn.scene:LearnScene"},
)
