"""Outlook: demands that the next window may bring, drawn from what the last windows say of level, memory and noise."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DRAWS: Final = 16
NEW_PATTERN: Final = 0.8  # root mean square of log ratios of two windows in a row
PRIOR_MEMORY, PRIOR_NOISE, PRIOR_WEIGHT = 0.8, 0.3, 100.0  # counts as so many pairs seen for two windows
_LEVEL_WEIGHT: Final = 2.0  # windows that the newest one counts as the level, at first


def is_new_pattern(before: Floats, after: Floats) -> bool:
    """Whether demands [L, L] changed more between two windows than the noise of one pattern explains."""
    both = (before > 0) & (after > 0)
    if not both.any():
        return bool((before > 0).any() or (after > 0).any())
    return bool(np.sqrt(np.mean(np.log(after[both] / before[both]) ** 2)) > NEW_PATTERN)


def memory_and_noise(logs: Floats) -> tuple[float, float]:
    """Autocorrelation and deviation of the steps of AR(1) log demands [windows, pairs], drawn towards a prior.

    Differences over one and two windows have variances 2 v (1 - a) and 2 v (1 - a^2): their ratio is 1 + a, and half of the
    second is the variance of a step, whatever the level of a pair is.
    """
    one, two = logs[1:] - logs[:-1], logs[2:] - logs[:-2]
    step = PRIOR_NOISE**2
    before = step / (1 - PRIOR_MEMORY**2)
    sum_1 = PRIOR_WEIGHT * 2 * before * (1 - PRIOR_MEMORY) + float((one**2).sum())
    sum_2 = PRIOR_WEIGHT * 2 * step + float((two**2).sum())
    var_1, var_2 = sum_1 / (PRIOR_WEIGHT + one.size), sum_2 / (PRIOR_WEIGHT + two.size)
    return min(max(var_2 / var_1 - 1, 0.0), 0.98), float(np.sqrt(var_2 / 2))


def next_demands(ring: Floats) -> Floats:
    """Return equally likely demands [DRAWS, L, L] of the next window, from those of the last ones [windows, L, L], newest last.

    A pair's log demand goes back towards its mean by the estimated memory; noise is drawn in opposite pairs from a fixed
    stream, so that the same ring gives the same demands. A pair that is silent now stays silent.
    """
    windows = len(ring)
    logs = np.log(np.maximum(ring, np.finfo(np.float64).tiny))
    active = (ring > 0).all(axis=0)
    memory, noise = memory_and_noise(logs[:, active])
    trust = windows / (windows + _LEVEL_WEIGHT)
    centre = logs[-1] + (1 - memory) * trust * np.where(active, logs.mean(axis=0) - logs[-1], 0.0)
    drawn = np.random.default_rng(0).normal(size=(DRAWS // 2, *centre.shape))
    both = np.concatenate([drawn, -drawn])
    return np.asarray(np.where(ring[-1] > 0, np.exp(centre + noise * both), 0.0))
