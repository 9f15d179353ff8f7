"""Acquisition: the log of the expected improvement, and where a sum of score terms is largest in a search space.

Source: Ament et al., Unexpected Improvements to Expected Improvement (2023), for the logarithm and its derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from qstream.hpo import ascent, gp
from qstream.hpo.space import SearchSpace

Vec = NDArray[np.float64]
Mat = NDArray[np.float64]

SCALES: Final = (0.2, 0.05, 0.01)  # of steps from good points, in the cube
PERTURBED: Final = 20  # of each scale and point
ROUNDS: Final = 4  # of climbs and exchanges
MANY: Final = 64  # cells above which a number is climbed as if it were continuous
NEIGHBOURS: Final = 1024

_HALF_LOG_2PI = 0.5 * float(np.log(2.0 * np.pi))
_FAR = 1e3  # from here on 1 - |z| Mills' ratio is its series, and could not be computed as a difference


def log_improvement(z: Vec) -> tuple[Vec, Vec]:
    """Log of h(z) = phi(z) + z Phi(z), and its derivative Phi / h: float64 [B] each; finite for every finite z.

    With Mills' ratio M(a) = Phi(-a) / phi(a): h(-a) = phi(a) (1 - a M), and h(a) = a + h(-a).
    """
    from scipy.special import erfcx  # noqa: PLC0415

    a = np.abs(z)
    mills = np.sqrt(0.5 * np.pi) * erfcx(a * np.sqrt(0.5))
    per_square = 1.0 / np.maximum(a, _FAR) ** 2
    rest = np.where(a < _FAR, 1.0 - a * mills, per_square * (1.0 - per_square * (3.0 - 15.0 * per_square)))
    log_density = -0.5 * a * a - _HALF_LOG_2PI
    density = np.exp(log_density)
    above = z > 0.0
    h = np.where(above, a + density * rest, 1.0)
    value = np.where(above, np.log(h), log_density + np.log(rest))
    return value, np.where(above, (1.0 - density * mills) / h, mills / rest)


def log_expected_improvement(mean: Vec, variance: Vec, best: float) -> tuple[Vec, Vec, Vec]:
    """Log E max(best - y, 0) for y normal with these moments, and its derivatives by mean and by variance: [B] each."""
    sigma = np.sqrt(variance)
    z = (best - mean) / sigma
    value, by_z = log_improvement(z)
    return value + np.log(sigma), -by_z / sigma, 0.5 * (1.0 - z * by_z) / variance


class Term(Protocol):
    """A part of the score, on features of the space; parts are added."""

    def value(self, x: Mat) -> Vec:
        """Scores of features float64 [B, F]: [B]."""

    def slope(self, x: Mat) -> tuple[Vec, Mat]:
        """Scores [B] and their gradient by the features [B, F]."""


@dataclass(frozen=True, slots=True)
class Improvement:
    """Log of the expected improvement on `best` under a process, which was fitted on what a known mean, `shift`, leaves."""

    known: gp.Posterior
    best: float
    shift: Term | None = None

    def value(self, x: Mat) -> Vec:
        mean, variance = gp.predict(self.known, x)
        if self.shift is not None:
            mean = mean + self.shift.value(x)
        return log_expected_improvement(mean, variance, self.best)[0]

    def slope(self, x: Mat) -> tuple[Vec, Mat]:
        mean, variance, pull = gp.predict_with_slope(self.known, x)
        if self.shift is None:
            value, by_mean, by_variance = log_expected_improvement(mean, variance, self.best)
            return value, pull(by_mean, by_variance)
        shift, shift_slope = self.shift.slope(x)
        value, by_mean, by_variance = log_expected_improvement(mean + shift, variance, self.best)
        return value, pull(by_mean, by_variance) + by_mean[:, None] * shift_slope


def maximise(
    terms: Sequence[Term],
    space: SearchSpace,
    *,
    centres: Mat,
    taken: frozenset[bytes],
    rng: np.random.Generator,
    candidates: int,
    starts: int,
) -> tuple[Vec, float] | None:
    """Where the sum of terms is largest, of all points that were tried, and the sum; None if all of them are taken.

    Parameters
    ----------
    terms
        Parts of the score; at least one.
    centres : float64 [k, d]
        Good points, around which candidates are drawn as well.
    taken
        Keys of points that must not come out, if the space is discrete.
    rng
        Fixes what is drawn.
    candidates, starts
        Random points that are scored, and how many of them a climb starts from.
    """
    smooth = _smooth(space)
    unit = space.snap(np.concatenate([rng.random((candidates, space.size)), _around(centres, rng)]))
    unit, value = _best_first(terms, space, unit, taken)
    for _ in range(ROUNDS):
        if not len(unit):
            return None
        before, top = value[0], unit[:starts]
        tried = [top]
        if smooth.any():
            start, start_value = top, value[:starts]
            top, found = ascent.climb(_on_cube(terms, space, start, smooth), start, free=smooth)
            tried.append(top := space.snap(np.where((found > start_value)[:, None], top, start)))
        if not smooth.all():
            tried.append(_neighbours(space, top, np.flatnonzero(~smooth), rng))
        unit, value = _best_first(terms, space, np.concatenate(tried), taken)
        if smooth.all() or (len(value) and value[0] <= before):
            break
    return (unit[0], float(value[0])) if len(unit) else None


def _smooth(space: SearchSpace) -> NDArray[np.bool_]:
    """Which parameters a climb moves: numbers without cells, or with many, in their order. [d]"""
    ordered = np.array([parameter.type != "categorical" for parameter in space.parameters])
    found: NDArray[np.bool_] = ordered & ((space.cells == 0) | (space.cells > MANY))
    return found


def _best_first(terms: Sequence[Term], space: SearchSpace, unit: Mat, taken: frozenset[bytes]) -> tuple[Mat, Vec]:
    """Distinct points that are not taken, and their scores, the largest first."""
    if space.discrete:
        first: dict[bytes, int] = {}
        for i, key in enumerate(space.keys(unit)):
            if key not in taken:
                first.setdefault(key, i)
        unit = unit[list(first.values())]
    if not len(unit):
        return unit, np.zeros(0)
    x = space.features(unit)
    value = np.sum([term.value(x) for term in terms], axis=0)
    order = np.argsort(-value, kind="stable")
    return unit[order], value[order]


def _around(centres: Mat, rng: np.random.Generator) -> Mat:
    """Normal steps of three sizes from each centre, within the cube."""
    steps = rng.normal(size=(len(SCALES), PERTURBED, *centres.shape)) * np.array(SCALES)[:, None, None, None]
    found: Mat = np.clip(centres + steps, 0.0, 1.0).reshape(-1, centres.shape[1])
    return found


def _on_cube(terms: Sequence[Term], space: SearchSpace, start: Mat, smooth: NDArray[np.bool_]) -> ascent.Score:
    """The sum of terms from given starts as a function of the coordinates that move, which are features themselves."""
    column = np.flatnonzero(smooth[space.groups])
    moving = np.flatnonzero(smooth)
    fixed, active = space.features(start), space.active(start)[:, moving]

    def score(unit: Mat, rows: NDArray[np.int64]) -> tuple[Vec, Mat]:
        x = fixed[rows]
        x[:, column] = np.where(active[rows], unit[:, moving], x[:, column])
        value, slope = terms[0].slope(x)
        for term in terms[1:]:
            more, more_slope = term.slope(x)
            value, slope = value + more, slope + more_slope
        found = np.zeros_like(unit)
        found[:, moving] = np.where(active[rows], slope[:, column], 0.0)
        return value, found

    return score


def _neighbours(space: SearchSpace, unit: Mat, moving: NDArray[np.int64], rng: np.random.Generator) -> Mat:
    """Points that differ from one of [B, d] in one of the parameters that move, by every cell of it: at most `NEIGHBOURS`."""
    found = []
    for number in moving:
        cells = int(space.cells[number])
        other = np.repeat(unit, cells, axis=0)
        other[:, number] = np.tile(space.centre(int(number), np.arange(cells)), len(unit))
        found.append(other)
    every = np.concatenate(found)
    if len(every) > NEIGHBOURS:
        every = every[rng.permutation(len(every))[:NEIGHBOURS]]
    return space.snap(every)
