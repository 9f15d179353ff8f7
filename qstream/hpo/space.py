"""SearchSpace: configurations as points of the unit cube, with conditional parameters, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.hpo.axis import Array, axis_of, cells_of, centres, points_of, unit_of, units_of_points, value_of
from qstream.hpo.formats.parameters import parameter_of
from qstream.hpo.formats.space_files import read_space
from schemas.control import Scalar
from schemas.space import Parameter, allowed_values, allows, check_parameters
from schemas.wording import Shown, must_be

Params = Mapping[str, Scalar]
UNSET: Final = 0.5  # where a parameter without a default stands while it is not active


class SearchSpace:
    """The parameters of a study, and the codec between configurations and points of the unit cube.

    `ProblemError` if parameters contradict themselves or each other: the message names the parameter and the rule.

    >>> space = SearchSpace([Parameter(name="lr", type="float", low=1e-5, high=1e-1, scale="log")])
    >>> space.decode(np.array([0.5]))
    {'lr': 0.001}
    """

    def __init__(self, parameters: Sequence[Parameter | Mapping[str, Any]]) -> None:
        """`parameters`, or mappings of their fields."""
        self.parameters = tuple(parameter_of(fields) for fields in parameters)
        try:
            check_parameters(self.parameters)
        except ValueError as exc:
            raise ProblemError(str(exc)) from exc
        self.names = tuple(parameter.name for parameter in self.parameters)
        self.size = len(self.parameters)
        self._axes = tuple(axis_of(parameter) for parameter in self.parameters)
        defaults = [(axis, p.default) for axis, p in zip(self._axes, self.parameters, strict=True)]
        self._rest = np.array([UNSET if value is None else unit_of(axis, value) for axis, value in defaults])
        at = {name: number for number, name in enumerate(self.names)}
        self._parent = tuple(None if p.when is None else at[p.when.parameter] for p in self.parameters)
        self._active_cells = tuple(self._cells_that_activate(number) for number in range(self.size))
        self._order = tuple(sorted(range(self.size), key=lambda number: (self._depth(number), number)))  # parents first

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any] | Sequence[Any]) -> Self:
        """A space from a JSON or YAML file, or from what such a file holds (see `formats.space_files`). Errors as above."""
        return cls(read_space(source))

    @cached_property
    def digest(self) -> str:
        """xxh3-64 of the parameters as 16 hexadecimal digits: equal for spaces in which the same points mean the same."""
        fields = [parameter.model_dump(mode="json", exclude_none=True, exclude={"unit"}) for parameter in self.parameters]
        for found in fields:
            found |= {name: float(found[name]) for name in ("low", "high", "step") if name in found}
        digest: str = xxhash.xxh3_64_hexdigest(json.dumps(fields, sort_keys=True).encode())
        return digest

    def encode(self, params: Params) -> Array:
        """A configuration as a point, float64 [d]. Values of parameters that are not active do not count.

        `ProblemError` if a name is unknown, an active parameter is missing, or a value is not allowed.
        """
        if unknown := params.keys() - set(self.names):
            raise ProblemError(must_be("a parameter", f"one of {', '.join(self.names)}", min(unknown)))
        unit = self._rest.copy()
        active = [True] * self.size
        for number in self._order:
            parent, parameter, axis = self._parent[number], self.parameters[number], self._axes[number]
            if parent is not None:
                cell = int(cells_of(self._axes[parent], unit[parent : parent + 1])[0])
                active[number] = active[parent] and cell in self._active_cells[number]
            if active[number]:
                value = params.get(parameter.name)
                if value is None or not allows(parameter, value):
                    got = Shown("nothing") if value is None else value
                    raise ProblemError(must_be(f"parameter {parameter.name!r}", allowed_values(parameter), got))
                unit[number] = unit_of(axis, value)
        return unit

    def decode(self, unit: Array) -> dict[str, Scalar]:
        """The configuration at a point, float64 [d]; parameters that are not active are absent."""
        self._check(unit, 1)
        active = self.active(unit[None])[0]
        return {
            name: value_of(axis, float(u))
            for name, axis, u, there in zip(self.names, self._axes, np.clip(unit, 0, 1), active, strict=True)
            if there
        }

    def active(self, unit: Array) -> NDArray[np.bool_]:
        """Which parameters are active at each point, bool [n, d]."""
        self._check(unit, 2)
        found = np.ones(unit.shape, bool)
        for number in self._order:
            parent = self._parent[number]
            if parent is not None:
                cell = cells_of(self._axes[parent], np.clip(unit[:, parent], 0, 1))
                found[:, number] = found[:, parent] & np.isin(cell, self._active_cells[number])
        return found

    def snap(self, unit: Array) -> Array:
        """Each point as the configuration there has it, float64 [n, d]: `encode(decode(row))` of every row."""
        active = self.active(unit)
        found = np.empty(unit.shape)
        for number, axis in enumerate(self._axes):
            found[:, number] = centres(axis, cells_of(axis, np.clip(unit[:, number], 0, 1)))
        return np.where(active, found, self._rest)

    def keys(self, unit: Array) -> list[bytes]:
        """An identity of the configuration at each point: equal where all active parameters have the same values."""
        active = self.active(unit)
        cells = [cells_of(axis, np.clip(unit[:, number], 0, 1)) for number, axis in enumerate(self._axes)]
        return [row.tobytes() for row in np.where(active, np.stack(cells, 1), np.int64(-1))]

    def features(self, unit: Array) -> Array:
        """Points as a kernel sees them, float64 [n, F].

        A categorical with more than two choices is one-hot times sqrt(1/2), so that two choices are at squared distance 1;
        everything else is its coordinate, as given. Parameters that are not active stand at their default.
        """
        at = np.where(self.active(unit), unit, self._rest)
        columns = []
        for number, axis in enumerate(self._axes):
            if self._one_hot(number):
                cell = cells_of(axis, np.clip(at[:, number], 0, 1))
                columns.append(math.sqrt(0.5) * (cell[:, None] == np.arange(axis.cells)))
            else:
                columns.append(at[:, number : number + 1])
        return np.concatenate(columns, 1)

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """The parameter of each feature, int64 [F]: features of one parameter share a length scale."""
        widths = [axis.cells if self._one_hot(number) else 1 for number, axis in enumerate(self._axes)]
        return np.repeat(np.arange(self.size), widths)

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """How many values each parameter has, int64 [d]; 0: a float without steps."""
        return np.array([axis.cells for axis in self._axes])

    @cached_property
    def cardinality(self) -> int | None:
        """How many configurations there are; None if a float has no steps."""
        if any(not axis.cells for axis in self._axes):
            return None
        return math.prod(self._configurations(number) for number in range(self.size) if self._parent[number] is None)

    @property
    def discrete(self) -> bool:
        """Whether there are finitely many configurations."""
        return self.cardinality is not None

    def centre(self, number: int, cell: NDArray[np.int64]) -> Array:
        """Coordinates of cells of one parameter, which must have cells."""
        return centres(self._axes[number], cell)

    def to_points(self, unit: Array) -> Array:
        """Points as numbers, float64 [n, d]: numbers as they are, choices by their index (`StudySpec.prior_points`)."""
        at = self.snap(unit)
        return np.stack([points_of(axis, at[:, number]) for number, axis in enumerate(self._axes)], 1)

    def from_points(self, points: Array) -> tuple[Array, NDArray[np.bool_]]:
        """The inverse of `to_points`: the points, float64 [n, d], and which rows are inside of all bounds, bool [n].

        A row that is not inside has coordinates of no meaning.
        """
        self._check(points, 2)
        found = [units_of_points(axis, points[:, number]) for number, axis in enumerate(self._axes)]
        unit = np.stack([at for at, _ in found], 1)
        active = self.active(unit)
        inside = np.stack([there for _, there in found], 1) | ~active
        return np.where(active, unit, self._rest), np.asarray(inside.all(1), np.bool_)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchSpace) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"SearchSpace({', '.join(self.names)})"

    def _check(self, unit: Array, axes: int) -> None:
        if unit.ndim != axes or unit.shape[-1] != self.size or not np.isfinite(unit).all():
            rule = f"finite numbers of shape [{'n, ' if axes == 2 else ''}{self.size}]"
            raise ProblemError(must_be("points", rule, Shown(f"shape {list(unit.shape)}, or NaN or infinity")))

    def _one_hot(self, number: int) -> bool:
        return self.parameters[number].type == "categorical" and self._axes[number].cells > 2

    def _depth(self, number: int) -> int:
        parent = self._parent[number]
        return 0 if parent is None else 1 + self._depth(parent)

    def _cells_that_activate(self, number: int) -> NDArray[np.int64]:
        when, parent = self.parameters[number].when, self._parent[number]
        if when is None or parent is None:
            return np.zeros(0, np.int64)
        axis = self._axes[parent]
        return np.unique(cells_of(axis, np.array([unit_of(axis, value) for value in when.values])))

    def _configurations(self, number: int) -> int:
        """Configurations of a parameter and of those that depend on it."""
        children = [child for child in range(self.size) if self._parent[child] == number]
        below = {child: self._configurations(child) for child in children}
        named = sorted({int(cell) for child in children for cell in self._active_cells[child]})
        total = self._axes[number].cells - len(named)
        return total + sum(math.prod(below[child] for child in children if cell in self._active_cells[child]) for cell in named)
