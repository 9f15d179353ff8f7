"""Numbers that a caller gives: checked by type and range, and made plain ones."""

from __future__ import annotations

import math

import numpy as np

from qstream.errors import ProblemError


def whole_number(name: str, value: object, low: int, high: int) -> int:
    """The value as a plain int; `ProblemError` that names `name` unless it is a whole number, and no bool, in range."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise ProblemError(f"{name} is {value!r}, allowed are whole numbers from {low} to {high}")
    return int(value)


def real_number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """The value as a plain float; `ProblemError` that names `name` unless it is a number, and no bool or NaN, in low..high."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)) or not low <= value <= high:
        raise ProblemError(f"{name} is {value!r}, allowed are numbers from {low:g} to {high:g}")
    try:
        return float(value)
    except OverflowError as exc:
        raise ProblemError(f"{name} is beyond any float, allowed are numbers from {low:g} to {high:g}") from exc
