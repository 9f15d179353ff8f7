"""Surrogate: the next point by a Gaussian process on all results and the expected improvement under it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.hpo import acquisition, gp
from qstream.hpo.fitting import covariance_of
from qstream.hpo.options import HpoOptions
from qstream.hpo.problem import Problem, rng, warp

Vec = NDArray[np.float64]
Index = NDArray[np.int64]

MOST: Final = 400  # results that the posterior is computed from
NOISY: Final = 1e-3  # variance of the noise from which on the best mean counts, and not the best value
CENTRES: Final = 5  # good points around which candidates are drawn
_THIN, _SEARCH = 4, 5  # streams of random numbers


@dataclass(frozen=True, slots=True)
class Proposal:
    """A point, what the process predicts there, and the score that it won by."""

    unit: Vec  # [d]
    mean: float  # of the warped loss
    std: float
    score: float


def propose(problem: Problem, options: HpoOptions, theta: Vec, taken: frozenset[bytes]) -> Proposal | None:
    """The point with the largest score; None if every candidate of a discrete space is taken.

    Parameters
    ----------
    theta : float64 [T]
        Kernel parameters (`fitting.due`).
    taken
        Keys of points that must not come out, if the space is discrete.

    Raises
    ------
    NotPositive
        The covariance matrix has no Cholesky factor, whatever jitter is added.
    """
    space, z = problem.space, warp(problem.value)
    at = _window(problem)
    known = gp.posterior(covariance_of(problem, options), theta, space.features(problem.unit[at]), z[at])
    mean, _ = gp.predict(known, known.x)
    best = float(mean.min() if known.noise > NOISY else z.min())
    if len(problem.pending_unit):
        known = gp.extend(known, space.features(problem.pending_unit))
    found = acquisition.maximise(
        [acquisition.Improvement(known, best)],
        space,
        centres=problem.unit[at][np.argsort(mean, kind="stable")[:CENTRES]],
        taken=taken,
        rng=rng(problem.seed, _SEARCH, problem.trial),
        candidates=options.candidates,
        starts=options.starts,
    )
    if found is None:
        return None
    unit, score = found
    there, variance = gp.predict(known, space.features(unit[None]))
    return Proposal(unit, float(there[0]), float(np.sqrt(variance[0])), score)


def _window(problem: Problem) -> Index:
    """Indices of the results that the posterior is computed from: a third each the best, the newest and drawn."""
    n = len(problem.value)
    if n <= MOST:
        return np.arange(n)
    third = MOST // 3
    kept = np.zeros(n, bool)
    kept[np.argsort(problem.value, kind="stable")[:third]] = True
    kept[-third:] = True
    rest = np.flatnonzero(~kept)
    kept[rng(problem.seed, _THIN, problem.trial).permutation(rest)[: MOST - int(kept.sum())]] = True
    return np.flatnonzero(kept)
