"""Arms: what solves the next window of tasks, chosen by a bandit from the kind of window and from the errors of those before.

No arm can do worse than the classical answer, from which all begin; what an arm costs in time is counted by the circuits that it
ran, so that equal records give equal choices. A guard hands the windows to the classical arm where choosing has cost more than
that arm alone for 50 windows, and for good where it goes on.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Final, NamedTuple, Self

from pydantic import Field

from qstream.energy import regime
from qstream.energy.graphs import DENSITIES, SIZES, Arm
from qstream.energy.regime import RegimeState
from qstream.errors import LearnError
from qstream.learn import decision, guard, version
from qstream.learn.decision import DecisionState, Line
from qstream.learn.evolve import evolve
from qstream.learn.guard import GuardState
from qstream.learn.options import Learn
from qstream.learn.version import Used, VersionState
from schemas.frame import Frame

NAME: Final = "meta"
ARMS: Final[tuple[Arm, ...]] = ("list", "qaoa", "hqc")
KINDS: Final = 4  # columns that categories of tasks share
FEATURES: Final = (
    "constant",
    *(name for _, name in SIZES),
    *(name for _, name in DENSITIES),
    *(f"kind_{at}" for at in range(KINDS)),
    "loud_next",
)
WINDOWS: Final = 50  # of the kill switch
BOUND: Final = 0.05  # difference of two losses that counts as 1
PRICE: Final = 0.005  # that trying arms may cost a window, in the mean of `WINDOWS`
LEARNER: Final = "meta.choice"
REWARD: Final = "loss of the classical answer less its own: peak over bound, .02 log(1 + ms), .01 for circuits"
_BASE_MS: Final[dict[Arm, float]] = {"soonest": 0.0, "list": 10.0, "qaoa": 10.0, "hqc": 10.0}
_CIRCUIT_MS: Final = 35.0
_TIME: Final = 0.02
_ASKED: Final = 0.01


class MetaState(Frame):
    """The bandit `choice`, the guard `watch` over it, and the `errors` of the windows before. The next window is loud with the
    chance `said` by the version `said_by` (-1: none), if that one `answers`."""

    choice: DecisionState
    watch: GuardState
    errors: RegimeState
    pinned: VersionState
    said: float = Field(default=0.0, ge=0, le=1)
    said_by: int = Field(default=-1, ge=-1, le=2**63 - 1)
    answers: bool = False

    @classmethod
    def example(cls) -> Self:
        return cls(**dict(start()))


class Came(NamedTuple):
    """What a window came to: its peak and bound, the peak of the classical answer, and the circuits that ran."""

    peak_w: float
    bound_w: float
    classical_w: float
    circuits: int


def start() -> MetaState:
    """Return a state that has chosen nothing. All arms are safe, so choosing is on until the guard has seen it lose."""
    watch = guard.start(NAME, bound=BOUND, block=WINDOWS, window=WINDOWS, hold=WINDOWS)
    return MetaState(
        choice=decision.start(ARMS, FEATURES, rule="thompson", width=0.1, ridge=3.0, memories=(1.0, 0.995)),
        watch=evolve(watch, promoted=True),
        errors=regime.start(),
        pinned=version.start(NAME, bound=0.25),
    )


def chosen(
    state: MetaState,
    category: str,
    decision_id: str,
    now_ns: int,
    *,
    learn: Learn,
    explore: float,
    seed: int,
) -> tuple[MetaState, Arm, list[Line]]:
    """The arm of a window of some category (`graphs.category_of`), and lines to log."""
    killed = state.watch.retired or state.watch.held > 0
    choice, decided, lines = decision.choose(
        state.choice,
        context(category, state),
        decision_id,
        now_ns,
        learn="shadow" if learn == "on" and killed else learn,
        explore=explore,
        seed=seed,
    )
    return state if choice is state.choice else evolve(state, choice=choice), ARMS[decided.arm], lines


def context(category: str, state: MetaState) -> list[float]:
    """The features of a window: size, density of edges and class, and the chance that it is loud."""
    size, density, kind = (*category.split("/", 2), "", "")[:3]
    found = dict.fromkeys(FEATURES, 0.0) | {"constant": 1.0}
    found |= dict.fromkeys({size, density} & found.keys(), 1.0)
    found[f"kind_{zlib.crc32(kind.encode()) % KINDS}"] = 1.0
    found["loud_next"] = state.said if state.answers and state.said_by >= 0 else state.errors.rate
    return list(found.values())


def learnt(
    state: MetaState, arm: Arm, decision_id: str, came: Came, now_ns: int, used: Used, *, mode: Callable[[str], Learn]
) -> tuple[MetaState, list[Line]]:
    """Learn what a window came to, and return lines to log.

    `used` is the version of the model that says what comes next; `mode` gives what each learner may do, by its dotted name.
    """
    learn = mode(LEARNER)
    own, classical = loss(arm, came.peak_w, came.bound_w, came.circuits), loss("list", came.classical_w, came.bound_w, 0)
    choice, lines = decision.reward(state.choice, decision_id, classical - own, now_ns, learn=learn)
    state = evolve(state, choice=choice)
    if lines and mode("meta.watch") == "on" and learn == "on":
        watch = state.watch if state.watch.promoted or state.watch.retired else evolve(state.watch, promoted=True)
        state = evolve(state, watch=guard.compare(watch, classical + PRICE, own)[0])
    if mode("meta.pinned") != "off":
        state = _foreseen(state, gap(came.classical_w, came.bound_w), used, mode("meta.pinned"))
    return state, lines


def _foreseen(state: MetaState, came: float, used: Used, learn: Learn) -> MetaState:
    """With the gap of one more window, both forecasts scored, and the model's next one."""
    errors, seen = regime.observe(state.errors, came)
    pinned, model = state.pinned, used.model
    if state.said_by >= 0:
        score = [(chance - float(seen.loud)) ** 2 for chance in (state.errors.rate, state.said)]
        pinned, _ = decision.compare(pinned, f"{NAME}@{state.said_by}", *score, learn=learn)
    try:
        errors, said = regime.answer(errors, seen, model)
    except LearnError:  # an answer that is not finite must cost the model, not the window
        pinned, said = version.trip(pinned), None
    by = -1 if said is None or model is None else model.version
    return evolve(state, errors=errors, pinned=pinned, said=said or 0.0, said_by=by, answers=used.answers and by >= 0)


def gap(peak_w: float, bound_w: float) -> float:
    """How far a peak is above its bound, as a part of it: 0 to 1."""
    return min(max(peak_w / bound_w - 1, 0.0), 1.0) if bound_w > 0 else 0.0


def loss(arm: Arm, peak_w: float, bound_w: float, circuits: int) -> float:
    """What a window costs: its gap, the logarithm of the time that the arm takes, and a price of asking for circuits, so
    that the classical arm answers where the bound is reached without them."""
    asked = 0.0 if arm in ("soonest", "list") else _ASKED
    return gap(peak_w, bound_w) + asked + _TIME * math.log1p(_BASE_MS[arm] + _CIRCUIT_MS * circuits)
