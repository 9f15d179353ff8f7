"""Evaluate: what another policy would have earned, from logged decisions with their propensities.

Inverse propensity scores (Horvitz and Thompson 1952), self-normalised (Swaminathan and Joachims 2015), direct, and doubly robust
(Dudík, Langford and Li, "Doubly robust policy evaluation and learning", ICML 2011) with the rewards that were expected when the
decision was made: these never saw the reward, so nothing has to be fitted.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import LearnError
from qstream.learn import given
from schemas.wording import Shown, must_be

_NORMAL_95: Final = 1.959963984540054
SUM: Final = 1e-3  # by which a row of chances, perhaps stored as float32, may miss 1
LEAST_PROPENSITY: Final = 0.01
LEAST_EFFECTIVE: Final = 50.0


class Estimate(NamedTuple):
    """A mean reward a decision, with its 95 % interval."""

    value: float
    low: float
    high: float


class Evaluation(NamedTuple):
    """What a policy is worth by four estimates, and whether the log can say.

    `logged` is the mean reward of what was done, `effective` the decisions that the log is worth for this policy, (sum w)² /
    sum w² of the weights w = policy / propensity. The interval of `direct` knows nothing of a bias in the expected rewards.
    Without a decision that the policy could have made, `snips` has no value (NaN).
    """

    ips: Estimate
    snips: Estimate
    direct: Estimate
    doubly_robust: Estimate
    logged: float
    decisions: int
    effective: float
    warnings: tuple[str, ...]


def evaluate(arm: ArrayLike, reward: ArrayLike, propensity: ArrayLike, expected: ArrayLike, policy: ArrayLike) -> Evaluation:
    """Estimate what `policy` would have earned a decision.

    Parameters
    ----------
    arm
        [n], the index of the arm that was taken.
    reward
        [n], what it earned.
    propensity, expected
        [n, arms], as logged by the bandit: the chance of each arm, and the reward expected of it when the decision was made.
    policy
        [n, arms], the chance of each arm under the policy in question; rows sum to 1.

    Raises
    ------
    LearnError
        A shape differs, a number is not finite, rows are no chances, or an arm was taken that had none.
    """
    shape = given.shape_of("policy", policy)
    if len(shape) != 2 or 0 in shape:
        raise LearnError(must_be("policy", "of shape [decisions, arms], neither of them 0", Shown(f"shape {shape}")))
    n, arms = shape
    taken = _arms(arm, n, arms)
    earned, guessed = given.numbers("reward", reward, (n,)), given.numbers("expected", expected, (n, arms))
    wanted, logged = _chances("policy", policy, (n, arms)), _chances("propensity", propensity, (n, arms))
    rows = np.arange(n)
    chance = logged[rows, taken]
    if chance.min() <= 0:
        raise LearnError(must_be("propensity", "above 0 for the arm that was taken", Shown(f"0 in row {int(chance.argmin())}")))
    with np.errstate(over="ignore", invalid="ignore"):
        weight = wanted[rows, taken] / chance
        model = (wanted * guessed).sum(axis=1)
        total, squares = float(weight.sum()), float((weight * weight).sum())
        effective = total * total / squares if squares > 0 else 0.0
        found = Evaluation(
            ips=_mean(weight * earned),
            snips=_ratio(weight, earned),
            direct=_mean(model),
            doubly_robust=_mean(model + weight * (earned - guessed[rows, taken])),
            logged=float(earned.mean()),
            decisions=n,
            effective=effective,
            warnings=_warnings(logged, wanted, effective),
        )
    _require_finite(found)
    return found


def _require_finite(found: Evaluation) -> None:
    """`LearnError` where sums of rewards, or of weights by tiny propensities, are above all floats."""
    several = found.decisions > 1  # one decision has no interval
    means = [found.ips, found.direct, found.doubly_robust] + ([found.snips] if found.effective != 0 else [])
    numbers = [found.logged, found.effective, *(each for mean in means for each in (mean if several else mean[:1]))]
    if not np.isfinite(numbers).all():
        raise LearnError(must_be("reward, expected and propensity", "of sizes whose estimates are finite", Shown("others")))


def _arms(arm: ArrayLike, n: int, arms: int) -> NDArray[np.int64]:
    given.shape_of("arm", arm)
    taken = np.asarray(arm)
    if taken.shape != (n,) or taken.dtype.kind not in "iu":
        raise LearnError(must_be("arm", f"whole numbers of shape {(n,)}", Shown(f"{taken.dtype} of shape {taken.shape}")))
    if taken.min() < 0 or taken.max() >= arms:
        raise LearnError(must_be("arm", f"0 to {arms - 1}", Shown(f"values from {taken.min()} to {taken.max()}")))
    return taken.astype(np.int64)


def _chances(name: str, value: ArrayLike, shape: tuple[int, int]) -> NDArray[np.float64]:
    chances = given.numbers(name, value, shape, low=0.0)
    sums = chances.sum(axis=1)
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst] - 1) > SUM:
        raise LearnError(must_be(name, "rows that sum to 1", Shown(f"{sums[worst]:g} in row {worst}")))
    return chances


def _mean(each: NDArray[np.float64]) -> Estimate:
    value, n = float(each.mean()), len(each)
    half = _NORMAL_95 * float(each.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Estimate(value, value - half, value + half)


def _ratio(weight: NDArray[np.float64], earned: NDArray[np.float64]) -> Estimate:
    """The mean by weight, its interval by the delta method."""
    total = float(weight.sum())
    if total <= 0:
        return Estimate(math.nan, -math.inf, math.inf)
    value = float((weight * earned).sum()) / total
    around = _mean(weight * (earned - value) * (len(weight) / total))
    half = around.high - around.value
    return Estimate(value, value - half, value + half)


def _warnings(logged: NDArray[np.float64], wanted: NDArray[np.float64], effective: float) -> tuple[str, ...]:
    """Where the log cannot answer."""
    found = []
    never = float(wanted[logged <= 0].sum()) / len(logged)
    if never > 0:
        found.append(f"{100 * never:.3g} % of what the policy would do had propensity 0 and is unknown")
    tried = logged[(logged > 0) & (wanted > 0)]
    if len(tried) and tried.min() < LEAST_PROPENSITY * (1 - 1e-6):  # a log has float32
        found.append(f"the least propensity of what the policy would do is {tried.min():.3g}, below {LEAST_PROPENSITY:g}")
    if effective < LEAST_EFFECTIVE:
        found.append(f"the log is worth {effective:.3g} decisions for this policy, fewer than {LEAST_EFFECTIVE:g}")
    return tuple(found)
