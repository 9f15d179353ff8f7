"""Decision: what a key decides again and again, under the module's options: bandit, rewards that overtake it, log, and models.

A module that chooses among arms keeps a `DecisionState` in its own state, and publishes what `log` makes on
``qstream.learn.decision.v1``. One that uses a trained model keeps a `VersionState`, and asks `use` and `compare`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from qstream.errors import LearnError
from qstream.learn import bandit, given, version
from qstream.learn.bandit import BanditState, Outcome
from qstream.learn.evolve import evolve
from qstream.learn.guard import Verdict
from qstream.learn.kept import bandit_over
from qstream.learn.options import Learn
from qstream.learn.registry import Models
from qstream.learn.ridge import MOST_REWARD
from qstream.learn.version import Used, VersionState
from schemas.frame import Axes, Count, Frame
from schemas.learning import Decisions
from schemas.wording import must_be

MOST_EARLY: Final = 16  # rewards that wait for their decision
INCUMBENT: Final = "incumbent"
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)


class DecisionState(Frame):
    """A bandit, and rewards that came before their decision: a ring in which number i of `early` stands at ``i % 16``.

    Such rewards count as `unmatched` in the bandit until their decision comes.
    """

    bandit: BanditState
    early: Count = 0
    early_id: Annotated[tuple[str, ...], Field(strict=False)]
    early_value: Annotated[NDArray[np.float64], Axes("early")]

    @classmethod
    def example(cls) -> Self:
        return cls(**dict(start(("fast", "exact"), ("one", "size"), pending=2)))


class Decided(NamedTuple):
    """The arm to use, by its index. `logged` says whether its reward is waited for: not while the learner stands still."""

    id: str
    arm: int
    logged: bool


class Line(NamedTuple):
    """One row of the log: the outcome, and whether a reward came at all."""

    outcome: Outcome
    ts_ns: int
    rewarded: bool


def mode(learn: Learn, frozen: Collection[str], learner: str) -> Learn:
    """What the option ``learn`` means for a learner of a key: a frozen one (`LearningState.frozen`) is ``off``.

    ``off``: the learner stands still and the incumbent answers. ``shadow``: it learns and logs, and the incumbent answers.
    """
    return "off" if learner in frozen else learn


def start(arms: Iterable[str] | int, features: Iterable[str] | int, **how: Any) -> DecisionState:
    """Return a decision that was never made; `how` are the arguments of `bandit.start`, whose floor is the option ``explore``."""
    return DecisionState(
        bandit=bandit.start(arms, features, **how), early_id=("",) * MOST_EARLY, early_value=np.zeros(MOST_EARLY)
    )


def over(state: DecisionState, arms: Iterable[str], features: Iterable[str]) -> DecisionState:
    """The decision over these arms and features: what is known of those that stay is kept, as `bandit_over` says.

    For a module whose arms have changed since the state was written; the same state if they have not.
    """
    known = bandit_over(state.bandit, arms, features)
    return state if known is state.bandit else evolve(state, bandit=known)


def seed_of(key: str, seed: int = 0) -> int:
    """A seed for `choose` that is another one for each key, from the option ``seed`` of the module if it has one."""
    return zlib.crc32(key.encode(), seed & 0xFFFFFFFF)


def use(state: VersionState, models: Models, option: str | int = "auto", *, learn: Learn) -> tuple[VersionState, Used]:
    """Say which version of a model a decision uses, by the options ``model_<name>`` and ``learn``.

    ``on``: as `version.choose`. ``shadow``: the model is computed and compared, and does not answer. ``off``: no model, and the
    state stays as it is.
    """
    if learn == "off":
        return state, Used(None, False)
    state, used = version.choose(state, models, option)
    return state, used if learn == "on" else used._replace(answers=False)


def compare(
    state: VersionState, candidate: str, incumbent_loss: float, candidate_loss: float, *, learn: Learn
) -> tuple[VersionState, Verdict]:
    """Learn the losses of both on the outcome of a decision that `use` gave `candidate`; ``off``: the state stays as it is."""
    if learn == "off":
        return state, "wait"
    return version.compare(state, candidate, incumbent_loss, candidate_loss)


def choose(
    state: DecisionState,
    context: ArrayLike,
    decision_id: str,
    now_ns: int,
    *,
    learn: Learn,
    explore: float,
    incumbent: int = 0,
    seed: int = 0,
    allowed: ArrayLike | None = None,
) -> tuple[DecisionState, Decided, list[Line]]:
    """Decide, and return the lines to log: a decision that has waited too long, or this one if its reward is here already.

    Parameters
    ----------
    context, decision_id, now_ns, seed, allowed
        As in `bandit.choose`. The id is that of the event that carries the decision.
    learn
        What `mode` gives. ``on``: the bandit chooses. ``shadow``: the incumbent is chosen, with propensity 1, and what it earns
        is learnt. ``off``: the incumbent is chosen, and the state stays as it is.
    explore
        The part of decisions that is spread evenly over the allowed arms.
    incumbent
        The index of the arm that is used where nothing is learnt. It must be allowed.
    """
    arms = len(state.bandit.arm_names)
    safe = given.whole("incumbent", incumbent, 0, arms - 1)
    if learn != "on":
        if allowed is not None and not given.flags("allowed", allowed, (arms,))[safe]:
            raise LearnError(must_be("incumbent", "an arm that is allowed", safe))
        allowed = np.arange(arms) == safe
    if learn == "off":
        return state, Decided(decision_id, safe, False), []
    known = state.bandit
    if known.floor != explore:
        known = evolve(known, floor=given.real("explore", explore, 0.0, 1.0))
    lines = _expiring(known, decision_id, now_ns)
    known, choice = bandit.choose(known, context, decision_id, now_ns, seed=seed, allowed=allowed)
    state, early = _overtaken(evolve(state, bandit=known), decision_id, now_ns)
    return state, Decided(decision_id, choice.arm, True), lines + early


def reward(
    state: DecisionState, decision_id: str, value: float, now_ns: int, *, learn: Learn
) -> tuple[DecisionState, list[Line]]:
    """Learn what a decision has earned, and return the line to log, none if no such decision waits.

    One that comes before its decision is kept, 16 at most. ``off``: the state stays as it is, and nothing is logged.
    """
    if learn == "off":
        return state, []
    waits = decision_id in state.bandit.waiting_id
    after, outcome = bandit.reward(state.bandit, decision_id, value, now_ns)
    state = evolve(state, bandit=after)
    if outcome is not None:
        return state, [_line(outcome, now_ns)]
    if waits or not math.isfinite(value) or not 0 < len(decision_id) <= given.MAX_NAME or decision_id in state.early_id:
        return state, []
    at, values = state.early % MOST_EARLY, state.early_value.copy()
    values[at] = min(max(float(value), -MOST_REWARD), MOST_REWARD)
    ids = (*state.early_id[:at], decision_id, *state.early_id[at + 1 :])
    return evolve(state, early=state.early + 1, early_id=ids, early_value=values), []


def log(
    state: DecisionState, lines: Sequence[Line], *, module: str, key: str, learner: str, reward_name: str, learn: Learn
) -> Decisions:
    """Return the frame of one or more lines: what was chosen, by which chances, and what it earned.

    `learner` is the dotted field of `state` in the module's state; `reward_name` says what is rewarded, with its unit.
    """
    outcomes = [line.outcome for line in lines]
    return Decisions(
        module=module,
        key=key,
        learner=learner,
        policy=state.bandit.rule if learn == "on" else INCUMBENT,
        arm_names=state.bandit.arm_names,
        feature_names=state.bandit.feature_names,
        reward_name=reward_name,
        decision_id=tuple(outcome.id for outcome in outcomes),
        arm=np.array([outcome.arm for outcome in outcomes], np.int32),
        reward=_single([outcome.reward for outcome in outcomes]),
        rewarded=np.array([line.rewarded for line in lines], np.uint8),
        ts_ns=np.array([line.ts_ns for line in lines], np.int64),
        waited_ns=np.array([outcome.waited_ns for outcome in outcomes], np.int64),
        propensity=np.minimum(_single([outcome.propensity for outcome in outcomes]), np.float32(1)),
        expected=_single([outcome.expected for outcome in outcomes]),
        context=_single([outcome.context for outcome in outcomes]),
    )


def _overtaken(state: DecisionState, decision_id: str, now_ns: int) -> tuple[DecisionState, list[Line]]:
    """Give a decision the reward that came before it."""
    if decision_id not in state.early_id:
        return state, []
    at = state.early_id.index(decision_id)
    known, outcome = bandit.reward(state.bandit, decision_id, float(state.early_value[at]), now_ns)
    known = evolve(known, unmatched=max(0, known.unmatched - 1))
    ids = (*state.early_id[:at], "", *state.early_id[at + 1 :])
    return evolve(state, bandit=known, early_id=ids), [] if outcome is None else [_line(outcome, now_ns)]


def _expiring(known: BanditState, decision_id: str, now_ns: int) -> list[Line]:
    """The pending decision that gives way to another one, if all rows are taken."""
    row = int(known.waiting_at[:, 0].argmin())
    if not known.waiting_id[row] or decision_id in known.waiting_id:
        return []
    features, arms = len(known.feature_names), len(known.arm_names)
    held, ts_ns = known.waiting[row], int(known.waiting_at[row, 1])
    outcome = Outcome(
        id=known.waiting_id[row],
        arm=int(known.waiting_at[row, 2]),
        reward=0.0,
        propensity=held[features : features + arms],
        expected=held[features + arms : features + 2 * arms],
        context=held[:features],
        waited_ns=max(0, now_ns - ts_ns),
    )
    return [Line(outcome, ts_ns, rewarded=False)]


def _line(outcome: Outcome, now_ns: int) -> Line:
    return Line(outcome, max(0, now_ns - outcome.waited_ns), rewarded=True)


def _single(values: Sequence[Any]) -> NDArray[np.float32]:
    """As float32; what that cannot hold counts as its largest number."""
    return np.clip(np.array(values, np.float64), -_FLOAT32_MAX, _FLOAT32_MAX).astype(np.float32)
