"""Refiners: what a reader may put right after dequantising, chosen by the encoder's measured error.

The centroid table moves each multiple to the centre of the values that were rounded to it (Lloyd 1982). The spectral refiner
shrinks singular values of the restored matrix that the quantiser's white error explains.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

Bytes = NDArray[np.uint8]
Floats = NDArray[Any]

GATE: Final = 0.98  # a refiner must lower the squared error to this part
STEEPNESS: Final = 20.0
_TAU: Final = np.arange(0.8, 2.61, 0.2)
_UNIT: Final = 256  # of a step: an entry of the table
_LEAST: Final = 16  # rows and columns of a matrix with a spectrum
_REFERENCE_MS: Final = 41.0  # of a block of 262,144 values with 512 columns, which grows with the smaller side


def centroids(x: Floats, high: Bytes, step: float) -> NDArray[np.int8]:
    """Mean distance of the values from their multiple, in 1/256 steps: int8 [256].

    `high` holds the multiples plus 128, without escapes, whose values do not count.
    """
    count = np.bincount(high, minlength=256)
    with np.errstate(over="ignore", invalid="ignore"):
        away = np.where(np.isfinite(x), x, 0).astype(np.float64) / step - (high.astype(np.float64) - 128)
    mean = np.bincount(high, np.where(np.abs(away) <= 0.5, away, 0), 256) / np.maximum(count, 1)
    return np.clip(np.rint(mean * _UNIT), -127, 127).astype(np.int8)


def shift(table: NDArray[np.int8], step: float, high: Bytes) -> NDArray[np.float32]:
    """What the table adds to each restored value."""
    moved: NDArray[np.float32] = (table.astype(np.float32) * np.float32(step / _UNIT))[high]
    return moved


class Spectrum(NamedTuple):
    """A restored matrix by the eigenvectors of its smaller Gram matrix: size and vectors, largest last."""

    singular: NDArray[np.float64]
    vectors: NDArray[np.float64]
    wide: bool


def spectrum(y: Floats) -> Spectrum:
    """Singular values and vectors of the smaller side of a matrix [rows, columns]."""
    wide = y.shape[0] < y.shape[1]
    y64 = y.astype(np.float64)
    squared, vectors = np.linalg.eigh(y64 @ y64.T if wide else y64.T @ y64)
    return Spectrum(np.sqrt(np.maximum(squared, 0)), vectors, wide)


def curve(singular: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """(1 + erf(20 (s / s_max - threshold))) / 2."""
    largest = singular.max(initial=0)
    part = singular / largest if largest > 0 else singular
    found: NDArray[np.float64] = (1 + erf(STEEPNESS * (part - threshold))) / 2
    return found


def best_threshold(x: Floats, y: Floats) -> tuple[float, float] | None:
    """The threshold that lowers the squared error of `y` most and the part of the error that is left; None below the gate."""
    if min(y.shape) < _LEAST:
        return None
    found = spectrum(y)
    largest = found.singular.max(initial=0)
    error = float(np.mean(np.square(x.astype(np.float64) - y)))
    if not largest > 0 or not error > 0:
        return None
    xv, yv = (z.T.astype(np.float64) @ found.vectors if found.wide else z.astype(np.float64) @ found.vectors for z in (x, y))
    cross, power, total = (xv * yv).sum(axis=0), (yv * yv).sum(axis=0), float(np.square(x, dtype=np.float64).sum())
    tries = []
    for tau in _TAU:
        threshold = float(tau * np.sqrt(error * max(y.shape)) / largest)
        f = curve(found.singular, threshold)
        tries.append((float(total - 2 * f @ cross + f * f @ power) / x.size / error, threshold))
    left, threshold = min(tries)
    return (threshold, left) if left < GATE else None


def smoothed(y: Floats, threshold: float) -> NDArray[np.float32]:
    """The matrix with its singular values times the curve."""
    found = spectrum(y)
    vectors = found.vectors
    kept = (vectors * curve(found.singular, threshold)) @ vectors.T
    y64 = y.astype(np.float64)
    return (kept @ y64 if found.wide else y64 @ kept).astype(np.float32)


def spectral_ms(shape: tuple[int, int]) -> float:
    """Estimated milliseconds of the spectral refiner on one core."""
    return _REFERENCE_MS * (shape[0] * shape[1] / 262_144) * (min(shape) / 512)
