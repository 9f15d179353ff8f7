"""OneHotProblem: variables that each take one of k levels, with pairwise costs."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import whole_number
from qstream.errors import ProblemError
from qstream.quantum.ising import IsingProblem, finite_array
from schemas.wording import Shown, must_be

MAX_VARIABLES: Final = 1024
MAX_LEVELS: Final = 1024
MAX_STATES: Final = 4_000_000
MAX_STACKED: Final = 4096


@dataclass(frozen=True, eq=False)
class OneHotProblem:
    """Minimise ``E(x) = offset + sum_i unary_i[x_i] + sum_{i<j} pair_ij[x_i, x_j]`` over levels x_i in 0..sizes[i]-1.

    A solution is an integer array [m] of levels.

    Parameters
    ----------
    sizes
        Levels k_i of each of the m variables, each 1 to 1,024.
    unary : m arrays of float64 [k_i]
        Costs of the levels; by default all 0.
    pair : (i, j) with i < j to float64 [k_i, k_j]
        Costs of pairs of levels; an absent pair costs nothing.
    offset
        Added to every energy.

    Raises
    ------
    ProblemError
        A size, an index or a shape is wrong, or a number is not finite.
    """

    sizes: tuple[int, ...]
    unary: tuple[NDArray[np.float64], ...] = ()
    pair: Mapping[tuple[int, int], NDArray[np.float64]] = field(default_factory=dict)
    offset: float = 0.0

    def __post_init__(self) -> None:
        listed = tuple_of("sizes", self.sizes)
        m = len(listed)
        if not 1 <= m <= MAX_VARIABLES:
            raise ProblemError(must_be("sizes", f"of 1 to {MAX_VARIABLES} variables", Shown(f"{m} variables")))
        sizes = tuple(whole_number(f"sizes[{i}]", k, 1, MAX_LEVELS) for i, k in enumerate(listed))
        given = tuple_of("unary", self.unary) or tuple(np.zeros(k) for k in sizes)
        if len(given) != m:
            raise ProblemError(must_be("unary", f"one list for each of the {m} variables", Shown(f"{len(given)} arrays")))
        unary = tuple(finite_array(f"unary[{i}]", costs, (k,)) for i, (costs, k) in enumerate(zip(given, sizes, strict=True)))
        if not isinstance(self.pair, Mapping):
            raise ProblemError(must_be("pair", "a mapping of (i, j) to costs", Shown(f"type {type(self.pair).__name__}")))
        keys = {couple(key, m): key for key in self.pair}
        pair = {(i, j): finite_array(f"pair[{i}, {j}]", self.pair[keys[i, j]], (sizes[i], sizes[j])) for i, j in sorted(keys)}
        offset = float(finite_array("offset", self.offset, ()))
        for name, value in (("sizes", sizes), ("unary", unary), ("pair", pair), ("offset", offset)):
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Callable[..., OneHotProblem], tuple[object, ...]]:
        # Built again, as pickled arrays come back writable.
        return OneHotProblem, (self.sizes, self.unary, self.pair, self.offset)

    @property
    def states(self) -> int:
        """How many solutions there are."""
        return math.prod(self.sizes)

    def energy(self, levels: ArrayLike) -> float:
        """The energy of one solution, levels [m]; `ProblemError` if it is not one."""
        return float(self.energies(cast(ArrayLike, [levels]))[0])

    def energies(self, levels: ArrayLike) -> NDArray[np.float64]:
        """Energies [S] of solutions [S, m]; `ProblemError` if one is not a solution."""
        x = self._levels(levels)
        total = np.full(len(x), self.offset)
        for i, costs in enumerate(self.unary):
            total += costs[x[:, i]]
        for (i, j), costs in self.pair.items():
            total += costs[x[:, i], x[:, j]]
        return total

    def _levels(self, levels: ArrayLike) -> NDArray[np.int64]:
        try:
            given = np.asarray(levels)
        except ValueError as exc:
            raise ProblemError(must_be("levels", "an array", Shown(exc))) from exc
        m = len(self.sizes)
        if given.dtype.kind not in "iuf" or given.ndim != 2 or given.shape[1] != m:
            raise ProblemError(
                must_be("levels", f"whole numbers [S, {m}]", Shown(f"dtype {given.dtype} and shape {given.shape}"))
            )
        # NaN is not at least 0.
        valid = (given >= 0) & (given < np.array(self.sizes))
        if given.dtype.kind == "f":
            valid &= given == np.floor(given)
        if not valid.all():
            row, i = np.argwhere(~valid)[0]
            raise ProblemError(
                must_be(f"levels[{i}]", f"a whole number from 0 to {self.sizes[i] - 1}", Shown(f"{given[row, i]}"))
            )
        return given.astype(np.int64, copy=False)

    def magnitude(self) -> float:
        """The sizes of all costs that one solution may add up: the scale of what rounding may do to an energy."""
        return self._magnitude

    @cached_property
    def _magnitude(self) -> float:
        return abs(self.offset) + sum(float(np.abs(costs).max()) for costs in (*self.unary, *self.pair.values()))

    def diagonal(self) -> NDArray[np.float64]:
        """Energies [k_1, ..., k_m] of all solutions; `ProblemError` above 4 million."""
        if self.states > MAX_STATES:
            raise ProblemError(
                must_be("sizes", f"of at most {MAX_STATES} states for a whole diagonal", Shown(f"{states_text(self)} states"))
            )
        m = len(self.sizes)
        total = np.full(self.sizes, self.offset)
        for i, costs in enumerate(self.unary):
            total += costs.reshape([-1 if axis == i else 1 for axis in range(m)])
        for (i, j), costs in self.pair.items():
            total += costs.reshape([self.sizes[axis] if axis in (i, j) else 1 for axis in range(m)])
        return total

    def stacked(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """All levels side by side, K in all: first index of each variable [m + 1], costs [K], symmetric pair costs [K, K].

        Read-only, made once. `ProblemError` above 4,096 levels in all (128 MiB).
        """
        return self._stacked

    @cached_property
    def _stacked(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        starts = np.concatenate(([0], np.cumsum(self.sizes, dtype=np.int64)))
        if starts[-1] > MAX_STACKED:
            raise ProblemError(
                must_be(
                    "sizes", f"of at most {MAX_STACKED} levels in all for a cost matrix", Shown(f"{starts[-1]} levels in all")
                )
            )
        matrix = np.zeros((starts[-1], starts[-1]))
        for (i, j), costs in self.pair.items():
            rows, columns = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
            matrix[rows, columns] = costs
            matrix[columns, rows] = costs.T
        unary = np.concatenate(self.unary)
        for array in (starts, unary, matrix):
            array.flags.writeable = False
        return starts, unary, matrix

    def to_ising(self, penalty: float | None = None) -> IsingProblem:
        """The problem in one bit a level, for devices without a mixer of levels; labels are (variable, level).

        Each variable adds ``penalty * (1 - levels taken)^2``. The default is large enough that every minimum takes one level
        of each variable; a smaller one may do and is easier on a device. `ProblemError` above 4,096 levels in all.
        """
        starts, unary, pair = self.stacked()
        if penalty is None:
            # A violation costs the penalty or more, and can gain at most what separates a solution from all negative costs.
            known = self.energy([int(costs.argmin()) for costs in self.unary]) - self.offset
            penalty = known - float(np.minimum(unary, 0).sum() + np.minimum(np.triu(pair), 0).sum())
            penalty = 1.01 * penalty + max(1e-6, 0.01 * float(np.max(np.abs(unary), initial=0)))
        if not 0 < penalty < math.inf:
            raise ProblemError(must_be("penalty", "a finite number above 0", penalty))
        owner = np.repeat(np.arange(len(self.sizes)), self.sizes)
        # (1 - sum_a x_a)^2 = 1 - sum_a x_a + 2 sum_{a<b} x_a x_b over bits, and x = (1 - s) / 2.
        quadratic = np.triu(pair + 2 * penalty * (owner[:, np.newaxis] == owner), 1)
        linear = unary - penalty
        fields = -linear / 2 - (quadratic.sum(0) + quadratic.sum(1)) / 4
        offset = self.offset + penalty * len(self.sizes) + float(linear.sum() / 2 + quadratic.sum() / 4)
        labels = tuple((int(i), int(a - starts[i])) for a, i in enumerate(owner))
        return IsingProblem(len(unary), quadratic / 4, fields, offset, labels)

    def decode(self, spins: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Levels [S, m] of spins [S, K] of `to_ising`, and which of them are valid [S]: one bit for each variable.

        Where none or several bits of a variable are set, its first set level is taken, or level 0.
        """
        bits = np.asarray(spins) < 0
        starts = np.cumsum((0, *self.sizes))
        groups = [bits[:, low:high] for low, high in itertools.pairwise(starts)]
        levels = np.stack([group.argmax(1) for group in groups], 1).astype(np.int64)
        return levels, np.logical_and.reduce([group.sum(1) == 1 for group in groups])

    def digest(self) -> str:
        """Hex SHA-256 of all that the energies depend on."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        found = hashlib.sha256(f"onehot{self.sizes}{self.offset!r}".encode())
        for costs in self.unary:
            found.update((costs + 0).astype("<f8").tobytes())
        for at, costs in self.pair.items():
            found.update(f"{at}".encode() + (costs + 0).astype("<f8").tobytes())
        return found.hexdigest()


def tuple_of(name: str, value: Any) -> tuple[Any, ...]:
    """The entries of a sequence; `ProblemError` that names `name` if it is not a sequence."""
    try:
        return tuple(value)
    except TypeError as exc:
        raise ProblemError(must_be(name, "a sequence", value)) from exc


def couple(key: Any, m: int) -> tuple[int, int]:
    """A key (i, j) of the pairs between m variables, as plain numbers; `ProblemError` if it is not one."""
    try:
        i, j = (whole_number("index", at, 0, m - 1) for at in key)
    except (TypeError, ValueError) as exc:
        raise ProblemError(must_be("pair", f"keyed by (i, j) with 0 <= i < j < {m}", Shown(f"the key {key!r}"))) from exc
    if i >= j:
        raise ProblemError(must_be("pair", f"keyed by (i, j) with 0 <= i < j < {m}", Shown(f"the key {key!r}")))
    return i, j


def states_text(problem: OneHotProblem) -> str:
    """The count of solutions for a message; a large one, which may be beyond any float, as a power of ten."""
    return str(problem.states) if problem.states < 10**9 else f"10^{math.log10(problem.states):.1f}"
