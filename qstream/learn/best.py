"""Best of several normals: the exact probability that each is the greatest, which is what Thompson sampling draws from."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from qstream.kernels import compiled

# Abscissae above 0 and weights of the Gauss-Legendre rule of 8 points (Abramowitz and Stegun, table 25.4).
_NODE: Final = np.array([0.18343464249564978, 0.525532409916329, 0.7966664774136267, 0.9602898564975362])
_SHARE: Final = np.array([0.36268378337836166, 0.3137066458778869, 0.22238103445337443, 0.10122853629037706])
_CUTS: Final = np.array([-6.5, -2.0, 2.0, 6.5])  # in spreads from each mean: between them all densities are smooth
_SQRT_HALF: Final = math.sqrt(0.5)
_DENSITY: Final = 1 / math.sqrt(2 * math.pi)  # of a standard normal at 0
_LEAST: Final = 1e-9  # of the largest spread, below which a smaller one counts as this: two constants would be a step


@compiled
def best_chances(mean: Any, spread: Any, width: Any, allowed: Any, chance: Any) -> None:
    """Write to `chance` [arms] the probability that each allowed arm is the best, arms being independent normals.

    P(a) = integral of f_a(t) prod over b != a of F_b(t) dt, by 8-point Gauss-Legendre between cuts at 2 and 6.5 spreads
    from each mean. `mean` and `spread`, which counts `width` times, are float64 [arms], spreads >= 0; `allowed` is bool [arms],
    true for at least one.
    """
    arms = len(mean)
    widest, scale = 0.0, 0.0
    for a in range(arms):
        if allowed[a]:
            widest, scale = max(widest, width * spread[a]), max(scale, abs(mean[a]))
    s, least = np.empty(arms), max(widest * _LEAST, scale * 1e-12, 1e-150)
    for a in range(arms):
        s[a] = max(width * spread[a], least)
    low, high = -math.inf, -math.inf
    for a in range(arms):
        chance[a] = 0.0
        if allowed[a]:
            low, high = max(low, mean[a] - 6.5 * s[a]), max(high, mean[a] + 6.5 * s[a])
    cuts, n = np.empty(arms * len(_CUTS)), 0
    for a in range(arms):
        for c in _CUTS:
            t = mean[a] + c * s[a]
            if allowed[a] and low <= t <= high:  # sorted as they come; NumPy's sort takes seconds to compile
                at = n
                while at > 0 and cuts[at - 1] > t:
                    cuts[at] = cuts[at - 1]
                    at -= 1
                cuts[at] = t
                n += 1
    room = np.empty((2, arms))
    for i in range(n - 1):
        half, middle = 0.5 * (cuts[i + 1] - cuts[i]), 0.5 * (cuts[i + 1] + cuts[i])
        if half > 0.0:
            for k in range(2 * len(_NODE)):
                t = middle + half * (_NODE[k // 2] if k % 2 else -_NODE[k // 2])
                _add(t, half * _SHARE[k // 2], mean, s, allowed, room, chance)
    total = 0.0
    for a in range(arms):
        total += chance[a]
    for a in range(arms):
        chance[a] /= total


@compiled
def _add(t: Any, width: Any, mean: Any, s: Any, allowed: Any, room: Any, chance: Any) -> None:
    """Add one point of the integral of every arm: density there, times the chance that all others lie below."""
    below, after = room[0], room[1]
    rest = 1.0
    for a in range(len(mean) - 1, -1, -1):  # products of those after, then of those before: nothing is divided
        below[a] = 0.5 * math.erfc((mean[a] - t) / s[a] * _SQRT_HALF) if allowed[a] else 1.0
        after[a] = rest
        rest *= below[a]
    before = width * _DENSITY
    for a in range(len(mean)):
        if allowed[a]:
            z = (t - mean[a]) / s[a]
            chance[a] += before * after[a] * math.exp(-0.5 * z * z) / s[a]
            before *= below[a]
