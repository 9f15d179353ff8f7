"""Normal: logs of the expected improvement and of probabilities of a normal variable, and their derivatives.

With Mills' ratio M(a) = Phi(-a) / phi(a): h(-a) = phi(a) (1 - a M), h(a) = a + h(-a), where h(z) = phi(z) + z Phi(z). Far from 0
both M and 1 - a M come from Laplace's continued fraction, so that nothing cancels or underflows.
Source: Ament et al., Unexpected Improvements to Expected Improvement (2023), for the logarithm and its derivatives.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.kernels import compiled

Vec = NDArray[np.float64]

_FAR: Final = 5.0  # from here on the continued fraction, of which `_TERMS` are exact to the last bit
_TERMS: Final = 24
_ROOT_HALF: Final = math.sqrt(0.5)
_ROOT_HALF_PI: Final = math.sqrt(0.5 * math.pi)
_HALF_LOG_2PI: Final = 0.5 * math.log(2.0 * math.pi)


@compiled
def mills(a: Any) -> Any:
    """Mills' ratio M of a >= 0, and 1 - a M."""
    if a < _FAR:
        ratio = _ROOT_HALF_PI * math.exp(0.5 * a * a) * math.erfc(a * _ROOT_HALF)
        return ratio, 1.0 - a * ratio
    rest = 0.0  # M = 1 / (a + rest), rest = 1 / (a + 2 / (a + 3 / ...))
    for term in range(_TERMS, 0, -1):
        rest = term / (a + rest)
    return 1.0 / (a + rest), rest / (a + rest)


@compiled
def _improvement(mean: Any, variance: Any, best: Any, value: Any, by_mean: Any, by_variance: Any) -> None:
    for i in range(len(mean)):
        sigma = math.sqrt(variance[i])
        z = (best - mean[i]) / sigma
        a = abs(z)
        ratio, rest = mills(a)
        log_density = -0.5 * a * a - _HALF_LOG_2PI
        if z > 0.0:
            density = math.exp(log_density)
            h = a + density * rest
            log, by_z = math.log(h), (1.0 - density * ratio) / h
        else:
            log, by_z = log_density + math.log(rest), ratio / rest
        value[i] = log + math.log(sigma)
        by_mean[i] = -by_z / sigma
        by_variance[i] = 0.5 * (1.0 - z * by_z) / variance[i]


@compiled
def _below(mean: Any, variance: Any, bound: Any, value: Any, by_mean: Any, by_variance: Any) -> None:
    for i in range(len(mean)):
        sigma = math.sqrt(variance[i])
        z = (bound - mean[i]) / sigma
        ratio, _ = mills(abs(z))
        density = math.exp(-0.5 * z * z - _HALF_LOG_2PI)
        if z > 0.0:
            value[i] = math.log1p(-density * ratio)
            hazard = density / (1.0 - density * ratio)
        else:
            value[i] = math.log(ratio) - 0.5 * z * z - _HALF_LOG_2PI
            hazard = 1.0 / ratio
        by_mean[i] = -hazard / sigma
        by_variance[i] = -0.5 * hazard * z / variance[i]


def log_expected_improvement(mean: Vec, variance: Vec, best: float) -> tuple[Vec, Vec, Vec]:
    """Log E max(best - y, 0) for y normal with these moments, and its derivatives by mean and by variance: [B] each.

    Finite for every finite mean and positive variance.
    """
    found = np.empty((3, len(mean)))
    _improvement(mean, variance, best, found[0], found[1], found[2])
    return found[0], found[1], found[2]


def log_below(mean: Vec, variance: Vec, bound: float) -> tuple[Vec, Vec, Vec]:
    """Log of the probability that a normal variable is below a bound, and its derivatives by mean and variance: [B] each."""
    found = np.empty((3, len(mean)))
    _below(mean, variance, bound, found[0], found[1], found[2])
    return found[0], found[1], found[2]
