"""Acquisition: the log of the expected improvement, and where a sum of score terms is largest in a search space."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from qstream.hpo import gp
from qstream.hpo.space import SearchSpace

if TYPE_CHECKING:
    from qstream.hpo.ascent import Score

Vec = NDArray[np.float64]
Mat = NDArray[np.float64]

SCALES: Final = (0.2, 0.05, 0.01)  # of steps from good points, in the cube
PERTURBED: Final = 20  # of each scale and point
ROUNDS: Final = 4  # of climbs and exchanges
MANY: Final = 64  # cells above which a number is climbed as if it were continuous
NEIGHBOURS: Final = 1024
HOPEFUL: Final = 4  # times the points that are wanted: so many are scored before others are left out by their ceilings


class Term(Protocol):
    """A part of the score, on features of the space; parts are added."""

    def value(self, x: Mat) -> Vec:
        """Scores of features float64 [B, F]: [B]."""

    def ceiling(self, x: Mat) -> Vec:
        """What no score of features [B, F] is above, for less work: [B]."""

    def slope(self, x: Mat) -> tuple[Vec, Mat]:
        """Scores [B] and their gradient by the features [B, F]."""


class Shift(Protocol):
    """A known part of a process's mean."""

    def value(self, x: Mat) -> Vec:
        """At features float64 [B, F]: [B]."""

    def slope(self, x: Mat) -> tuple[Vec, Mat]:
        """That [B], and its gradient [B, F]."""


@dataclass(frozen=True, slots=True)
class Improvement:
    """Log of the expected improvement on `best` under a process, which was fitted on what a known mean, `shift`, leaves."""

    known: gp.Posterior
    best: float
    shift: Shift | None = None

    def value(self, x: Mat) -> Vec:
        return self._scored(x, gp.predict)

    def ceiling(self, x: Mat) -> Vec:
        return self._scored(x, gp.predict_roughly)  # more variance, more improvement

    def _scored(self, x: Mat, predict: Callable[[gp.Posterior, Mat], tuple[Vec, Vec]]) -> Vec:
        from qstream.hpo.normal import log_expected_improvement  # noqa: PLC0415 compiled

        mean, variance = predict(self.known, x)
        if self.shift is not None:
            mean = mean + self.shift.value(x)
        return log_expected_improvement(mean, variance, self.best)[0]

    def slope(self, x: Mat) -> tuple[Vec, Mat]:
        from qstream.hpo.normal import log_expected_improvement  # noqa: PLC0415 compiled

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
    from qstream.hpo.ascent import climb  # noqa: PLC0415 compiled

    smooth = _smooth(space)
    unit = space.snap(np.concatenate([rng.random((candidates, space.size)), _around(centres, rng)]))
    unit, value = _best(terms, space, unit, taken, starts)
    for _ in range(ROUNDS):
        if not len(unit):
            return None
        before, top = value[0], unit
        tried = [top]
        if smooth.any():
            start, start_value = top, value
            top, found = climb(_on_cube(terms, space, start, smooth), start, free=smooth)
            tried.append(top := space.snap(np.where((found > start_value)[:, None], top, start)))
        if not smooth.all():
            tried.append(_neighbours(space, top, np.flatnonzero(~smooth), rng))
        unit, value = _best(terms, space, np.concatenate(tried), taken, starts)
        if smooth.all() or (len(value) and value[0] <= before):
            break
    return (unit[0], float(value[0])) if len(unit) else None


def _smooth(space: SearchSpace) -> NDArray[np.bool_]:
    """Which parameters a climb moves: numbers without cells, or with many, in their order. [d]"""
    ordered = np.array([parameter.type != "categorical" for parameter in space.parameters])
    found: NDArray[np.bool_] = ordered & ((space.cells == 0) | (space.cells > MANY))
    return found


def _best(terms: Sequence[Term], space: SearchSpace, unit: Mat, taken: frozenset[bytes], count: int) -> tuple[Mat, Vec]:
    """The `count` distinct points that are not taken with the largest scores, and these, the largest first."""
    if space.discrete:
        first: dict[bytes, int] = {}
        for i, key in enumerate(space.keys(unit)):
            if key not in taken:
                first.setdefault(key, i)
        unit = unit[list(first.values())]
    if not len(unit):
        return unit, np.zeros(0)
    x = space.features(unit)
    rows = _hopeful(terms, x, count) if len(x) > HOPEFUL * count else np.arange(len(x))
    value = _sum(term.value(x[rows]) for term in terms)
    order = np.argsort(-value, kind="stable")[:count]
    return unit[rows[order]], value[order]


def _hopeful(terms: Sequence[Term], x: Mat, count: int) -> NDArray[np.int64]:
    """Rows of features [B, F] among which the `count` largest scores are, in order: others have a ceiling below these."""
    ceiling = _sum(term.ceiling(x) for term in terms)
    first = np.argsort(-ceiling, kind="stable")[: HOPEFUL * count]
    value = _sum(term.value(x[first]) for term in terms)
    hopeful = ceiling >= np.partition(value, -count)[-count]
    hopeful[first] = True
    return np.flatnonzero(hopeful)


def _sum(parts: Iterable[Vec]) -> Vec:
    found: Vec = np.sum(list(parts), axis=0)
    return found


def _around(centres: Mat, rng: np.random.Generator) -> Mat:
    """Normal steps of three sizes from each centre, within the cube."""
    steps = rng.normal(size=(len(SCALES), PERTURBED, *centres.shape)) * np.array(SCALES)[:, None, None, None]
    found: Mat = np.clip(centres + steps, 0.0, 1.0).reshape(-1, centres.shape[1])
    return found


def _on_cube(terms: Sequence[Term], space: SearchSpace, start: Mat, smooth: NDArray[np.bool_]) -> Score:
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
