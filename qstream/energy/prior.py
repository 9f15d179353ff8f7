"""A prior over whole response curves: how time and power follow a cap, by empirical Bayes from past sweeps.

A Gaussian process whose mean and covariance are those of past sweeps, weighted by how like the job at hand they are, and a small
smooth part of its own (Rasmussen, Williams, "Gaussian Processes for Machine Learning", 2006, ch. 2 and 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from qstream.energy.fleet import Floats
from qstream.energy.sweeps import GRIDS, Knob, Sweep, axis, on_grid, same_knob

SAME_GPU: Final = 3.0  # weight of a sweep of the same model
_LIKE: Final = 0.15  # in the default's draw over its limit: how near counts as like
_ANY: Final = 0.02  # weight of a sweep that is nothing like the job
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
    """Curves of N jobs after what was measured: mean [N, 2K] and covariance [N, 2K, 2K] of log time, then log power."""

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


def posterior(prior: CapPrior, gpu: Sequence[str], levels: Floats, time_s: Floats, power_w: Floats) -> Curves:
    """Curves of N jobs at their levels [N, K], whatever other jobs come with them.

    `time_s` and `power_w` [N, K] are -1 where nothing was measured; each job was measured at the same number of levels, the last
    among them. `gpu` has the model of each.
    """
    jobs, size = levels.shape
    seen = np.nonzero(time_s > 0)[1].reshape(jobs, -1)
    at = axis(levels, power_w[:, -1:], prior.knob)
    if (at == at[0]).all():
        at = at[:1]
    past = _at(prior, at)
    weight = np.exp(-(((power_w[:, -1:] / levels[:, -1:] - prior.draw) / _LIKE) ** 2) / 2) + _ANY
    weight *= np.where(np.array(gpu)[:, None] == np.array(prior.gpu), SAME_GPU, 1.0)
    weight /= weight.sum(1, keepdims=True)
    mean = weight[:, None] @ past
    away = past - mean
    covariance = away.swapaxes(1, 2) @ (away * weight[:, :, None])
    own = _OWN**2 * np.exp(-(((at[:, :, None] - at[:, None]) / _OWN_LENGTH) ** 2) / 2)
    covariance[:, :size, :size] += own
    covariance[:, size:, size:] += _OWN_POWER * own
    came = [np.log(np.take_along_axis(each, seen, 1) / each[:, -1:]) for each in (time_s, power_w)]
    both = np.concatenate((seen, seen + size), 1)
    known = np.take_along_axis(covariance, both[:, :, None], 1)
    inner = np.take_along_axis(known, both[:, None], 2) + NOISE**2 * np.eye(both.shape[1])
    gain = np.linalg.solve(inner, known)
    off = np.concatenate(came, 1)[:, None] - np.take_along_axis(mean, both[:, None], 2)
    return Curves((mean + off @ gain)[:, 0], covariance - gain.swapaxes(1, 2) @ known)


def _at(prior: CapPrior, at: Floats) -> Floats:
    """Past curves at places [N, K] on the axis: float64 [N, S, 2K]; 0 above the default, below the grid linear in log."""
    grid = GRIDS[prior.knob]
    inside = np.clip(at, grid[0], grid[-1])
    left = np.clip(np.searchsorted(grid, inside, "right") - 1, 0, len(grid) - 2)
    part = (inside - grid[left]) / (grid[left + 1] - grid[left])
    found = prior.curves[:, :, left] * (1 - part) + prior.curves[:, :, left + 1] * part
    below = at < grid[0]
    slope = (prior.curves[:, :, 1] - prior.curves[:, :, 0]) / np.log(grid[1] / grid[0])
    found[:, :, below] += slope[:, :, None] * np.log(at[below] / grid[0])
    return np.ascontiguousarray(found.transpose(2, 0, 1, 3)).reshape(len(at), len(prior.gpu), -1)
