"""Arguments that a caller gives: arrays and numbers, checked by type, shape and range, and brought into one form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ConfigError, ProblemError
from schemas.wording import Shown, must_be

T = TypeVar("T")


def array(name: str, value: ArrayLike, dtype: type[np.generic], axes: str) -> NDArray[Any]:
    """Return `value` as a read-only C-ordered array of `dtype`, so that one compiled kernel serves every caller.

    Nothing is copied that has the form already, as the arrays of a frame have.

    Raises
    ------
    ProblemError
        The number of axes differs from ``len(axes.split())``, or the values are not numbers of that kind.
    """
    allowed = f"an array with the axes [{axes.replace(' ', ', ')}]"
    try:
        given = np.asarray(value)
    except ValueError as exc:  # lists of unequal lengths
        raise ProblemError(must_be(name, allowed, Shown("rows of different lengths"))) from exc
    if given.ndim != 1 + axes.count(" "):
        raise ProblemError(must_be(name, allowed, Shown(f"shape {given.shape}")))
    if given.dtype == dtype and given.flags.c_contiguous:
        return read_only(given)
    if not given.size:  # numpy takes an empty list for numbers of any kind
        given = given.astype(dtype)
    kinds = "iuf" if np.issubdtype(dtype, np.floating) else "iu"
    if given.dtype.kind not in kinds:
        wanted = "numbers" if "f" in kinds else "whole numbers"
        raise ProblemError(must_be(name, f"an array of {wanted}", Shown(f"dtype {given.dtype}")))
    return read_only(np.require(given, dtype=dtype, requirements=["C"]))


def read_only(value: NDArray[Any]) -> NDArray[Any]:
    """The same data as an array that cannot be written to."""
    view = value.view() if value.flags.writeable else value
    view.flags.writeable = False
    return view


def named(what: str, table: Mapping[str, T], name: str) -> T:
    """The entry of that name; `ConfigError` that names `what` and the entries there are."""
    if name not in table:
        raise ConfigError(must_be(what, f"one of {', '.join(table)}", name))
    return table[name]


def instance(name: str, value: object, kind: type[T]) -> T:
    """The value; `ProblemError` that names `name` and the class unless it is of that class."""
    if not isinstance(value, kind):
        raise ProblemError(must_be(name, f"of class {kind.__name__}", value))
    return value


def whole_number(name: str, value: object, low: int, high: int) -> int:
    """The value as a plain int; `ProblemError` that names `name` unless it is a whole number in range, and not a boolean."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise ProblemError(must_be(name, f"a whole number from {low} to {high}", value))
    return int(value)


def real_number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """The value as a plain float; `ProblemError` that names `name` unless it is a number in range, not a boolean or NaN."""
    allowed = "a number" if low == -math.inf and high == math.inf else f"a number from {low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)) or not low <= value <= high:
        raise ProblemError(must_be(name, allowed, value))
    try:
        return float(value)
    except OverflowError as exc:
        raise ProblemError(must_be(name, f"{allowed} that a float can hold", value)) from exc
