"""Meter: an agent that learns from readings of a host's CPU use, to try on real input and under faults what learning keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from agents.registry import Agent
from qstream.contract import Batch, Event, Processor, Record, Result
from qstream.errors import LearnError, Poison
from qstream.learn import conformal, decision, forecast, hedge, recurrent, version
from qstream.learn.conformal import ConformalState
from qstream.learn.decision import DecisionState, Line
from qstream.learn.evolve import evolve
from qstream.learn.forecast import ForecastState
from qstream.learn.options import Learn
from qstream.learn.recurrent import RecurrentState
from qstream.learn.registry import Models, Registry
from qstream.learn.state import LearningState
from qstream.learn.version import Reason, Used, VersionState
from qstream.module.options import ExploreOptions, ModelChoice
from qstream.testing.readings import NAME, OUTLOOKS, READINGS, SECOND, Outlook, Reading
from schemas.control import Scalar
from schemas.frame import Axes, Count, Frame
from schemas.learning import LearnCommand
from schemas.topics import LEARN_COMMAND, LEARN_DECISION, MODELS, Topic

if TYPE_CHECKING:
    from qstream.learn.model import Model
    from qstream.learn.report import Report

N = TypeVar("N", np.float64, np.int64)
ARMS: Final = ("falls", "rises")
FEATURES: Final = ("constant", "load", "forecast")
MODEL: Final = "forecast"
LEARNERS: Final = ("forecast", "margin", "guess", "pinned")
TURNS: Final = 128


class MeterOptions(ExploreOptions):
    """How the meter works."""

    module: ClassVar[str] = NAME
    model_forecast: ModelChoice = "auto"


class MeterState(LearningState):
    """What is learnt of a host. `promised` and `ceiling` are the answers and bounds of the last second, `recent` its readings;
    reading i stands at ``i % 10``. A model's forecasts are `offered`, of the version `offered_by` (-1: none), next to those of
    the `incumbent`. The sums are over the forecasts that were met.

    Commands, models and readings come by three topics, between which no order holds. `turn` is the order in which they met: from
    reading number [0] on, so many commands [1] had been obeyed, that version [2] was in use, and the pinned one was missing [3];
    entry i stands at ``i % 128``.
    """

    next_number: Count = 0
    readings: Count = 0
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
    turns: Count = 0
    turn: Annotated[NDArray[np.int64], Axes("turns", "of_turn")]
    network: RecurrentState
    pinned: VersionState
    forecast: ForecastState
    margin: ConformalState
    guess: DecisionState

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
            turn=np.zeros((TURNS, 4), np.int64),
            network=recurrent.start(horizon=SECOND),
            pinned=version.start(MODEL, bound=0.2, block=SECOND),  # two forecasts of one second share nine readings
            forecast=forecast.start(horizon=SECOND, past=600),
            margin=conformal.start(),
            guess=decision.start(ARMS, FEATURES),
        )


class Said(NamedTuple):
    """The forecast at one reading: the answer, that of the incumbent, and that of the version `by` of the model, -1 for none."""

    mean: float
    incumbent: float
    offered: float
    by: int
    answered_by: int
    fallback_reason: Reason
    weight: NDArray[np.float64]


@dataclass(frozen=True)
class Meter(Processor[MeterState]):
    """One outlook for each reading, and a line of the log for each guess that was rewarded or has waited too long."""

    options: MeterOptions = field(default_factory=MeterOptions)
    models: Models = field(default_factory=Models)
    registry: Registry = field(default_factory=lambda: Registry(NAME, {MODEL: recurrent.WANT}))
    name: str = NAME
    inputs: tuple[Topic, ...] = (READINGS, LEARN_COMMAND)
    outputs: tuple[Topic, ...] = (OUTLOOKS, LEARN_DECISION)
    state: type[MeterState] = MeterState
    tables: tuple[Topic, ...] = (MODELS,)
    learners: tuple[str, ...] = LEARNERS

    def configure(self, options: Mapping[str, Scalar]) -> Self:
        return replace(self, options=self.options.changed(options))

    def with_tables(self, rows: Mapping[str, Mapping[str, Frame]]) -> Self:
        return replace(self, models=self.registry.taken(rows[MODELS.name]))

    def process(self, batch: Batch, state: MeterState | None, now_ns: int) -> Result[MeterState]:
        events: list[Event] = []
        learnt = state or MeterState.start()
        for record in batch.records:
            learnt, outlook, lines = self._read(learnt, batch.key, record)
            events.append(Event(OUTLOOKS, batch.key, record.event_id(0), outlook, record))
            if lines:
                told = {"module": NAME, "key": batch.key, "learner": "guess", "reward_name": "right (1 or 0)"}
                log = decision.log(learnt.guess, lines, learn=self._mode(learnt, "guess"), **told)
                events.append(Event(LEARN_DECISION, batch.key, record.event_id(1), log, record))
        return Result(events, state=learnt)

    def warm(self) -> None:
        """Compile the kernels, by one reading that was met."""
        readings = [Reading.of("warm", n, 0.1 * n, {n - 1: 1.0}) for n in range(SECOND + 2)]
        records = [Record(READINGS.name, 0, n, "warm", reading, 0) for n, reading in enumerate(readings)]
        self.process(Batch("warm", records), None, 0)

    def _mode(self, state: MeterState, learner: str) -> Learn:
        return decision.mode(self.options.learn, state.frozen, learner)

    def _read(self, state: MeterState, host: str, record: Record) -> tuple[MeterState, Outlook, list[Line]]:
        """The state after a reading, the outlook then, and what the log gets."""
        reading, now_ns = record.frame, record.timestamp_ms * 1_000_000
        assert isinstance(reading, Reading)
        if reading.fault == "poison":
            raise Poison(record, f"reading {reading.number} can never be processed")
        if reading.fault == "error":
            raise ArithmeticError(f"reading {reading.number} meets a bug")
        state = self._met(state, reading.load)
        state, said = self._forecast(state, reading.load)
        bound = min(1.0, said.mean + float(conformal.bound(state.margin, first=1.0)[0]))
        state, arm, lines = self._guess(state, host, reading, said.mean, now_ns)
        slot = state.readings % SECOND
        rings = {"recent": reading.load, "promised": said.mean, "ceiling": bound}
        rings |= {"incumbent": said.incumbent, "offered": said.offered}
        state = evolve(
            state,
            readings=state.readings + 1,
            next_number=max(state.next_number, reading.number + 1),
            missed=state.missed + max(0, reading.number - state.next_number),
            repeated=state.repeated + (reading.number < state.next_number),
            offered_by=_put(state.offered_by, slot, said.by),
            **{name: _put(getattr(state, name), slot, value) for name, value in rings.items()},
        )
        return state, _outlook(state, host, reading, said, bound, ARMS[arm]), lines

    def _met(self, state: MeterState, load: float) -> MeterState:
        """The state after the second was complete whose forecast stands where this reading will."""
        slot = state.readings % SECOND
        if state.readings < SECOND:
            return state
        came = float(np.mean(_put(state.recent, slot, load)))
        made, bound, by = float(state.promised[slot]), float(state.ceiling[slot]), int(state.offered_by[slot])
        losses = abs(float(state.incumbent[slot]) - came), abs(float(state.offered[slot]) - came)
        candidate = f"{MODEL}@{by}" if by >= 0 else ""
        pinned, _ = decision.compare(state.pinned, candidate, *losses, learn=self._mode(state, "pinned"))
        margin = state.margin
        if self._mode(state, "margin") != "off":
            margin = conformal.learn(margin, [came - made], [bound - made])
        return evolve(
            state,
            pinned=pinned,
            margin=margin,
            met=state.met + 1,
            within=state.within + (came <= bound),
            error=state.error + abs(made - came),
            error_of_last=state.error_of_last + abs(float(state.recent[slot]) - came),
        )

    def _forecast(self, state: MeterState, load: float) -> tuple[MeterState, Said]:
        """The last value where nothing is learnt, else the mixture of forecasters, or a model that its guard lets answer."""
        mode, forecaster = self._mode(state, "forecast"), state.forecast
        incumbent, weight = load, hedge.mix(forecaster.hedge)[0]
        if mode != "off":
            forecaster, found = forecast.step(forecaster, [load])
            incumbent, weight = float(found.mean[0]), found.weight[0]
        pinned, used = decision.use(state.pinned, self.models, self.options.model_forecast, learn=self._mode(state, "pinned"))
        try:
            network, offered = recurrent.step(state.network, load, used.model)
        except LearnError:  # an answer that is not finite must cost the model, not the reading
            network, offered = recurrent.step(state.network, load)
            pinned = version.trip(pinned)
        state = _noted(evolve(state, forecast=forecaster, network=network, pinned=pinned), used)
        answers = used.model if used.answers and offered is not None else None
        mean = incumbent if mode == "on" else load
        if answers is not None and offered is not None:
            mean = offered
        by = used.model.version if used.model is not None and offered is not None and used.candidate else -1
        answered_by = answers.version if answers else -1
        return state, Said(mean, incumbent, offered or 0.0, by, answered_by, used.fallback_reason, weight)

    def _guess(
        self, state: MeterState, host: str, reading: Reading, mean: float, now_ns: int
    ) -> tuple[MeterState, int, list[Line]]:
        """Learn what earlier guesses have earned, and guess."""
        learn, lines = self._mode(state, "guess"), []
        guess = decision.over(state.guess, ARMS, FEATURES)
        for number, value in zip(reading.rewarded.tolist(), reading.reward.tolist(), strict=True):
            guess, more = decision.reward(guess, f"{host}/{number}", value, now_ns, learn=learn)
            lines += more
        guess, decided, more = decision.choose(
            guess,
            [1.0, reading.load, mean],
            f"{host}/{reading.number}",
            now_ns,
            learn=learn,
            explore=self.options.explore,
            seed=decision.seed_of(host),
        )
        return evolve(state, guess=guess), decided.arm, [*lines, *more]


def _noted(state: MeterState, used: Used) -> MeterState:
    """With an entry of `turn` where commands or the version in use are others than at the reading before."""
    now = state.commands, -1 if used.model is None else used.model.version, int(used.fallback_reason != "")
    if state.turns and tuple(state.turn[(state.turns - 1) % TURNS, 1:].tolist()) == now:
        return state
    turn = state.turn.copy()
    turn[state.turns % TURNS] = state.readings, *now
    return evolve(state, turn=turn, turns=state.turns + 1)


def _put(ring: NDArray[N], slot: int, value: float) -> NDArray[N]:
    changed = ring.copy()
    changed[slot] = value
    return changed


def _outlook(state: MeterState, host: str, reading: Reading, said: Said, bound: float, guess: str) -> Outlook:
    counters = ("missed", "repeated", "met", "within", "error", "error_of_last")
    watching, known = state.pinned.guard, state.guess.bandit
    return Outlook.build(
        host=host,
        number=reading.number,
        load=reading.load,
        mean=said.mean,
        bound=bound,
        guess=guess,
        incumbent=said.incumbent,
        offered=said.offered,
        offered_by=said.by,
        model_version=said.answered_by,
        fallback_reason=said.fallback_reason,
        compared=watching.compared,
        wealth=float(np.mean(watching.wealth)),
        promotions=watching.promotions,
        rollbacks=watching.rollbacks,
        updates=state.forecast.steps,
        matched=known.rewards,
        unmatched=known.unmatched,
        forecasters=forecast.names(state.forecast),
        weight=said.weight,
        **{name: getattr(state, name) for name in counters},
    )


def train_lstm(frames: Iterable[Frame], *, seed: int, deadline_s: float) -> tuple[Model, Report]:
    """Train a forecaster of the next second on recorded readings, host by host in the order of their numbers.

    Raises
    ------
    LearnError
        There are no readings, or too few of a host.
    """
    from qstream.learn import train  # noqa: PLC0415 - a worker never trains

    loads: dict[str, dict[int, float]] = {}
    for frame in frames:
        if isinstance(frame, Reading):
            loads.setdefault(frame.host, {})[frame.number] = frame.load
    series = [[by_number[number] for number in sorted(by_number)] for _, by_number in sorted(loads.items())]
    return train.lstm(series, module=NAME, name=MODEL, horizon=SECOND, seed=seed, deadline_s=deadline_s)


def examples() -> list[Record]:
    """Readings of one host with rewards that come late, early, twice or never, and commands among them."""
    rng, start = np.random.default_rng(0), MeterState.start()
    loads = np.clip(0.4 + 0.3 * np.sin(np.arange(40) / 4) + rng.normal(0, 0.05, 40), 0, 1)
    earned = [{max(0, n - 5): 1.0, n + 3: 0.5} if n % 3 == 0 else {} for n in range(40)]
    frames: list[Frame] = [Reading.of("host-3", n, float(loads[n]), earned[n]) for n in range(40)]
    asked: dict[int, dict[str, Any]] = {8: {"command": "freeze"}, 12: {"command": "thaw"}, 20: {"command": "reset"}}
    asked[30] = {"command": "restore", "learner": "margin", "state": np.frombuffer(start.margin.encode(), np.uint8)}
    for at, fields in sorted(asked.items(), reverse=True):
        frames.insert(at, LearnCommand.build(module=NAME, key="host-3", **fields))
    records, offsets = [], dict.fromkeys((READINGS.name, LEARN_COMMAND.name), 0)
    for at, frame in enumerate(frames):
        topic = READINGS.name if isinstance(frame, Reading) else LEARN_COMMAND.name
        records.append(Record(topic, 0, offsets[topic], "host-3", frame, 1_700_000_000_000 + 100 * at))
        offsets[topic] += 1
    return records


AGENT = Agent(
    name=NAME,
    purpose="forecasts a host's CPU use of the next second",
    topics=(READINGS, OUTLOOKS, LEARN_DECISION, LEARN_COMMAND, MODELS),
    processor=lambda settings: Meter(MeterOptions().changed(settings.options)),
    options="qstream.testing.meter:MeterOptions",
    examples="qstream.testing.meter:examples",
    settings={"session_timeout_ms": 2000},  # a demo kills it, and shows who goes on
    scenes={"learn": "qstream.demo.learn.scene:LearnScene"},
    trainers={"lstm": "qstream.testing.meter:train_lstm", "policy": "qstream.learn.train:policy_of_decisions"},
)
