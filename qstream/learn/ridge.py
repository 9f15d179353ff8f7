"""Ridge regressions that forget: what each arm earns as a linear function of the context, at several memories.

Lower triangles of A = ridge I + sum of x x', row by row, and sums b of reward times x. The ridge comes back as old contexts fade,
so that a direction that was not seen for long is uncertain again. Axes: arms A, memories M, triangle T, features F.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from qstream.kernels import compiled

MOST_REWARD: Final = 1e100  # a reward beyond counts as this, so that no sum overflows
MOST_CONTEXT: Final = 1e50  # and so does a number of a context
_PIVOT: Final = 1e-12  # of the diagonal, below which a pivot is rounding


@compiled
def predict(gram: Any, target: Any, noise: Any, share: Any, x: Any, each: Any, mean: Any, spread: Any) -> None:
    """Fill `each` [A, M] with what every memory expects, `mean` and `spread` [A] with the mixture and its standard error.

    By Cholesky, A = L L': z = L^-1 x and v = L^-1 b give x' A^-1 b = z'v and x' A^-1 x = z'z, which 1 / ridge bounds.
    """
    arms, memories, features = target.shape
    factor, z, v = np.empty((features, features)), np.empty(features), np.empty(features)
    for a in range(arms):
        mean[a], spread[a] = 0.0, 0.0
        for m in range(memories):
            at, forecast, square = 0, 0.0, 0.0
            for i in range(features):
                z[i], v[i] = x[i], target[a, m, i]
                for j in range(i + 1):
                    part = gram[a, m, at]
                    for k in range(j):
                        part -= factor[i, k] * factor[j, k]
                    if i == j:
                        factor[i, i] = math.sqrt(max(part, _PIVOT * gram[a, m, at]))
                    else:
                        factor[i, j] = part / factor[j, j]
                        z[i] -= factor[i, j] * z[j]
                        v[i] -= factor[i, j] * v[j]
                    at += 1
                z[i], v[i] = z[i] / factor[i, i], v[i] / factor[i, i]
                forecast += z[i] * v[i]
                square += z[i] * z[i]
            each[a, m] = min(max(forecast, -MOST_REWARD), MOST_REWARD) if math.isfinite(forecast) else 0.0
            mean[a] += share[m] * each[a, m]
            spread[a] += share[m] * (math.sqrt(square) if math.isfinite(square) else MOST_CONTEXT) * math.sqrt(noise[m])


@compiled
def add(reward: Any, x: Any, count: Any, fade: Any, ridge: Any, gram: Any, target: Any) -> None:
    """A = fade A + (1 - fade) ridge I + count x x' and b = fade b + reward x, in place: `gram` [T], `target` [F]."""
    at = 0
    for i in range(len(x)):
        target[i] = fade * target[i] + reward * x[i]
        for j in range(i + 1):
            gram[at] = fade * gram[at] + count * x[i] * x[j]
            at += 1
        gram[at - 1] += (1.0 - fade) * ridge
