"""Batched L-BFGS in the unit cube: many starts, one evaluation of all of them a step, and what lies between compiled.

Source: Nocedal and Wright, Numerical Optimization (2006), algorithm 7.4, with projection; batched as in arXiv 2511.13625.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.kernels import compiled

Vec = NDArray[np.float64]
Mat = NDArray[np.float64]
Index = NDArray[np.int64]
Score = Callable[
    [Mat, Index], tuple[Vec, Mat]
]  # points [B, d], and which start each comes from, to values [B] and gradients [B, d]

MEMORY: Final = 8
_ARMIJO: Final = 1e-4
_FIRST_STEP: Final = 0.1  # largest move of the first step
_LONGEST: Final = 0.3  # largest move of a later one
_SHORTEST: Final = 1e-3  # part of a step below which a start is done
_CONCAVE: Final = 1e-12  # step times change of the gradient from which on a step is remembered
_STILL: Final = 1e-9  # largest move that is none


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
    count, d = start.shape
    x, value, slope = start.copy(), np.full(count, -np.inf), np.zeros(start.shape)
    moves = np.ones(d, bool) if free is None else free
    direction, part = np.zeros(start.shape), np.ones(count)
    past, known = np.zeros((count, MEMORY, 2, d)), np.zeros(count, np.int64)
    live, tried = np.arange(count), start.copy()
    for _ in range(steps):
        found, found_slope = score(tried, live)
        left = _advance(live, tried, found, found_slope, moves, gain, x, value, slope, direction, part, past, known)
        if not left:
            break
        live, tried = live[:left], tried[:left]
    return x, value


@compiled
def _advance(
    live: Any,
    tried: Any,
    found: Any,
    found_slope: Any,
    moves: Any,
    gain: float,
    x: Any,
    value: Any,
    slope: Any,
    direction: Any,
    part: Any,
    past: Any,
    known: Any,
) -> Any:
    """Take the points that were tried [L, d] where they gain enough, else shorten the step; how many starts go on.

    The first of `live` [L] are then these starts, and the first of `tried` their next points. State of each start: its best
    point so far, with value and slope; the direction of its step, and the part of it that is tried; `known` steps, the last of
    them in `past` [B, MEMORY, 2, d], each with the fall of the gradient along it.
    """
    d = x.shape[1]
    left = 0
    for row in range(len(live)):
        b = live[row]
        gained, promised, curve = found[row] - value[b], 0.0, 0.0
        for i in range(d):
            moved = tried[row, i] - x[b, i]
            promised += slope[b, i] * moved
            curve += moved * (slope[b, i] - found_slope[row, i])
        going = True
        if found[row] >= value[b] + max(_ARMIJO * promised, 0.0):
            if curve > _CONCAVE:
                at = known[b] % MEMORY
                known[b] += 1
                for i in range(d):
                    past[b, at, 0, i] = tried[row, i] - x[b, i]
                    past[b, at, 1, i] = slope[b, i] - found_slope[row, i]
            for i in range(d):
                x[b, i], slope[b, i] = tried[row, i], found_slope[row, i]
            value[b], part[b] = found[row], 1.0
            longest = _turn(x[b], slope[b], moves, past[b], known[b], direction[b])
            going = np.isfinite(found[row]) and gained >= gain and longest > _STILL
        else:
            part[b] *= 0.25
            going = part[b] >= _SHORTEST
        if going:
            live[left] = b
            for i in range(d):
                tried[left, i] = min(max(x[b, i] + part[b] * direction[b, i], 0.0), 1.0)
            left += 1
    return left


@compiled
def _turn(x: Any, slope: Any, moves: Any, past: Any, known: int, direction: Any) -> Any:
    """Point `direction` [d] along the quasi-Newton step within the cube, or else the gradient; its largest part.

    The two loops of the algorithm, over the steps that are remembered, the newest first and then last.
    """
    d, used = len(x), min(known, MEMORY)
    q, along = np.zeros(d), np.zeros(MEMORY)
    for i in range(d):
        shut = not moves[i] or (x[i] <= 0.0 and slope[i] < 0.0) or (x[i] >= 1.0 and slope[i] > 0.0)
        q[i] = 0.0 if shut else slope[i]
        direction[i] = q[i]
    for back in range(1, used + 1):
        step, change = past[(known - back) % MEMORY]
        along[back - 1] = _dot(step, q) / _dot(step, change)
        for i in range(d):
            q[i] -= along[back - 1] * change[i]
    if used:
        step, change = past[(known - 1) % MEMORY]
        size = _dot(step, change) / _dot(change, change)
        for i in range(d):
            q[i] *= size
    for back in range(used, 0, -1):
        step, change = past[(known - back) % MEMORY]
        ahead = along[back - 1] - _dot(change, q) / _dot(step, change)
        for i in range(d):
            q[i] += ahead * step[i]
    uphill, longest = 0.0, 0.0
    for i in range(d):
        q[i] = 0.0 if direction[i] == 0.0 else q[i]
        uphill += q[i] * direction[i]
        longest = max(longest, abs(q[i]))
    if uphill > 0.0 and used:
        most = min(longest, _LONGEST)
        for i in range(d):
            direction[i] = q[i]
    else:
        longest = 0.0
        for i in range(d):
            longest = max(longest, abs(direction[i]))
        most = _FIRST_STEP
    for i in range(d):
        direction[i] *= most / max(longest, 1e-300)
    return most if longest > 0.0 else 0.0


@compiled
def _dot(a: Any, b: Any) -> Any:
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total
