"""Conformal bounds: as often above the next score as asked, whatever the scores are distributed like, and while they drift.

The quantile of the last scores, at a level that follows what was missed: Gibbs and Candès, "Adaptive conformal inference under
distribution shift", NeurIPS 2021. Axes: series S, window N.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.kernels import compiled
from qstream.learn import given
from qstream.learn.evolve import evolve
from schemas.frame import Axes, Count, Frame

SCORE_MAX: Final = 1e150  # a larger score counts as this one, so that differences stay finite
MAX_WINDOW: Final = 100_000
_STEP: Final = 0.25  # of the distance from median to largest score, for each rank beyond the largest
_TARGET: Final = 0.9  # of the level asked for: what bounds of few scores and late misses cost
_LEVEL: Final = 1.0  # the level stays within -1 and 1


class ConformalState(Frame):
    """The last scores of each series, in a ring where score number i stands at ``i % N``, and the level of the bound."""

    steps: Count = 0
    coverage: float
    rate: float
    score: Annotated[NDArray[np.float64], Axes("series", "window")]
    level: Annotated[NDArray[np.float64], Axes("series")]
    missed: Annotated[NDArray[np.int64], Axes("series")]


def start(series: int = 1, *, coverage: float = 0.95, window: int = 100, rate: float = 0.005) -> ConformalState:
    """Return a state that has seen no score.

    Parameters
    ----------
    series
        How many stand next to each other.
    coverage
        The part of scores, in (0, 1), that shall not be above their bound.
    window
        How many past scores count. Several hundred make bounds wide when the scores drift.
    rate
        By how much a miss moves the level. Above .02, bounds become wide.
    """
    rows = given.whole("series", series, 1, given.MAX_SERIES)
    asked = given.real("coverage", coverage, 1e-6, 1 - 1e-6)
    return ConformalState(
        coverage=asked,
        rate=given.real("rate", rate, 0.0, 1.0),
        score=np.zeros((rows, given.whole("window", window, 1, MAX_WINDOW))),
        level=np.full(rows, 1 - asked),
        missed=np.zeros(rows, np.int64),
    )


def bound(state: ConformalState, first: float = 0.0) -> NDArray[np.float64]:
    """Return the bounds of the next scores: float64 [S], in the unit of the scores; `first` before any score was seen."""
    found = np.full(len(state.level), given.real("first", first, -SCORE_MAX, SCORE_MAX))
    if state.steps:
        bound_rows(np.sort(state.score[:, : state.steps], axis=1), state.level, found)
    return found


def learn(state: ConformalState, score: ArrayLike, used: ArrayLike) -> ConformalState:
    """Return the state after the scores [S] came, of which the bounds `used` [S] were given.

    A score is what shall rarely be large, such as the error of a forecast, or the highest load over the highest seen before.
    Scores may come late, as long as `used` is the bound that was given for them.
    """
    rows, window = state.score.shape
    came = np.clip(given.numbers("score", score, (rows,)), -SCORE_MAX, SCORE_MAX)
    missed = came > given.numbers("used", used, (rows,))
    ring = state.score.copy()
    ring[:, state.steps % window] = came
    level = state.level + state.rate * (_TARGET * (1 - state.coverage) - missed)
    return evolve(state, steps=state.steps + 1, score=ring, level=np.clip(level, -_LEVEL, _LEVEL), missed=state.missed + missed)


@compiled
def bound_rows(ordered: Any, level: Any, found: Any) -> None:
    """Fill `found` [S] with the score of the level's rank among `ordered` [S, n], ascending, or with what lies beyond."""
    rows, n = ordered.shape
    for s in range(rows):
        rank = int(np.ceil((n + 1) * (1 - level[s]) - 1e-9))
        largest = ordered[s, n - 1]
        if rank <= n:
            found[s] = ordered[s, max(rank, 1) - 1]
        else:
            median = 0.5 * (ordered[s, (n - 1) // 2] + ordered[s, n // 2])
            found[s] = largest + _STEP * (rank - n) * (largest - median)
