"""Batched L-BFGS in the unit cube: many starts, one evaluation of all of them a step.

Source: Nocedal and Wright, Numerical Optimization (2006), algorithm 7.4, with projection; batched as in arXiv 2511.13625.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Vec = NDArray[np.float64]
Mat = NDArray[np.float64]
Index = NDArray[np.int64]
Score = Callable[
    [Mat, Index], tuple[Vec, Mat]
]  # points [B, d], and which start each comes from, to values [B] and gradients [B, d]

MEMORY: Final = 8
_ARMIJO = 1e-4
_FIRST_STEP = 0.1  # largest move of the first step
_LONGEST = 0.3  # largest move of a later one
_SHORTEST = 1e-3  # part of a step below which a start is done


def climb(
    score: Score, start: Mat, *, free: NDArray[np.bool_] | None = None, steps: int = 40, gain: float = 1e-6
) -> tuple[Mat, Vec]:
    """Local maxima of a score in [0, 1]^d from each start float64 [B, d]; no value falls.

    Parameters
    ----------
    free : bool [d], optional
        Coordinates that may move; by default all.
    steps
        Evaluations of the batch at most.
    gain
        A start whose step gains less is done.

    Returns
    -------
    points, values : float64 [B, d], float64 [B]
    """
    x = start.copy()
    live = np.arange(len(x))
    value, slope = score(x, live)
    moves = np.ones(x.shape[1], bool) if free is None else free
    memory = _Memory(x.shape)
    part = np.ones(len(x))
    direction = _direction(memory, live, x, slope, moves)
    for _ in range(steps - 1):
        tried = np.clip(x[live] + part[live, None] * direction[live], 0.0, 1.0)
        moved = tried - x[live]
        found, found_slope = score(tried, live)
        promised = _ARMIJO * np.vecdot(slope[live], moved)
        good = found >= value[live] + np.maximum(promised, 0.0)
        done = ~np.isfinite(found) & good
        gained = found - value[live]
        up = live[good]
        memory.add(up, moved[good], slope[up] - found_slope[good])
        x[up], value[up], slope[up] = tried[good], found[good], found_slope[good]
        done |= good & (gained < gain)
        part[live] = np.where(good, 1.0, 0.25 * part[live])
        done |= part[live] < _SHORTEST
        if len(up):
            direction[up] = _direction(memory, up, x[up], slope[up], moves)
        done |= ~(np.abs(direction[live]).max(1) > 1e-9)
        live = live[~done]
        if not len(live):
            break
    return x, value


class _Memory:
    """The last steps of each start, and how the gradient changed in them."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.step = np.zeros((MEMORY, *shape))
        self.change = np.zeros((MEMORY, *shape))
        self.curve = np.zeros((MEMORY, shape[0]))  # 1 / (step . change); 0: empty
        self.used = 0  # places that any start has filled, from the end

    def add(self, rows: Index, step: Mat, change: Mat) -> None:
        """A step of some starts; one along which the score is not concave is left out."""
        curve = np.vecdot(step, change)
        kept = curve > 1e-12
        self.used = min(self.used + 1, MEMORY)
        rows = rows[kept]
        for array, new in ((self.step, step[kept]), (self.change, change[kept]), (self.curve, 1.0 / curve[kept])):
            array[:-1, rows] = array[1:, rows]
            array[-1, rows] = new


def _direction(memory: _Memory, rows: Index, x: Mat, slope: Mat, moves: NDArray[np.bool_]) -> Mat:
    """Where each start goes next: the quasi-Newton step within the cube, or the gradient's."""
    open_ = moves & ~((x <= 0.0) & (slope < 0.0)) & ~((x >= 1.0) & (slope > 0.0))
    free_slope = slope * open_
    q = free_slope.copy()
    known = np.zeros(len(rows), bool)
    if memory.used:
        used = slice(-memory.used, None)
        known, q = _two_loops(memory.step[used, rows], memory.change[used, rows], memory.curve[used, rows], q)
        q *= open_
    uphill = known & (np.vecdot(q, free_slope) > 0.0)
    q = np.where(uphill[:, None], q, free_slope)
    longest = np.abs(q).max(1)
    most = np.where(uphill, np.minimum(longest, _LONGEST), _FIRST_STEP)
    found: Mat = q * (most / np.maximum(longest, 1e-300))[:, None]
    return found


def _two_loops(step: Mat, change: Mat, curve: Mat, q: Mat) -> tuple[NDArray[np.bool_], Mat]:
    """Which starts have a history, and the inverse curvature times q [B, d]; arrays of histories are [used, B, ...]."""
    along = np.zeros_like(curve)
    for i in range(len(curve) - 1, -1, -1):
        along[i] = curve[i] * np.vecdot(step[i], q)
        q -= along[i][:, None] * change[i]
    known = curve[-1] > 0.0
    size = np.vecdot(change[-1], change[-1])
    q *= np.where(known, 1.0 / np.where(known, curve[-1] * size, 1.0), 1.0)[:, None]
    for i in range(len(curve)):
        back = curve[i] * np.vecdot(change[i], q)
        q += (along[i] - back)[:, None] * step[i]
    return known, q
