"""Feasible: the probability that a configuration keeps every limit and that its trial does not fail.

A Gaussian process a limited metric, on the logarithm of how much of the limit is used, and one on -1 where a trial ended well and
+1 where it failed. A failed trial has no loss: it teaches feasibility alone.
Source: Gelbart, Snoek and Adams, Bayesian Optimization with Unknown Constraints (2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.hpo import gp
from qstream.hpo.problem import Problem

Vec = NDArray[np.float64]
Mat = NDArray[np.float64]

BLUR: Final = 0.05  # variance of a label
LEAST: Final = 3  # values from which on kernel parameters are fitted
MOST: Final = 150  # values that they are fitted on, the newest


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What one process learns: values float64 [k] at points [k, d], which must stay below `bound`; `blur` is their variance."""

    unit: Mat
    value: Vec
    bound: float
    blur: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """Log of the probability that a process stays below its bound: a term of the score."""

    known: gp.Posterior
    bound: float
    blur: float

    def value(self, x: Mat) -> Vec:
        from qstream.hpo.normal import log_below  # noqa: PLC0415 compiled

        mean, variance = gp.predict(self.known, x)
        return log_below(mean, variance + self.blur, self.bound)[0]

    def ceiling(self, x: Mat) -> Vec:
        return np.zeros(len(x))

    def slope(self, x: Mat) -> tuple[Vec, Mat]:
        from qstream.hpo.normal import log_below  # noqa: PLC0415 compiled

        mean, variance, pull = gp.predict_with_slope(self.known, x)
        value, by_mean, by_variance = log_below(mean, variance + self.blur, self.bound)
        return value, pull(by_mean, by_variance)


def kept(problem: Problem) -> NDArray[np.bool_]:
    """Which results keep every limit, bool [n]; one that did not report a limited metric does not."""
    return np.asarray((problem.limit_value <= 1.0).all(1), np.bool_)


def targets(problem: Problem) -> list[Target]:
    """What is to be learnt: of each limit, and of failures; without values where nothing is known."""
    found = [_of_limit(problem, column) for column in range(len(problem.limits))]
    label = np.repeat([-1.0, 1.0], [len(problem.unit), len(problem.failed_unit)])
    number = np.r_[problem.number, problem.failed_number]
    order = np.argsort(number, kind="stable") if len(problem.failed_unit) else np.zeros(0, np.int64)
    unit = np.concatenate([problem.unit, problem.failed_unit])
    return [*found, Target(unit[order], label[order], 0.0, BLUR)]


def fit(problem: Problem) -> Vec:
    """Kernel parameters of all targets, one after the other: float64 [(L + 1) T]."""
    covariance = covariance_of(problem)
    found = []
    for target in targets(problem):
        x, value = problem.space.features(target.unit[-MOST:]), target.value[-MOST:]
        found.append(gp.fit(covariance, x, value) if len(value) >= LEAST else covariance.start())
    return np.concatenate(found)


def terms(problem: Problem, theta: Vec) -> list[Kept]:
    """Terms of the score, for each target of which something is known. `theta` is that of `fit`.

    Raises
    ------
    NotPositive
        A covariance matrix has no Cholesky factor, whatever jitter is added.
    """
    covariance = covariance_of(problem)
    found = []
    for target, part in zip(targets(problem), theta.reshape(len(problem.limits) + 1, -1), strict=True):
        if len(target.value):
            x = problem.space.features(target.unit)
            found.append(Kept(gp.posterior(covariance, part, x, target.value), target.bound, target.blur))
    return found


def covariance_of(problem: Problem) -> gp.Covariance:
    """Matern, whatever kernel the losses have."""
    return gp.COVARIANCES["matern"](problem.space.groups)


def _of_limit(problem: Problem, column: int) -> Target:
    """Logarithms of the ratios if all are positive, else the ratios, with mean 0 and deviation 1."""
    ratio = problem.limit_value[:, column]
    there = np.isfinite(ratio)
    value = np.log(ratio[there]) if (ratio[there] > 0).all() else ratio[there] - 1.0
    mean, spread = (float(value.mean()), float(value.std()) or 1.0) if len(value) else (0.0, 1.0)
    return Target(problem.unit[there], (value - mean) / spread, -mean / spread)
