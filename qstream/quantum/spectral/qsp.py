"""Quantum signal processing: the phases that make a circuit apply a given polynomial."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from qstream.quantum.spectral.chebyshev import MAX_DEGREE, max_abs
from qstream.quantum.spectral.matrices import finite_numbers
from schemas.wording import Shown, must_be

MAX_ITERATIONS: Final = 30
RESIDUAL: Final = 1e-12
CACHED_PHASES: Final = 128

Phases = NDArray[np.float64]


def phases(coefficients: ArrayLike) -> Phases:
    """Symmetric phases [d + 1] with ``Im <0| U(x) |0> = p(x)`` on [-1, 1].

    ``U(x) = e^{i phi_0 Z} prod_{k=1}^{d} W(x) e^{i phi_k Z}``, ``W(x) = [[x, i sqrt(1-x^2)], [i sqrt(1-x^2), x]]``. Newton's
    method on the values at as many Chebyshev nodes as there are free phases; about six steps at any degree. Source: Dong,
    Lin, Ni and Wang (2024), Robust iterative method for symmetric quantum signal processing in all parameter regimes.
    The last 128 results are kept.

    Parameters
    ----------
    coefficients : float64 [d + 1]
        Of the Chebyshev polynomials T_0 to T_d; those of the other parity than d are 0.

    Raises
    ------
    ProblemError
        A coefficient is not finite or of the wrong parity, d is out of 1 to 1,000, ``|p|`` exceeds 1, or Newton's method does
        not converge, as may happen where ``|p|`` touches 1.
    """
    given = finite_numbers("coefficients", coefficients)
    if np.iscomplexobj(given):
        raise ProblemError(must_be("coefficients", "real numbers", Shown("complex ones")))
    if given.ndim != 1 or not 2 <= given.size <= MAX_DEGREE + 1:
        raise ProblemError(
            must_be("coefficients", f"an array [d + 1] with d from 1 to {MAX_DEGREE}", Shown(f"shape {given.shape}"))
        )
    if np.any(given[given.size % 2 :: 2]):
        raise ProblemError(must_be("coefficients", f"of the parity of the degree {given.size - 1}", Shown("both parities")))
    largest = max_abs(given)[0]
    if largest > 1 + 1e-12:
        raise ProblemError(must_be("coefficients", "of |p| <= 1 on [-1, 1]", Shown(f"|p| up to {largest:.6g}")))
    return np.frombuffer(_phases(given.tobytes()))


def signal(angles: Phases, x: ArrayLike) -> NDArray[np.complex128]:
    """``<0| U(x) |0>`` [...] of phases [d + 1] at points [...] of [-1, 1]."""
    points = np.asarray(x, np.float64)
    values: NDArray[np.complex128] = _rows(angles, points.ravel())[-1, 0].reshape(points.shape)
    return values


@lru_cache(maxsize=CACHED_PHASES)
def _phases(key: bytes) -> bytes:
    coefficients = np.frombuffer(key)
    degree = len(coefficients) - 1
    free = degree // 2 + 1
    # Odd and even polynomials of this degree are fixed by their values at these nodes.
    nodes = np.cos((2 * np.arange(free) + 1) * np.pi / (4 * free))
    target = np.polynomial.chebyshev.chebval(nodes, coefficients)
    half = coefficients[degree::-2] / 2  # to first order in phi: p = sum_k phi_k T_|d - 2k|
    if degree % 2 == 0:
        half[-1] *= 2
    for _ in range(MAX_ITERATIONS):
        value, jacobian = _value_and_jacobian(half, degree, nodes)
        residual = value - target
        if np.abs(residual).max() <= RESIDUAL:
            return _symmetric(half, degree).tobytes()
        try:
            half = half - np.linalg.solve(jacobian, residual)
        except np.linalg.LinAlgError:
            break
    raise ProblemError(
        must_be("coefficients", "of |p| < 1 by a margin", Shown(f"no phases that Newton's method finds to {RESIDUAL}"))
    )


def _symmetric(half: Phases, degree: int) -> Phases:
    return np.concatenate([half, half[: degree + 1 - len(half)][::-1]])


def _rows(angles: Phases, x: Phases) -> NDArray[np.complex128]:
    """``<0| e^{i phi_0 Z} W ... W e^{i phi_k Z}`` for each k, as [d + 1, 2, points]."""
    cross = 1j * np.sqrt(np.maximum(0.0, (1 - x) * (1 + x)))
    turns = np.exp(1j * angles)
    rows = np.empty((len(angles), 2, len(x)), np.complex128)
    rows[0, 0], rows[0, 1] = turns[0], 0
    for k in range(1, len(angles)):
        zero, one = rows[k - 1]
        rows[k, 0] = (zero * x + one * cross) * turns[k]
        rows[k, 1] = (zero * cross + one * x) * turns[k].conjugate()
    return rows


def _value_and_jacobian(half: Phases, degree: int, x: Phases) -> tuple[Phases, Phases]:
    """``Im <0|U|0>`` [free] at the nodes and its derivatives [free, free] by the phases of the first half."""
    rows = _rows(_symmetric(half, degree), x)
    # U is symmetric, so what follows phase k, on |0>, is the transpose of W times what precedes phase d - k.
    cross = 1j * np.sqrt((1 - x) * (1 + x))
    tails = np.empty_like(rows[: len(half)])
    for k in range(len(half)):
        if k == degree:
            tails[k, 0], tails[k, 1] = 1, 0
            continue
        zero, one = rows[degree - k - 1]
        tails[k, 0], tails[k, 1] = zero * x + one * cross, zero * cross + one * x
    inner = rows[: len(half), 0] * tails[:, 0] - rows[: len(half), 1] * tails[:, 1]
    jacobian = 2 * inner.real  # Im of i times it; twice, for the phase's mirror image
    if degree % 2 == 0:
        jacobian[-1] /= 2
    return rows[-1, 0].imag, jacobian.T
