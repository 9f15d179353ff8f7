"""Choices of unordered parameters in the order of their losses, so that neighbours on the axis are alike.

A circuit or any other model with one axis a parameter sees unordered choices in the order in which they were listed, which means
nothing. Ordered by mean loss, most of what such a parameter does is a slope. A function of the sorted results alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qstream.hpo.space import SearchSpace

Vec = NDArray[np.float64]
Mat = NDArray[np.float64]
_CAUTION = 1.0  # results of mean 0 that each choice is taken to have had: one bad result does not condemn a choice


@dataclass(frozen=True, eq=False)
class Ranks:
    """For each unordered parameter its column, and its choices from low to high loss."""

    order: tuple[tuple[int, NDArray[np.int64]], ...]

    def to(self, unit: Mat) -> Mat:
        """Points [n, d] with each unordered parameter at the rank of its choice."""
        return self._moved(unit, [(column, np.argsort(choices)) for column, choices in self.order])

    def back(self, unit: Mat) -> Mat:
        """The inverse of `to`."""
        return self._moved(unit, self.order)

    def _moved(self, unit: Mat, table: object) -> Mat:
        found = unit.copy()
        for column, target in table:  # type: ignore[attr-defined]
            found[:, column] = (target[_cells(unit[:, column], len(target))] + 0.5) / len(target)
        return found


def ranks(space: SearchSpace, unit: Mat, z: Vec) -> Ranks:
    """The order of all choices after results of warped losses float64 [n] at points [n, d]."""
    found = []
    for column, parameter in enumerate(space.parameters):
        if parameter.type == "categorical":
            choices = len(parameter.choices or ())
            cell = _cells(unit[:, column], choices)
            mean = np.bincount(cell, z, choices) / (np.bincount(cell, minlength=choices) + _CAUTION)
            found.append((column, np.argsort(mean, kind="stable")))
    return Ranks(tuple(found))


def _cells(u: Vec, count: int) -> NDArray[np.int64]:
    return np.clip(np.floor(u * count), 0, count - 1).astype(np.int64)
