"""The border of the spectral methods: matrices and vectors that are finite, of the right shape and regular."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from schemas.wording import Shown, must_be

MAX_DIMENSION: Final = 1024

Array = NDArray[Any]  # float64, or complex128 where the input is complex


def matrix(name: str, value: ArrayLike, *, square: bool = True) -> Array:
    """A copy of `value` as float64 or complex128 [M, N].

    Raises
    ------
    ProblemError
        It has not two axes, is empty, not square where it must be, above 1,024 rows or columns, not finite, all zero, or its
        largest entry is out of 1e-100 to 1e100 in size.
    """
    array = _in_range(name, finite_numbers(name, value))
    if array.ndim != 2 or not 1 <= min(array.shape) <= max(array.shape) <= MAX_DIMENSION:
        raise ProblemError(must_be(name, f"[rows, columns] with 1 to {MAX_DIMENSION} each", Shown(f"shape {array.shape}")))
    if square and array.shape[0] != array.shape[1]:
        raise ProblemError(must_be(name, "a square matrix", Shown(f"shape {array.shape}")))
    if not array.any():
        raise ProblemError(must_be(name, "a matrix with an entry other than 0", Shown("zeros")))
    return array


def vector(name: str, value: ArrayLike, size: int) -> Array:
    """A copy of `value` as float64 or complex128 [size]; `ProblemError` if of another shape, zero or not in range."""
    array = _in_range(name, finite_numbers(name, value))
    if array.shape != (size,):
        raise ProblemError(must_be(name, f"of the shape {(size,)}", Shown(f"shape {array.shape}")))
    if not array.any():
        raise ProblemError(must_be(name, "other than zero, as a quantum state is", Shown("zeros")))
    return array


def power_of_two(name: str, size: int) -> int:
    """The number of qubits whose states are `size` many; `ProblemError` if there is none."""
    if size < 2 or size & (size - 1):
        raise ProblemError(must_be(name, "of a power of two of amplitudes, 2 or more", Shown(f"{size}")))
    return size.bit_length() - 1


def qubits_for(dimension: int) -> int:
    """The least number of qubits, at least one, that hold a vector of this dimension."""
    return max(1, (dimension - 1).bit_length())


def condition(name: str, singular_values: NDArray[np.float64]) -> float:
    """Ratio of the largest to the smallest; `ProblemError` if the matrix is singular to working precision."""
    largest, smallest = float(singular_values.max()), float(singular_values.min())
    if smallest <= len(singular_values) * np.finfo(np.float64).eps * largest:
        raise ProblemError(must_be(name, "a regular matrix", Shown(f"singular values {smallest:.3g} to {largest:.3g}")))
    return largest / smallest


def is_hermitian(array: Array) -> bool:
    """Whether a square matrix equals its conjugate transpose up to rounding."""
    return bool(np.abs(array - array.conj().T).max() <= 1e-13 * np.abs(array).max())


def hermitian_dilation(array: Array) -> Array:
    """``[[0, A], [A^+, 0]]`` [2N, 2N], Hermitian for any A [N, N]; its eigenvalues are plus and minus the singular values."""
    zero = np.zeros_like(array)
    return np.block([[zero, array], [array.conj().T, zero]])


def unitary_dilation(contraction: Array) -> Array:
    """``[[A, sqrt(1 - A A^+)], [sqrt(1 - A^+ A), -A^+]]`` [2N, 2N], unitary and its own block encoding of A, ``|A| <= 1``."""
    left, values, right = np.linalg.svd(contraction)
    cosine = np.sqrt(np.maximum(0.0, (1 - values) * (1 + values)))
    off_left = (left * cosine) @ left.conj().T
    off_right = (right.conj().T * cosine) @ right
    return np.block([[contraction, off_left], [off_right, -contraction.conj().T]])


def padded(array: Array, diagonal: float) -> Array:
    """A square matrix [N, N] grown to the next power of two, `diagonal` on the new rows' diagonal."""
    size, grown = len(array), 1 << qubits_for(len(array))
    result = np.diag(np.full(grown, diagonal)).astype(array.dtype)
    result[:size, :size] = array
    return result


def finite_numbers(name: str, value: ArrayLike) -> Array:
    """A copy as float64 or complex128 of any shape; `ProblemError` if an entry is not a finite number."""
    try:
        given = np.asarray(value)
    except ValueError as exc:
        raise ProblemError(must_be(name, "an array of numbers", Shown(exc))) from exc
    if given.dtype.kind not in "iufc":
        raise ProblemError(must_be(name, "of numbers", Shown(f"entries of type {given.dtype}")))
    with np.errstate(over="ignore"):
        array = np.array(given, np.complex128 if given.dtype.kind == "c" else np.float64, order="C")
    if not np.isfinite(array).all():
        at = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
        raise ProblemError(must_be(f"{name}{at}", "a finite number", Shown(f"{array[tuple(at)]}")))
    return array


def _in_range(name: str, array: Array) -> Array:
    """`ProblemError` if the largest entry is so large or small that squares would leave the range of the type."""
    largest = float(np.abs(array.reshape(-1).view(np.float64)).max(initial=0.0))
    if largest and not 1e-100 <= largest <= 1e100:
        raise ProblemError(must_be(name, "of a largest entry of 1e-100 to 1e100 in size", Shown(f"{largest:.3g}")))
    return array
