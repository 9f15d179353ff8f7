"""Hedge: weights of arms whose losses are all seen, with nothing to tune: ML-Poly at several discounts, BOA over them.

ML-Poly: Gaillard, Stoltz, van Erven, "A second-order bound with excess losses", COLT 2014. BOA: Wintenberger, "Optimal learning
with Bernstein online aggregation", Machine Learning 106, 2017. Axes: series S, discounts D, arms K.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import LearnError
from qstream.kernels import compiled
from qstream.learn import given
from qstream.learn.evolve import copies, renewed
from schemas.frame import Axes, Count, Frame, Names
from schemas.wording import Shown, must_be

DISCOUNTS: Final = (1.0, 0.99, 0.95, 0.8)
LOSS_MAX: Final = 1e100  # a larger loss counts as this one, so that sums of squares stay finite
MAX_ARMS: Final = 10_000
TINY: Final = 1e-300
_ROUNDING: Final = 1e-12  # of the largest loss: a smaller gain is rounding, which must not decide between equals

Cube = Annotated[NDArray[np.float64], Axes("series", "discounts", "arms")]
Square = Annotated[NDArray[np.float64], Axes("series", "discounts")]


class Used(Frame):
    """The weights in force at some time, by which a late loss is judged: of arms at each discount, and of discounts."""

    weight: Cube
    top: Square


class HedgeState(Frame):
    """What a hedge knows, for each series. `arm_regret` and `loss_total` only inform: what the mixture lost above each arm while
    that one was awake, and in all."""

    arms: Names
    steps: Count = 0
    discounts: Annotated[NDArray[np.float64], Axes("discounts")]
    weight: Cube
    regret: Cube
    variance: Cube
    most: Square
    top: Square
    top_regret: Square
    top_variance: Square
    top_most: Annotated[NDArray[np.float64], Axes("series")]
    arm_regret: Annotated[NDArray[np.float64], Axes("series", "arms")]
    loss_total: Annotated[NDArray[np.float64], Axes("series")]


def start(arms: Iterable[str] | int, *, series: int = 1, discounts: Iterable[float] = DISCOUNTS) -> HedgeState:
    """Return a hedge that has seen nothing: even weights.

    Parameters
    ----------
    arms
        Their names, or how many.
    series
        How many hedges of the same arms stand next to each other.
    discounts
        What a regret of one step ago counts, each in (0, 1]. The hedge finds out which suits: 1 where the best arm never
        changes, .8 where it changes every few steps.
    """
    names = given.labels("arms", arms, MAX_ARMS)
    rate = given.reals("discounts", discounts, TINY, 1.0)
    rows = given.whole("series", series, 1, given.MAX_SERIES)
    cube, square = (rows, len(rate), len(names)), (rows, len(rate))
    return HedgeState(
        arms=names,
        discounts=rate,
        weight=np.full(cube, 1 / len(names)),
        regret=np.zeros(cube),
        variance=np.zeros(cube),
        most=np.zeros(square),
        top=np.full(square, 1 / len(rate)),
        top_regret=np.zeros(square),
        top_variance=np.zeros(square),
        top_most=np.zeros(rows),
        arm_regret=np.zeros((rows, len(names))),
        loss_total=np.zeros(rows),
    )


def used(state: HedgeState) -> Used:
    """Return the weights in force, to be kept with an answer whose losses come later and given back to `learn`."""
    return Used.model_construct(frame=Used.tag(), weight=state.weight, top=state.top)


def mix(state: HedgeState | Used, awake: ArrayLike | None = None, floor: float | None = None) -> NDArray[np.float64]:
    """Return the weights of the arms: float64 [S, K], each row sums to 1.

    Parameters
    ----------
    state
        A state, or the weights that were in force at another time.
    awake
        Booleans [S, K]: the arms that have an answer now. The others get 0; all have one if it is None.
    floor
        The part, 0 to 1, that is spread evenly over the arms awake.

    Raises
    ------
    LearnError
        A series has no arm awake, or an argument has another shape or range.
    """
    rows, _, arms = state.weight.shape
    up = given.flags("awake", awake, (rows, arms))
    part = 0.0 if floor is None else given.real("floor", floor, 0.0, 1.0)
    mixed = np.empty((rows, arms))
    if not mix_rows(state.weight, state.top, up, part, mixed):
        raise LearnError(must_be("awake", "true for an arm of each series", Shown("a series without one")))
    return mixed


def learn(state: HedgeState, loss: ArrayLike, at: Used | None = None, awake: ArrayLike | None = None) -> HedgeState:
    """Return the state after the losses of all arms in one round were seen.

    Parameters
    ----------
    loss
        [S, K], small is good; of any scale, which may differ between series. The entries of arms asleep are not looked at
        but must be finite. For the convex loss of a mixture see `linear_loss`.
    at
        The weights in force when the answer was given, for losses that come late: judged by today's weights, arms that
        adapt fast would look prescient. None: the weights of `state`.
    awake
        Booleans [S, K]: the arms that had an answer then. The regret of the others stands still.
    """
    rows, _, arms = state.weight.shape
    lost = given.numbers("loss", loss, (rows, arms))
    up = given.flags("awake", awake, (rows, arms))
    before: HedgeState | Used = state if at is None else at
    if not isinstance(before, HedgeState | Used):
        raise LearnError(must_be("at", "what used gives", Shown(type(at).__name__)))
    if before.weight.shape != state.weight.shape or before.top.shape != state.top.shape:
        raise LearnError(must_be("at", f"weights of shape {state.weight.shape}", Shown(f"shape {before.weight.shape}")))
    return learnt(state, lost, before.weight, before.top, up)


def learnt(
    state: HedgeState,
    loss: NDArray[np.float64],
    weight: NDArray[np.float64],
    top: NDArray[np.float64],
    awake: NDArray[np.bool_],
) -> HedgeState:
    """`learn` for another learner, whose arrays have the form that the kernel takes: C-ordered and read-only."""
    new = copies(state, LEARNT)
    finite = learn_rows(loss, weight, top, awake, state.discounts, *new.values())
    return renewed(state, new, finite, steps=state.steps + 1)


def linear_loss(
    prediction: ArrayLike, outcome: ArrayLike, weights: ArrayLike, quantile: float | None = None
) -> NDArray[np.float64]:
    """Return losses [S, K] by which a mixture of forecasts can beat each of them: the gradient of the mixture's own loss.

    Parameters
    ----------
    prediction
        [S, K], of each arm.
    outcome
        [S], what came.
    weights
        [S, K], of the mixture that was given as the answer.
    quantile
        In (0, 1) for the pinball loss of that quantile; None for the absolute error.
    """
    shape = given.shape_of("prediction", prediction)
    if len(shape) != 2:
        raise LearnError(must_be("prediction", "of shape [series, arms]", Shown(f"shape {shape}")))
    each = given.numbers("prediction", prediction, (shape[0], shape[1]))
    came = given.numbers("outcome", outcome, (shape[0],))
    share = given.numbers("weights", weights, (shape[0], shape[1]))
    error = (share * each).sum(axis=1) - came
    slope = np.sign(error) if quantile is None else (error > 0) - given.real("quantile", quantile, 0.0, 1.0)
    return np.asarray(slope[:, None] * each)


TOP: Final = ("top", "top_regret", "top_variance", "top_most")
# The arrays that a round changes, in the order in which `learn_rows` takes them.
LEARNT: Final = (
    "weight",
    "regret",
    "variance",
    "most",
    "top",
    "top_regret",
    "top_variance",
    "top_most",
    "arm_regret",
    "loss_total",
)


@compiled
def mix_rows(weight: Any, top: Any, awake: Any, floor: Any, mixed: Any) -> Any:
    """Fill `mixed` [S, K] with the weights over both levels, renormalised at each discount over the arms awake; false if
    a series has none."""
    rows, levels, arms = weight.shape
    for s in range(rows):
        up = 0
        for k in range(arms):
            mixed[s, k] = 0.0
            up += awake[s, k]
        if up == 0:
            return False
        for d in range(levels):
            total = 0.0
            for k in range(arms):
                if awake[s, k]:
                    total += weight[s, d, k]
            for k in range(arms):
                if awake[s, k]:
                    mixed[s, k] += top[s, d] * (weight[s, d, k] / total if total > 0 else 1.0 / up)
        total = mixed[s].sum()
        for k in range(arms):
            if awake[s, k]:
                mixed[s, k] = (1 - floor) * mixed[s, k] / total + floor / up
    return True


@compiled
def learn_rows(
    loss: Any,
    used_weight: Any,
    used_top: Any,
    awake: Any,
    discounts: Any,
    weight: Any,
    regret: Any,
    variance: Any,
    most: Any,
    top: Any,
    top_regret: Any,
    top_variance: Any,
    top_most: Any,
    arm_regret: Any,
    loss_total: Any,
) -> Any:
    """One round of both levels, in place; series without an arm awake stay as they are. Returns whether all is finite."""
    rows, levels, arms = weight.shape
    check = 0.0  # NaN once 0 times a number that is not finite is added
    level_loss, lost, here = np.empty(levels), np.empty(arms), np.empty(arms)
    for s in range(rows):
        up, scale = 0, 0.0
        for k in range(arms):
            here[k] = awake[s, k]
            lost[k] = min(max(loss[s, k], -LOSS_MAX), LOSS_MAX)
            up += awake[s, k]
            scale = max(scale, here[k] * abs(lost[k]))
        if up == 0:
            continue
        noise = _ROUNDING * scale
        for d in range(levels):
            total, own = 0.0, 0.0
            for k in range(arms):
                total += here[k] * used_weight[s, d, k]
                own += here[k] * used_weight[s, d, k] * lost[k]
            if total > 0:
                own /= total
            else:
                for k in range(arms):
                    own += here[k] * lost[k] / up
            level_loss[d] = own
            discount, largest = discounts[d], 0.0
            for k in range(arms):
                gain = here[k] * (own - lost[k])
                gain = gain if abs(gain) > noise else 0.0
                kept = 1 - here[k] * (1 - discount)
                largest = max(largest, gain * gain)
                variance[s, d, k] = kept * variance[s, d, k] + gain * gain
                regret[s, d, k] = kept * regret[s, d, k] + gain
            most[s, d] = max(discount * most[s, d], largest)
            total = 0.0
            for k in range(arms):
                weight[s, d, k] = max(regret[s, d, k], 0.0) / max(variance[s, d, k] + most[s, d], TINY)
                total += weight[s, d, k]
            for k in range(arms):
                weight[s, d, k] = weight[s, d, k] / total if total > 0 else 1.0 / arms
                check += 0.0 * (weight[s, d, k] + regret[s, d, k] + variance[s, d, k])
        own = learn_top(level_loss, noise, used_top[s], top[s], top_regret[s], top_variance[s], top_most[s : s + 1])
        loss_total[s] += own
        for k in range(arms):
            arm_regret[s, k] += here[k] * (own - lost[k])
            check += 0.0 * arm_regret[s, k]
        for d in range(levels):
            check += 0.0 * (most[s, d] + top[s, d] + top_regret[s, d] + top_variance[s, d])
        check += 0.0 * (top_most[s] + loss_total[s])
    return check == 0.0


@compiled
def learn_top(loss: Any, noise: Any, used_top: Any, top: Any, regret: Any, variance: Any, most: Any) -> Any:
    """One round of BOA over the discounts, in place; returns what the whole mixture lost."""
    levels = len(loss)
    own = 0.0
    spread = np.log(levels)
    for d in range(levels):
        own += used_top[d] * loss[d]
    for d in range(levels):
        if abs(own - loss[d]) > noise:
            most[0] = max(most[0], abs(own - loss[d]))
    rate, exponent = np.empty(levels), np.empty(levels)
    for d in range(levels):
        gain = own - loss[d] if abs(own - loss[d]) > noise else 0.0
        variance[d] += gain * gain
        rate[d] = min(0.5 / max(most[0], TINY), np.sqrt(spread / max(variance[d], TINY)))
        regret[d] += gain - rate[d] * gain * gain
        exponent[d] = rate[d] * regret[d]
    highest, total = exponent.max(), 0.0
    for d in range(levels):
        top[d] = rate[d] * np.exp(exponent[d] - highest)
        total += top[d]
    for d in range(levels):
        top[d] = top[d] / total if total > 0 else 1.0 / levels
    return own
