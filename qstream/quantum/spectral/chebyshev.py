"""Chebyshev fits of bounded functions with a parity: inverse, sign and filter on the singular values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from schemas.wording import must_be

MAX_DEGREE: Final = 1000
_OVERSAMPLING = 32
_MARGIN = 1e-9

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fit:
    """A polynomial that a quantum circuit can apply: ``p(x) ~ scale * f(x)`` with ``|p| <= 1`` on [-1, 1].

    `coefficients` [degree + 1] are those of the Chebyshev polynomials, of one parity. `error` is the largest deviation of
    ``p / scale`` from f where it was fitted, relative for the inverse.
    """

    coefficients: Values
    scale: float
    error: float

    @property
    def degree(self) -> int:
        return len(self.coefficients) - 1

    def __call__(self, x: ArrayLike) -> Values:
        return np.asarray(chebyshev.chebval(np.asarray(x, np.float64), self.coefficients), np.float64)


def fit_inverse(kappa: float, degree: int) -> Fit:
    """Odd fit of ``1 / (kappa x)`` on ``1 / kappa <= |x| <= 1``, least squares of the relative error.

    A relative error of 1e-2, 1e-3 and 1e-6 takes a degree of about 5.7, 8 and 15 times kappa. Between the two ranges the
    polynomial is free, and exceeds 1 by a little: hence the scale.

    Raises
    ------
    ProblemError
        kappa is below 1 or not finite, or the degree is not odd or above 1,000.
    """
    if not 1 <= kappa < np.inf:
        raise ProblemError(must_be("kappa", "a finite number from 1", kappa))
    degree = _checked_degree(degree, odd=True)
    x = _nodes(1 / kappa, 1.0, degree)
    coefficients = _least_squares(x, 1 / (kappa * x), degree, weight=kappa * x)
    fine = _nodes(1 / kappa, 1.0, 4 * degree)
    return _bounded(coefficients, lambda p, scale: np.abs(p(fine) / scale * kappa * fine - 1))


def fit_sign(gap: float, degree: int) -> Fit:
    """Odd fit of ``sign(x)`` on ``gap <= |x| <= 1``; `ProblemError` if gap is not within (0, 1) or the degree not odd."""
    if not 0 < gap < 1:
        raise ProblemError(must_be("gap", "above 0 and below 1", gap))
    degree = _checked_degree(degree, odd=True)
    x = _nodes(gap, 1.0, degree)
    coefficients = _least_squares(x, np.ones_like(x), degree)
    fine = _nodes(gap, 1.0, 4 * degree)
    return _bounded(coefficients, lambda p, scale: np.abs(p(fine) / scale - 1))


def fit_filter(threshold: float, degree: int) -> Fit:
    """Even fit of ``(1 + erf(k (|x| - threshold))) / 2`` on [-1, 1] with ``k = degree / 4``: a smooth step.

    Passes what is above the threshold and rejects what is below; the step is about 8 / degree wide.

    Raises
    ------
    ProblemError
        The threshold is not within (0, 1), or the degree is not even, below 2 or above 1,000.
    """
    if not 0 < threshold < 1:
        raise ProblemError(must_be("threshold", "above 0 and below 1", threshold))
    degree = _checked_degree(degree, odd=False)

    def step(x: Values) -> Values:
        return np.array([(1 + math.erf(degree / 4 * (value - threshold))) / 2 for value in x.tolist()])

    x, fine = _nodes(0.0, 1.0, degree), _nodes(0.0, 1.0, 4 * degree)
    return _bounded(_least_squares(x, step(x), degree), lambda p, scale: np.abs(p(fine) / scale - step(fine)))


def max_abs(coefficients: Values) -> tuple[float, float]:
    """Lower and upper bound of ``max |p|`` on [-1, 1], at most 0.13 % apart.

    On N + 1 angles a step of pi / N apart, a trigonometric polynomial of degree d exceeds its largest sample by a factor of
    1 / cos(pi d / (2 N)) at most. Source: Ehlich and Zeller (1964).
    """
    degree = max(1, len(coefficients) - 1)
    steps = _OVERSAMPLING * degree
    # sum_k c_k cos(k j pi / steps) is the real part of a Fourier transform of length 2 steps.
    samples = np.fft.fft(coefficients, 2 * steps).real[: steps + 1]
    found = float(np.abs(samples).max())
    return found, found / float(np.cos(np.pi * degree / (2 * steps)))


def _bounded(coefficients: Values, deviation: Callable[[Fit, float], Values]) -> Fit:
    """Scale into the unit interval, with a hair of room where the bound is needed."""
    scale = min(1.0, (1 - _MARGIN) / max_abs(coefficients)[1])
    fit = Fit(coefficients * scale, scale, 0.0)
    return Fit(fit.coefficients, scale, float(deviation(fit, scale).max()))


def _least_squares(x: Values, target: Values, degree: int, weight: Values | None = None) -> Values:
    """Coefficients [degree + 1] of the parity of `degree`."""
    orders = np.arange(degree % 2, degree + 1, 2)
    basis = np.cos(np.arccos(x)[:, np.newaxis] * orders)
    if weight is not None:
        basis, target = basis * weight[:, np.newaxis], target * weight
    coefficients = np.zeros(degree + 1)
    coefficients[orders] = np.linalg.lstsq(basis, target, rcond=None)[0]
    return coefficients


def _nodes(low: float, high: float, degree: int) -> Values:
    """Chebyshev nodes on [low, high], twice as many as a polynomial of that degree and parity has coefficients, and a few."""
    angles = np.linspace(0, np.pi, degree + 8)
    nodes: Values = (low + high) / 2 - (high - low) / 2 * np.cos(angles)
    return np.clip(nodes, low, high)


def _checked_degree(degree: int, *, odd: bool) -> int:
    whole = isinstance(degree, (int, np.integer)) and not isinstance(degree, bool)
    if not whole or not 1 <= degree <= MAX_DEGREE or degree % 2 != odd:
        raise ProblemError(must_be("degree", f"an {'odd' if odd else 'even'} whole number up to {MAX_DEGREE}", degree))
    return int(degree)
