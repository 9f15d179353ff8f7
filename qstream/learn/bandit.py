"""Bandit: chooses among arms of which only the chosen one's reward is seen, at once or late, and logs the propensities.

Ridge regressions an arm, each at several memories (LinUCB: Li et al. 2010; Thompson sampling: Agrawal and Goyal 2013; forgetting:
Russac et al. 2019), mixed by a hedge over the errors of what they predicted when the decision was made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, Final, Literal, NamedTuple, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from qstream.errors import LearnError
from qstream.learn import given
from qstream.learn.bandit_row import DISCOUNTS, MOST_SUM, choose_row, learn_row
from qstream.learn.evolve import all_finite, copies, evolve, renewed
from qstream.learn.ridge import MOST_REWARD
from schemas.frame import Axes, Count, Frame, Names
from schemas.wording import must_be

Rule = Literal["linucb", "thompson"]
WIDTH: Final[dict[str, float]] = {"linucb": 1.75, "thompson": 0.5}
MOST_ARMS: Final = 256
MOST_FEATURES: Final = 256
MOST_PENDING: Final = 4096


class BanditState(Frame):
    """What a bandit knows, and the decisions whose rewards have not come.

    `gram` are the lower triangles, row by row, of A = ridge I + sum of x x', and `target` the sums of reward times x, both
    fading with each reward by the memory. `noise` is the variance of the errors. `memory` is the hedge over the memories:
    its weights and those of its discounts, then what `bandit_row` lists.
    `value` sums the doubly robust value of each arm, so that the best fixed arm is known; `reward_sum` what was earned.
    Pending decisions: `waiting_id`, "" where a row is free; `waiting_at` has number (0 where free), time and arm; `waiting`
    context, propensities, expected rewards, what each memory expected of the arm, and the weights in force then. They share an
    array, and so do those of the hedge, because a step costs by the array.
    """

    arm_names: Names
    feature_names: Names
    rule: Rule
    width: float = Field(ge=0)
    floor: float = Field(ge=0, le=1)
    ridge: float = Field(gt=0)
    memories: Annotated[NDArray[np.float64], Axes("memories")]
    gram: Annotated[NDArray[np.float64], Axes("arms", "memories", "triangle")]
    target: Annotated[NDArray[np.float64], Axes("arms", "memories", "features")]
    noise: Annotated[NDArray[np.float64], Axes("memories")]
    memory: Annotated[NDArray[np.float64], Axes("of_memory")]
    decisions: Count = 0
    rewards: Count = 0
    unmatched: Count = 0
    expired: Count = 0
    reward_sum: float = 0.0
    chosen: Annotated[NDArray[np.int64], Axes("arms")]
    value: Annotated[NDArray[np.float64], Axes("arms")]
    waiting_id: Annotated[tuple[str, ...], Field(strict=False)]
    waiting_at: Annotated[NDArray[np.int64], Axes("pending", "number_ns_arm")]
    waiting: Annotated[NDArray[np.float64], Axes("pending", "of_decision")]

    @classmethod
    def example(cls) -> Self:
        return cls(**dict(start(("fast", "exact"), ("one", "size"), pending=2)))


class Choice(NamedTuple):
    """An arm, by its index, and what is logged of it: propensities and expected rewards of all arms, float64 [arms]."""

    id: str
    arm: int
    propensity: NDArray[np.float64]
    expected: NDArray[np.float64]


class Outcome(NamedTuple):
    """A decision whose reward has come: as in its `Choice`, with the reward, the context [features] and how long it took."""

    id: str
    arm: int
    reward: float
    propensity: NDArray[np.float64]
    expected: NDArray[np.float64]
    context: NDArray[np.float64]
    waited_ns: int


def start(
    arms: Iterable[str] | int,
    features: Iterable[str] | int,
    *,
    rule: Rule = "linucb",
    width: float | None = None,
    floor: float = 0.02,
    ridge: float = 1.0,
    memories: Iterable[float] = (1.0, 0.99, 0.97, 0.9),
    pending: int = 32,
) -> BanditState:
    """Return a bandit that has seen nothing.

    Parameters
    ----------
    arms, features
        Their names, or how many: at most 256 each. A context has no feature of its own: give it one that is always 1.
    rule
        ``linucb``: the arm whose expected reward plus `width` standard errors is greatest. ``thompson``: each arm with the
        probability that it is the best, errors being normal with `width` times that standard error.
    width
        1.75 for ``linucb`` and .5 for ``thompson`` if None.
    floor
        The part of decisions, 0 to 1, that is spread evenly over the allowed arms; .05 or more if logs shall be evaluated.
    ridge
        What a coefficient weighs against the sums of squares of its feature, at least 1e-6.
    memories
        What a reward counts for once another one has come, each in (0, 1]: 1 forgets nothing.
    pending
        How many decisions wait for their reward; the oldest goes when there is one more.
    """
    if not isinstance(rule, str) or rule not in get_args(Rule):
        raise LearnError(must_be("rule", " or ".join(get_args(Rule)), rule))
    arm, feature = given.labels("arms", arms, MOST_ARMS), given.labels("features", features, MOST_FEATURES)
    memory, rows = given.reals("memories", memories, 1e-6, 1.0), given.whole("pending", pending, 1, MOST_PENDING)
    weight = given.real("ridge", ridge, 1e-6, 1e6)
    a, m, f, d = len(arm), len(memory), len(feature), len(DISCOUNTS)
    return BanditState(
        arm_names=arm,
        feature_names=feature,
        rule=rule,
        width=WIDTH[rule] if width is None else given.real("width", width, 0.0, 1e3),
        floor=given.real("floor", floor, 0.0, 1.0),
        ridge=weight,
        memories=memory,
        gram=np.tile((weight * np.eye(f))[np.tril_indices(f)], (a, m, 1)),
        target=np.zeros((a, m, f)),
        noise=np.ones(m),
        memory=np.r_[np.full(d * m, 1 / m), np.full(d, 1 / d), np.zeros(2 * d * m + 3 * d + m + 2)],
        chosen=np.zeros(a, np.int64),
        value=np.zeros(a),
        waiting_id=("",) * rows,
        waiting_at=np.zeros((rows, 3), np.int64),
        waiting=np.zeros((rows, f + 2 * a + m + d * (m + 1))),
    )


def start_like(state: BanditState, arms: Iterable[str], features: Iterable[str]) -> BanditState:
    """A bandit over these arms and features with the settings of `state`, which has learnt nothing."""
    return start(
        arms,
        features,
        rule=state.rule,
        width=state.width,
        floor=state.floor,
        ridge=state.ridge,
        memories=state.memories.tolist(),
        pending=len(state.waiting_id),
    )


def choose(
    state: BanditState,
    context: ArrayLike,
    decision_id: str,
    now_ns: int,
    *,
    seed: int = 0,
    allowed: ArrayLike | None = None,
) -> tuple[BanditState, Choice]:
    """Choose an arm for a context and remember the decision until its reward comes.

    The draw is a function of `seed` and of the number of the decision. A decision that is pending already is answered as
    before, and the state stays as it is.

    Parameters
    ----------
    context
        Numbers [features]; beyond 1e50 they count as this.
    decision_id
        The name by which the reward comes: 1 to 200 characters, such as the id of an event, which a redelivery repeats.
    now_ns
        From the record, not from a clock.
    seed
        Any int; another one for each key, so that keys draw independently.
    allowed
        Booleans [arms]: the others have propensity 0. All are allowed if None.

    Raises
    ------
    LearnError
        The context is not finite or of another shape, the id is empty or too long, or no arm is allowed.
    """
    arms = len(state.arm_names)
    x = given.numbers("context", context, (len(state.feature_names),))
    may = _all(arms) if allowed is None else given.flags("allowed", allowed, (arms,))
    if allowed is not None and not may.any():
        raise LearnError(must_be("allowed", "true for an arm", may.tolist()))
    if not isinstance(decision_id, str) or not 0 < len(decision_id) <= given.MAX_NAME:
        raise LearnError(must_be("decision_id", f"a string of 1 to {given.MAX_NAME} characters", decision_id))
    now = given.whole("now_ns", now_ns, 0, 2**63 - 1)
    stream = np.uint64(given.whole("seed", seed, -(2**63), 2**64 - 1) % 2**64)
    if decision_id in state.waiting_id:
        return state, _choice(state, state.waiting_id.index(decision_id))
    number = state.decisions + 1
    row = int(state.waiting_at[:, 0].argmin())  # a free one, else the oldest
    new = copies(state, ("chosen", "waiting_at", "waiting"))
    at, waiting = new["waiting_at"][row], new["waiting"][row]
    at[:2] = number, now
    choose_row(
        (state.gram, state.target, state.noise, state.memory),
        (state.rule == "thompson", state.width, state.floor, stream),
        x,
        may,
        at,
        waiting,
        new["chosen"],
    )
    after = renewed(
        state,
        new,
        all_finite(waiting),
        decisions=number,
        expired=state.expired + (state.waiting_id[row] != ""),
        waiting_id=(*state.waiting_id[:row], decision_id, *state.waiting_id[row + 1 :]),
    )
    return after, _choice(after, row)


@lru_cache(maxsize=64)
def _all(arms: int) -> NDArray[np.bool_]:
    return given.flags("allowed", None, (arms,))


def _choice(state: BanditState, row: int) -> Choice:
    features, arms = len(state.feature_names), len(state.arm_names)
    logged = state.waiting[row, features : features + 2 * arms]
    return Choice(state.waiting_id[row], int(state.waiting_at[row, 2]), logged[:arms], logged[arms:])


def reward(state: BanditState, decision_id: str, value: float, now_ns: int) -> tuple[BanditState, Outcome | None]:
    """Learn what a decision has earned; large is good.

    A reward that is not finite, or whose decision is not pending (unknown, rewarded already, expired), gives None, and only
    `unmatched` changes. Beyond 1e100 it is learned as this. Raises `LearnError` if `value` is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise LearnError(must_be("value", "a number", value))
    now = given.whole("now_ns", now_ns, 0, 2**63 - 1)
    number = given.plain(value)
    if not math.isfinite(number) or not isinstance(decision_id, str) or not decision_id or decision_id not in state.waiting_id:
        return evolve(state, unmatched=state.unmatched + 1), None
    row = state.waiting_id.index(decision_id)
    earned = min(max(number, -MOST_REWARD), MOST_REWARD)
    new = copies(state, _REWARDED)
    held = state.waiting_at[row], state.waiting[row]
    finite = learn_row(earned, state.rewards, state.ridge, state.memories, *held, *new.values())
    at = state.waiting_at.copy()
    at[row, 0] = 0
    after = renewed(
        state,
        new | {"waiting_at": at},
        finite,
        rewards=state.rewards + 1,
        reward_sum=min(max(state.reward_sum + earned, -MOST_SUM), MOST_SUM),
        waiting_id=(*state.waiting_id[:row], "", *state.waiting_id[row + 1 :]),
    )
    choice, context = _choice(state, row), state.waiting[row, : len(state.feature_names)]
    waited_ns = max(0, now - int(state.waiting_at[row, 1]))
    return after, Outcome(choice.id, choice.arm, number, choice.propensity, choice.expected, context, waited_ns)


_REWARDED: Final = ("gram", "target", "noise", "memory", "value")  # as `learn_row` takes them
