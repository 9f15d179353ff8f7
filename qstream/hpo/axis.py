"""One parameter as a coordinate of the unit cube: values to coordinates and back, one by one and by array.

A float has a coordinate of its own, rounded to 2^-20, so that the last bits of a BLAS do not reach a plan. Everything else
has cells of equal width on its scale, and its coordinate is the centre of a cell. Single values go through Python's `math`,
arrays through NumPy; both are rounded, so that they agree to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.control import Scalar
from schemas.space import Parameter, bounds, grid_step, identity

Array = NDArray[np.float64]
PLACES: Final = 2.0**20  # of a float between its bounds
FINE: Final = 2.0**44  # places that centres of cells are rounded to


@dataclass(frozen=True)
class Axis:
    """A parameter's codec.

    `cells` is 0 for a float without steps. `first` and `step` are of numbers, `begin` and `width` of the scale: u = (scale(x) -
    begin) / width, where the scale is the logarithm if `log`. `digits` tell neighbouring floats apart: decimal places, or
    significant digits without steps and with `log`. `index` has the number of each choice.
    """

    cells: int
    first: float = 0.0
    step: float = 1.0
    log: bool = False
    begin: float = 0.0
    width: float = 1.0
    digits: int = 0
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    choices: tuple[Scalar, ...] = ()
    index: dict[tuple[str, Scalar], int] | None = None


def axis_of(parameter: Parameter) -> Axis:
    """The codec of a parameter that keeps the rules of `schemas.space`."""
    if parameter.choices is not None:
        index = {identity(choice): at for at, choice in enumerate(parameter.choices)}
        return Axis(len(index), width=float(len(index)), begin=-0.5, choices=parameter.choices, index=index)
    (low, high), step, log = bounds(parameter), grid_step(parameter), parameter.scale == "log"
    if step is None:
        begin, end = (math.log(low), math.log(high)) if log else (low, high)
        places = -math.log10((end - begin) / PLACES)
        digits = math.ceil(places) + 2  # so that rounding moves it by less than 1 % of a place
        digits = min(max(digits, 1), 17) if log else digits
        return Axis(0, log=log, begin=begin, width=end - begin, digits=digits, low=low, high=high)
    cells = math.floor((high - low) / step + 1e-9) + 1
    begin, end = low - step / 2, low + (cells - 0.5) * step
    begin, end = (math.log(begin), math.log(end)) if log else (begin, end)
    whole, digits = parameter.type == "int", math.ceil(-math.log10(step)) + 7
    return Axis(cells, low, step, log=log, begin=begin, width=end - begin, digits=digits, low=low, high=high, whole=whole)


def unit_of(axis: Axis, value: Scalar) -> float:
    """The coordinate of a value that the parameter may have."""
    if axis.index is not None:
        return centre(axis, axis.index[identity(value)])
    number = float(value)
    if axis.cells:
        return centre(axis, round((number - axis.first) / axis.step))
    scaled = math.log(number) if axis.log else number
    return min(max(round((scaled - axis.begin) / axis.width * PLACES) / PLACES, 0.0), 1.0)


def centre(axis: Axis, cell: int) -> float:
    """The coordinate of the middle of a cell."""
    if axis.log:
        low, high = axis.first + (cell - 0.5) * axis.step, axis.first + (cell + 0.5) * axis.step
        scaled = (math.log(low) + math.log(high)) / 2
    else:
        scaled = axis.first + cell * axis.step
    return round((scaled - axis.begin) / axis.width * FINE) / FINE


def value_of(axis: Axis, unit: float) -> Scalar:
    """The value at a coordinate, with no more digits than tell it from its neighbours."""
    if axis.cells:
        cell = int(cells_of(axis, np.array([unit]))[0])
        if axis.index is not None:
            return axis.choices[cell]
        number = axis.first + cell * axis.step
        return round(number) if axis.whole else min(max(round(number, axis.digits), axis.low), axis.high)
    scaled = axis.begin + axis.width * (round(unit * PLACES) / PLACES)
    number = float(f"{math.exp(scaled):.{axis.digits}g}") if axis.log else round(scaled, axis.digits)
    return min(max(number, axis.low), axis.high)


def cells_of(axis: Axis, unit: Array) -> NDArray[np.int64]:
    """The cell of each coordinate; of a float, its place among 2^20."""
    if not axis.cells:
        return np.rint(unit * PLACES).astype(np.int64)
    scaled = axis.begin + axis.width * unit
    number = np.exp(scaled) if axis.log else scaled
    return np.clip(np.floor((number - axis.first) / axis.step + 0.5), 0, axis.cells - 1).astype(np.int64)


def centres(axis: Axis, cell: NDArray[np.int64]) -> Array:
    """The coordinate of each cell, as `centre`; of a float, of each place."""
    if not axis.cells:
        places: Array = cell / PLACES
        return places
    if axis.log:
        low, high = axis.first + (cell - 0.5) * axis.step, axis.first + (cell + 0.5) * axis.step
        scaled = (np.log(low) + np.log(high)) / 2
    else:
        scaled = axis.first + cell * axis.step
    found: Array = np.rint((scaled - axis.begin) / axis.width * FINE) / FINE
    return found


def points_of(axis: Axis, unit: Array) -> Array:
    """Numbers as they are and choices by their index, at coordinates as `centres` gives them."""
    if axis.cells:
        return np.asarray(axis.first + cells_of(axis, unit) * axis.step, np.float64)
    scaled = axis.begin + axis.width * unit
    return np.asarray(np.clip(np.exp(scaled) if axis.log else scaled, axis.low, axis.high), np.float64)


def units_of_points(axis: Axis, point: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Coordinates of such numbers, and which of them the parameter may have; the others are at a coordinate of no meaning."""
    if axis.cells:
        at = (point - axis.first) / axis.step
        cell = np.clip(np.rint(at), 0, axis.cells - 1).astype(np.int64)
        return centres(axis, cell), np.abs(at - cell) <= 1e-6
    inside = (point >= axis.low) & (point <= axis.high)
    kept = np.where(inside, point, axis.low)
    scaled = np.log(kept) if axis.log else kept
    places = np.rint((scaled - axis.begin) / axis.width * PLACES)
    return np.asarray(np.clip(places / PLACES, 0.0, 1.0), np.float64), inside
