"""Prior: what an older study of the same space says of this one, with a guard against one that misleads.

A process on the old results gives the prior mean; a second one learns what is left of the new results. The guard is a function
of all results together, so that a suggestion does not depend on the order in which they came; `qstream.learn.guard`, which
bets on one comparison after the other, would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.hpo import gp
from qstream.hpo.problem import Problem, warp

Vec = NDArray[np.float64]
Mat = NDArray[np.float64]

REPLAYED: Final = 3  # best old points that `topk` hands out first
EXPECTED: Final = 0.7  # slope of new values on old means before any result
WEIGHT: Final = 3.0  # results that this expectation counts for
GUARDED: Final = 5  # results from which on the guard decides
MARGIN: Final = 1.5  # nats by which the older study must predict worse: fewer are chance
MOST_FITTED: Final = 150  # old results that kernel parameters are fitted on: the best third, and others evenly
MOST: Final = 400  # old results that the mean is computed from


@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """Part `beta` of what the old process expects, less its average over the results: a term that shifts the new process."""

    old: gp.Posterior
    beta: float
    average: float

    def value(self, x: Mat) -> Vec:
        found: Vec = self.beta * (gp.predict(self.old, x)[0] - self.average)
        return found

    def slope(self, x: Mat) -> tuple[Vec, Mat]:
        mean, _, pull = gp.predict_with_slope(self.old, x)
        return self.beta * (mean - self.average), pull(np.full(len(x), self.beta), np.zeros(len(x)))


def fit(problem: Problem, covariance: gp.Covariance) -> Vec:
    """Kernel parameters of the old study: float64 [T]."""
    at = best_and_others(problem.prior_value, MOST_FITTED)
    x = problem.space.features(problem.prior_unit[at])
    return gp.fit(covariance, x, warp(problem.prior_value)[at])


def learnt(problem: Problem, covariance: gp.Covariance, theta: Vec) -> gp.Posterior:
    """The process on the old results.

    Raises
    ------
    NotPositive
        The covariance matrix has no Cholesky factor, whatever jitter is added.
    """
    at = best_and_others(problem.prior_value, MOST)
    return gp.posterior(covariance, theta, problem.space.features(problem.prior_unit[at]), warp(problem.prior_value)[at])


def mean(old: gp.Posterior, x: Mat, z: Vec) -> Mean:
    """The prior mean for results float64 [n] at features [n, F].

    beta is a regression of the results on the old means, drawn to `EXPECTED`; it is never negative.
    """
    m = gp.predict(old, x)[0] if len(x) else np.zeros(0)
    average = float(m.mean()) if len(m) else 0.0
    shared = float((m - average) @ (z - z.mean())) if len(m) else 0.0
    spread = float((m - average) @ (m - average))
    return Mean(old, max(0.0, (shared + EXPECTED * WEIGHT) / (spread + WEIGHT)), average)


def misleads(plain: gp.Posterior, z: Vec, warm: gp.Posterior, rest: Vec) -> bool:
    """Whether values float64 [n] are predicted better, by `MARGIN`, by the process that knows nothing of the old study.

    By the sum of the log densities of each value, left out. `warm` has seen the `rest` [n] of the values beyond the prior mean.
    """
    if len(z) < GUARDED:
        return False
    behind = gp.leave_one_out_density(plain, z).sum() - gp.leave_one_out_density(warm, rest).sum()
    return bool(behind > MARGIN)


def best(problem: Problem, count: int) -> Mat:
    """The best distinct points of the old study, best first: at most `count`, float64 [k, d]."""
    order = np.argsort(problem.prior_value, kind="stable")
    first: dict[bytes, int] = {}
    for at, key in zip(order.tolist(), problem.space.keys(problem.prior_unit[order]) if len(order) else (), strict=True):
        first.setdefault(key, at)
    found: Mat = problem.prior_unit[list(first.values())[:count]]
    return found


def best_and_others(value: Vec, most: int) -> NDArray[np.int64]:
    """Indices of at most `most` values, in order: the best third, and of the others as many at even steps of their rank."""
    if len(value) <= most:
        return np.arange(len(value))
    order = np.argsort(value, kind="stable")
    third = most // 3
    others = order[third:][np.linspace(0, len(value) - third - 1, most - third).round().astype(np.int64)]
    return np.sort(np.r_[order[:third], others])
