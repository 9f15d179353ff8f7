"""A prior over whole response curves: how time and power follow a cap, by empirical Bayes from past sweeps.

A Gaussian process whose mean and covariance are those of past sweeps, weighted by how like the job at hand they are, and a small
smooth part of its own (Rasmussen, Williams, "Gaussian Processes for Machine Learning", 2006, ch. 2 and 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from qstream.energy.fleet import Floats, Ints
from qstream.energy.sweeps import GRIDS, Knob, Sweep, axis, on_grid, same_knob

SAME_GPU: Final = 3.0  # weight of a sweep of the same model
_LIKE: Final = 0.15  # in the default's draw over its limit: how near counts as like
_ANY: Final = 0.02  # weight of a sweep that is not like the job at all
_OWN: Final = 0.01  # standard deviation of what no past sweep shows
_OWN_LENGTH: Final = 0.12
_OWN_POWER: Final = 0.3  # of the variance of time
NOISE: Final = 0.012  # of a measurement, relative


@dataclass(frozen=True, slots=True, eq=False)
class CapPrior:
    """Past sweeps on one grid: GPU models, the default's watts over the default level [S], and log curves [S, 2, grid]."""

    knob: Knob
    gpu: tuple[str, ...]
    draw: Floats
    curves: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """A job's curves after what was measured: mean [2K] and covariance [2K, 2K] of the logarithms of time, then of power."""

    mean: Floats
    covariance: Floats


def fit_prior(sweeps: Sequence[Sweep]) -> CapPrior:
    """Make a prior of past sweeps of one knob.

    Raises
    ------
    ProblemError
        There are no sweeps, or they are of several knobs.
    """
    return CapPrior(
        same_knob(sweeps),
        tuple(sweep.gpu for sweep in sweeps),
        np.array([sweep.power_w[-1] / sweep.levels[-1] for sweep in sweeps]),
        np.stack([on_grid(sweep) for sweep in sweeps]),
    )


def posterior(prior: CapPrior, gpu: str, levels: Floats, visited: Ints, time_s: Floats, power_w: Floats) -> Curves:
    """Curves at all levels [K] of a job, of which `visited` [V], the default first, were measured; checked before."""
    at = axis(levels, float(power_w[0]), prior.knob)
    past = _at(prior, at)
    weight = np.exp(-(((power_w[0] / levels[-1] - prior.draw) / _LIKE) ** 2) / 2) + _ANY
    weight *= np.where([model == gpu for model in prior.gpu], SAME_GPU, 1.0)
    weight /= weight.sum()
    mean = weight @ past
    away = past - mean
    own = _OWN**2 * np.exp(-(((at[:, None] - at) / _OWN_LENGTH) ** 2) / 2)
    covariance = (away.T * weight) @ away + np.kron(np.diag([1.0, _OWN_POWER]), own)
    seen = np.concatenate((visited, visited + len(levels)))
    came = np.log(np.concatenate((time_s / time_s[0], power_w / power_w[0])))
    gain = np.linalg.solve(covariance[np.ix_(seen, seen)] + NOISE**2 * np.eye(len(seen)), covariance[seen]).T
    return Curves(mean + gain @ (came - mean[seen]), covariance - gain @ covariance[seen])


def _at(prior: CapPrior, at: Floats) -> Floats:
    """Past curves at places on the axis: float64 [S, 2K]; 0 above the default, in the logarithm's line below the grid."""
    grid = GRIDS[prior.knob]
    inside = np.clip(at, grid[0], grid[-1])
    left = np.clip(np.searchsorted(grid, inside, "right") - 1, 0, len(grid) - 2)
    part = (inside - grid[left]) / (grid[left + 1] - grid[left])
    found = prior.curves[:, :, left] * (1 - part) + prior.curves[:, :, left + 1] * part
    below = at < grid[0]
    slope = (prior.curves[:, :, 1] - prior.curves[:, :, 0]) / np.log(grid[1] / grid[0])
    found[:, :, below] += slope[:, :, None] * np.log(at[below] / grid[0])
    return found.reshape(len(found), -1)
