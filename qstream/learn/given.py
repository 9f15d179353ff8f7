"""Arguments of learners: numbers, names and arrays, checked by name, in the one form that the compiled kernels take."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import read_only
from qstream.errors import LearnError
from qstream.learn.evolve import all_finite
from schemas.wording import Shown, must_be

_REAL = (int, float, np.integer, np.floating)
MAX_NAME: Final = 200
MAX_SERIES: Final = 1_000_000


def numbers(name: str, value: ArrayLike, shape: tuple[int, ...], low: float = -math.inf) -> NDArray[np.float64]:
    """The value as a read-only C-ordered float64 array of that shape; `LearnError` unless it is finite and at least `low`."""
    array = _array(name, value, np.float64, "fiu", shape)
    if not all_finite(array):
        raise LearnError(must_be(name, "finite numbers", Shown("NaN or infinity")))
    if low > -math.inf and array.min() < low:
        raise LearnError(must_be(name, f"at least {low:g}", Shown(f"values from {array.min():g}")))
    return array


def flags(name: str, value: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The value as a read-only C-ordered array of booleans of that shape; all true for None."""
    if value is None:
        return _all_true(shape)
    return _array(name, value, np.bool_, "b", shape)


@lru_cache(maxsize=64)
def _all_true(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return read_only(np.ones(shape, np.bool_))


def _array(name: str, value: ArrayLike, dtype: type[np.generic], kinds: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if type(value) is np.ndarray and value.dtype == dtype and value.shape == shape and value.flags.c_contiguous:
        return read_only(value)
    try:
        given = np.asarray(value)
    except ValueError as exc:  # lists of unequal lengths
        raise LearnError(must_be(name, f"of shape {shape}", Shown("rows of different lengths"))) from exc
    if given.dtype.kind not in kinds:
        raise LearnError(must_be(name, "booleans" if kinds == "b" else "numbers", Shown(f"dtype {given.dtype}")))
    if given.shape != shape:
        raise LearnError(must_be(name, f"of shape {shape}", Shown(f"shape {given.shape}")))
    with np.errstate(over="ignore"):
        return read_only(np.require(given, dtype, "C"))


def whole(name: str, value: object, low: int, high: int) -> int:
    """The value as a plain int; `LearnError` unless it is a whole number in range, and not a boolean."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise LearnError(must_be(name, f"a whole number from {low} to {high}", value))
    return int(value)


def real(name: str, value: object, low: float, high: float) -> float:
    """The value as a plain float; `LearnError` unless it is a number from `low` to `high`, and not a boolean or NaN."""
    if isinstance(value, bool) or not isinstance(value, _REAL) or not low <= (number := plain(value)) <= high:
        raise LearnError(must_be(name, f"a number from {low:g} to {high:g}", value))
    return number


def plain(value: Any) -> float:
    """A number as a plain float, infinite where a whole number is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def reals(name: str, values: Iterable[float], low: float, high: float) -> NDArray[np.float64]:
    """One or more numbers, each from `low` to `high`, as float64."""
    found = [real(name, value, low, high) for value in several(name, values)]
    if not found:
        raise LearnError(must_be(name, "one or more numbers", ()))
    return np.array(found)


def several(name: str, values: Iterable[Any]) -> Iterable[Any]:
    """The values; `LearnError` unless one can go through them."""
    if not isinstance(values, Iterable):
        raise LearnError(must_be(name, "several numbers", values))
    return values


def shape_of(name: str, value: ArrayLike) -> tuple[int, ...]:
    """The shape of what is given; `LearnError` for rows of different lengths, which have none."""
    try:
        return np.shape(value)
    except ValueError as exc:
        raise LearnError(must_be(name, "an array", Shown("rows of different lengths"))) from exc


def labels(name: str, value: Iterable[str] | int, most: int) -> tuple[str, ...]:
    """The names of arms or features: those given, or ``"0"``, ``"1"``... for a count; all different, at most `most`."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return tuple(str(index) for index in range(whole(name, value, 1, most)))
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise LearnError(must_be(name, "a count or several names", value))
    found = tuple(value)
    if not all(isinstance(item, str) and 0 < len(item) <= MAX_NAME for item in found):
        raise LearnError(must_be(name, f"names of 1 to {MAX_NAME} characters", found))
    if not 0 < len(found) <= most or len(set(found)) < len(found):
        raise LearnError(must_be(name, f"1 to {most} different names", found))
    return found
