"""Stationary covariances of a Gaussian process: Matern 5/2 and the squared exponential, compiled.

The exponential is a polynomial after a shift of the exponent's bits, so that a compiler makes vector instructions of the loops
and every machine gets the same bits. Letters as in `gp`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.hpo.gp import Against, Pull
from qstream.kernels import compiled

Vec = NDArray[np.float64]
Mat = NDArray[np.float64]
Index = NDArray[np.int64]

MATERN, RBF = 0, 1  # shapes
_SHAPES: Final = {"matern": MATERN, "rbf": RBF}
_START: Final = (float(np.log(0.7)), 0.0, -7.0)  # log of a length scale, of the signal's variance, of the noise's
_BOUNDS: Final = ((-3.5, 3.0), (-4.0, 4.0), (-16.0, 2.0))
_LENGTH_PRIOR: Final = 0.1
_ROOT5: Final = float(np.sqrt(5.0))
_LEAST: Final = -700.0  # exponent below which nothing counts
_PER_LOG2: Final = 1.0 / float(np.log(2.0))
_LOG2_HIGH, _LOG2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10  # the first times a whole number is exact
_TAYLOR: Final = tuple(1.0 / math.factorial(power) for power in range(13))  # of the exponential, enough for log(2) / 2
_ROUND: Final = 1.5 * 2.0**52  # added, it leaves the nearest whole number in the last bits


@compiled
def _covariances(x: Any, y: Any, shape: int, signal: float, value: Any, slope: Any) -> None:
    """Covariances [B, n] of points [B, F] with others [F, n], both in length scales, and their derivatives by r^2."""
    features, n = y.shape
    exponent, power, rounded = np.empty(n), np.empty(n), np.empty(n)
    bits = rounded.view(np.int64)
    for b in range(len(x)):
        for j in range(n):
            exponent[j] = 0.0
        for f in range(features):
            at = x[b, f]
            for j in range(n):
                apart = y[f, j] - at
                exponent[j] += apart * apart
        for j in range(n):
            wanted = -_ROOT5 * np.sqrt(exponent[j]) if shape == MATERN else -0.5 * exponent[j]
            exponent[j] = max(wanted, _LEAST)
            rounded[j] = exponent[j] * _PER_LOG2 + _ROUND
        for j in range(n):
            whole = rounded[j] - _ROUND
            rest = (exponent[j] - whole * _LOG2_HIGH) - whole * _LOG2_LOW  # within log(2) / 2 of 0
            series = (_TAYLOR[12] * rest + _TAYLOR[11]) * rest + _TAYLOR[10]
            series = (series * rest + _TAYLOR[9]) * rest + _TAYLOR[8]
            series = (series * rest + _TAYLOR[7]) * rest + _TAYLOR[6]
            series = (series * rest + _TAYLOR[5]) * rest + _TAYLOR[4]
            series = (series * rest + _TAYLOR[3]) * rest + _TAYLOR[2]
            power[j] = signal * ((series * rest + 1.0) * rest + 1.0)
        for j in range(n):
            bits[j] = (bits[j] << 52) + (np.int64(1023) << 52)  # 2^whole
        for j in range(n):
            e, r = power[j] * rounded[j], exponent[j]
            if shape == MATERN:
                value[b, j] = (1.0 - r + r * r / 3.0) * e
                slope[b, j] = (r - 1.0) * e * (5.0 / 6.0)
            else:
                value[b, j] = e
                slope[b, j] = -0.5 * e


@dataclass(frozen=True, slots=True)
class Stationary:
    """s2 g(r2), r2 the squared distance of features in length scales, one scale a parameter of the space.

    `groups` int64 [F] names the parameter of each feature, `shape` g. Prior: -.1 sum(l^2 + l^-2), Gamma(2, 1) of s2,
    Gamma(1.1, 30) of the noise, as in Optuna's GPSampler.
    """

    groups: Index
    shape: int

    @property
    def layers(self) -> int:
        return 0

    @property
    def lengths(self) -> int:
        return int(self.groups.max()) + 1

    def start(self) -> Vec:
        return np.array([_START[0]] * self.lengths + [*_START[1:]])

    def bounds(self) -> Mat:
        return np.array([_BOUNDS[0]] * self.lengths + [*_BOUNDS[1:]])

    def log_prior(self, theta: Vec) -> tuple[float, Vec]:
        wide = np.exp(2.0 * theta[:-2])
        s2, noise = np.exp(theta[-2:])
        value = -_LENGTH_PRIOR * float((wide + 1.0 / wide).sum()) + theta[-2] - s2 + 0.1 * theta[-1] - 30.0 * noise
        slope = np.empty(len(theta))
        slope[:-2], slope[-2], slope[-1] = -2.0 * _LENGTH_PRIOR * (wide - 1.0 / wide), 1.0 - s2, 0.1 - 30.0 * noise
        return float(value), slope

    def gram(self, theta: Vec, x: Mat) -> Mat:
        z = self._scaled(theta, x)
        return self._pairs(theta, z, np.ascontiguousarray(z.T))[0]

    def against(self, theta: Vec, y: Mat) -> Against:
        scale = np.exp(theta[self.groups])
        b = y / scale
        columns = np.ascontiguousarray(b.T)

        def covariances(x: Mat) -> tuple[Mat, Pull]:
            a = x / scale
            value, slope = self._pairs(theta, a, columns)

            def pull(weight: Mat) -> Mat:
                weighted = slope * weight
                found: Mat = 2.0 * (weighted.sum(1)[:, None] * a - weighted @ b) / scale
                return found

            return value, pull

        return covariances

    def diagonal(self, theta: Vec, x: Mat) -> Vec:
        return np.full(len(x), np.exp(theta[-2]))

    def gram_with_slope(self, theta: Vec, x: Mat) -> tuple[Mat, Callable[[Mat], Vec]]:
        z = self._scaled(theta, x)
        gram, by_squared = self._pairs(theta, z, np.ascontiguousarray(z.T))

        def slope(weight: Mat) -> Vec:
            m = weight * by_squared
            by_feature = 4.0 * ((z * (m @ z)).sum(0) - (z * z * m.sum(1)[:, None]).sum(0))
            found = np.zeros(len(theta))
            found[:-2], found[-2] = np.bincount(self.groups, by_feature, self.lengths), np.vdot(weight, gram)
            return found

        return gram, slope

    def _scaled(self, theta: Vec, x: Mat) -> Mat:
        found: Mat = x / np.exp(theta[self.groups])
        return found

    def _pairs(self, theta: Vec, x: Mat, y: Mat) -> tuple[Mat, Mat]:
        """Covariances [B, n] of [B, F] with [F, n], in length scales, and their derivatives by the squared distance."""
        value, slope = np.empty((len(x), y.shape[1])), np.empty((len(x), y.shape[1]))
        _covariances(np.ascontiguousarray(x), y, self.shape, float(np.exp(theta[-2])), value, slope)
        return value, slope


def covariance(name: str, groups: Index) -> Stationary:
    """A stationary covariance by name."""
    return Stationary(groups, _SHAPES[name])
