"""IsingProblem: the minimisation of an Ising energy, and its exact evaluation.

Conventions, for all of ``qstream.quantum``: energies are minimised; a solution is an array of spins +1 and -1; spin +1 is
bit 0 is state |0>; qubit 0 is the most significant bit of a basis state's index, so index ``0b10...0`` is spin 0 at -1.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from schemas.wording import Shown, must_be

MAX_SPINS: Final = 4096
MAX_DIAGONAL_BITS: Final = 24
MAX_NUMBER: Final = 1e100
_TILE: Final = 128
_LEAST_SQUARE: Final = 1e-280


@dataclass(frozen=True, eq=False)
class IsingProblem:
    """Minimise ``E(s) = offset + sum_i h_i s_i + sum_{i<j} J_ij s_i s_j`` over spins s_i in {+1, -1}.

    Parameters
    ----------
    n
        Number of spins, 1 to 4,096; of so many the couplings take 128 MiB, and their symmetric matrix as much again.
    J : float64 [n, n]
        Couplings, strictly upper triangular: of a symmetric matrix that counts each pair once pass ``np.triu(J, 1)``.
    h : float64 [n]
        Fields, by default none.
    offset
        Added to every energy.
    labels
        A hashable name of its own for each spin, by default its number.

    Raises
    ------
    ProblemError
        A shape is wrong, a number is not finite or beyond +-1e100, J has entries on or below its diagonal,
        n is out of range, or a label is not hashable or not the only one of its kind.
    """

    n: int
    J: NDArray[np.float64]
    h: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    offset: float = 0.0
    labels: tuple[Hashable, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, (int, np.integer)) or not 1 <= self.n <= MAX_SPINS:
            raise ProblemError(must_be("n", f"1 to {MAX_SPINS} spins", self.n))
        couplings = finite_array("J", self.J, (self.n, self.n))
        fields = np.zeros(self.n) if np.size(self.h) == 0 else finite_array("h", self.h, (self.n,))
        if np.any(low := np.tril(couplings)):
            i, j = np.argwhere(low)[0]
            raise ProblemError(must_be(f"J[{i}, {j}]", "0 on and below the diagonal", Shown(f"{couplings[i, j]}")))
        offset = float(finite_array("offset", self.offset, ()))
        for name, value in (("J", couplings), ("h", fields)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "n", int(self.n))
        object.__setattr__(self, "offset", offset)
        object.__setattr__(self, "labels", checked_labels(self.labels, self.n))

    def __reduce__(self) -> tuple[Callable[..., IsingProblem], tuple[object, ...]]:
        # Built again, as pickled arrays come back writable.
        return IsingProblem, (self.n, self.J, self.h, self.offset, self.labels)

    def energy(self, spins: ArrayLike) -> float:
        """The energy of one solution, spins [n]."""
        return float(self.energies(np.asarray(spins)[np.newaxis])[0])

    def energies(self, spins: ArrayLike) -> NDArray[np.float64]:
        """Energies [S] of solutions [S, n]."""
        s = np.asarray(spins, np.float64)
        energies: NDArray[np.float64] = self.offset + s @ self.h + np.einsum("si,si->s", s @ self.J, s)
        return energies

    def diagonal(self, max_bits: int = 22) -> NDArray[np.float64]:
        """Energies [2^n] of all basis states, in index order, by one matrix product over two halves of the spins.

        `ProblemError` above `max_bits` spins, which may be at most 24 (128 MiB).
        """
        if self.n > min(max_bits, MAX_DIAGONAL_BITS):
            raise ProblemError(must_be("n", f"at most {min(max_bits, MAX_DIAGONAL_BITS)} for a whole diagonal", self.n))
        left = self.n // 2
        a, b = basis_spins(left), basis_spins(self.n - left)
        low = self.energies_of(slice(0, left), a) + self.offset
        high = self.energies_of(slice(left, self.n), b)
        total = (a @ self.J[:left, left:]) @ b.T
        total += low[:, np.newaxis]
        total += high
        return total.reshape(-1)

    def energies_of(self, part: slice, spins: NDArray[np.float64]) -> NDArray[np.float64]:
        """Energies [S] within one run of spins, without the offset and without couplings to the others."""
        inner = self.J[part, part]
        result: NDArray[np.float64] = spins @ self.h[part] + np.einsum("si,si->s", spins @ inner, spins)
        return result

    def sigma(self) -> float:
        """Root mean square of the local field, ``sqrt(mean_i(sum_j J_ij^2 + h_i^2))``: by it all angles transfer."""
        square = (2 * float(np.einsum("ij,ij->", self.J, self.J)) + float(self.h @ self.h)) / self.n
        if square > _LEAST_SQUARE:
            return math.sqrt(square)
        # Squares of numbers this small vanish: they are taken of their ratios to the largest.
        unit = max(float(np.abs(self.J).max()), float(np.abs(self.h).max()))
        return unit and unit * math.sqrt((2 * float(((self.J / unit) ** 2).sum()) + float(((self.h / unit) ** 2).sum())) / self.n)

    def magnitude(self) -> float:
        """The sizes of all terms together: the scale of what rounding may do to an energy."""
        return self._magnitude

    @cached_property
    def _magnitude(self) -> float:
        rows = (float(np.abs(self.J[first : first + _TILE]).sum()) for first in range(0, self.n, _TILE))
        return abs(self.offset) + math.fsum(rows) + float(np.abs(self.h).sum())

    def symmetric(self) -> NDArray[np.float64]:
        """The couplings as a symmetric matrix [n, n], ``J + J^T``; read-only, made once."""
        matrix = self.symmetric_in(lambda: math.inf)
        assert matrix is not None, "there is time without end"
        return matrix

    def symmetric_in(self, remaining_s: Callable[[], float]) -> NDArray[np.float64] | None:
        """`symmetric`, or None where no time remains; it is asked for about every millisecond."""
        if (kept := self.__dict__.get("_symmetric")) is not None:
            return cast(NDArray[np.float64], kept)
        matrix = np.empty((self.n, self.n))
        for top in range(0, self.n, _TILE):
            rows = slice(top, top + _TILE)
            matrix[rows, rows] = self.J[rows, rows] + self.J[rows, rows].T
            # Tile by tile: to read whole columns of a large matrix misses the cache at every number.
            for left in range(top + _TILE, self.n, _TILE):
                columns = slice(left, left + _TILE)
                matrix[rows, columns] = self.J[rows, columns]
                matrix[columns, rows] = self.J[rows, columns].T
            if remaining_s() <= 0:
                return None
        matrix.flags.writeable = False
        self.__dict__["_symmetric"] = matrix
        return matrix

    def fix(self, spins: Mapping[int, int]) -> IsingProblem:
        """The problem of the other spins, in their order and with their labels, while these, by number, stay +1 or -1.

        `ProblemError` for a number or a spin that is not one, and when no spin is left.
        """
        for i, spin in spins.items():
            if not 0 <= i < self.n or spin not in (-1, 1):
                raise ProblemError(must_be("a fixed spin", f"one of 0 to {self.n - 1} at +1 or -1", Shown(f"{i!r} at {spin!r}")))
        if len(spins) == self.n:
            raise ProblemError(must_be("fixed spins", f"fewer than all {self.n}", Shown("all")))
        fixed = np.zeros(self.n)
        fixed[list(spins)] = list(spins.values())
        free = [i for i in range(self.n) if i not in spins]
        fields = self.h + self.symmetric() @ fixed
        labels = tuple(self.labels[i] for i in free)
        return IsingProblem(len(free), self.J[np.ix_(free, free)], fields[free], self.energy(fixed), labels)

    def gauge(self, flips: ArrayLike) -> IsingProblem:
        """The problem whose energy of s is this one's of s with the spins of the mask `flips` [n] turned."""
        mask = np.asarray(flips)
        if mask.shape != (self.n,) or mask.dtype != np.bool_:
            raise ProblemError(must_be("flips", f"a mask of {self.n}", Shown(f"shape {mask.shape} and dtype {mask.dtype}")))
        sign = np.where(mask, -1.0, 1.0)
        return IsingProblem(self.n, self.J * np.outer(sign, sign), self.h * sign, self.offset, self.labels)

    def digest(self) -> str:
        """Hex SHA-256 of n, J, h and offset: equal for equal problems, whatever their labels."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        found = hashlib.sha256(f"ising{self.n}".encode())
        for first in range(0, self.n, _TILE):
            # Adding 0.0 makes a negative zero positive.
            found.update((self.J[first : first + _TILE, first:] + 0.0).astype("<f8", copy=False).tobytes())
        found.update((np.append(self.h, self.offset) + 0.0).astype("<f8").tobytes())
        return found.hexdigest()


def checked_labels(labels: Iterable[Hashable], n: int) -> tuple[Hashable, ...]:
    """A distinct label for each of n spins, by default its number; `ProblemError` if they are not."""
    try:
        names = tuple(labels)
        distinct = len(set(names))
    except TypeError as exc:
        raise ProblemError(must_be("labels", "hashable names", Shown(exc))) from exc
    if names and len(names) != n:
        raise ProblemError(must_be("labels", f"one name for each of the {n} spins", Shown(f"{len(names)}")))
    if distinct < len(names):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise ProblemError(must_be("labels", "distinct", Shown(f"{twice!r} twice")))
    return names or tuple(range(n))


def basis_spins(n: int) -> NDArray[np.float64]:
    """Spins [2^n, n] of all basis states of n qubits, in index order."""
    bits = np.arange(1 << n, dtype=np.int64)[:, np.newaxis] >> np.arange(n - 1, -1, -1) & 1
    return (1 - 2 * bits).astype(np.float64)


def spins_of(indices: ArrayLike, n: int) -> NDArray[np.int8]:
    """Spins [..., n] of basis states by their index."""
    bits = np.asarray(indices, np.int64)[..., np.newaxis] >> np.arange(n - 1, -1, -1) & 1
    return (1 - 2 * bits).astype(np.int8)


def indices_of(spins: ArrayLike) -> NDArray[np.int64]:
    """Indices [...] of the basis states that these spins [..., n] are."""
    s = np.asarray(spins)
    return (s < 0) @ (np.int64(1) << np.arange(s.shape[-1] - 1, -1, -1, dtype=np.int64))


def finite_array(name: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A read-only float64 copy; `ProblemError` that names `name` if it has another shape or a number beyond +-1e100.

    Within that bound no sum or square of a problem's numbers overflows.
    """
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "biufO":
            raise TypeError(f"dtype {given.dtype}")
        array = given.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as exc:
        raise ProblemError(must_be(name, "an array of numbers" if shape else "a number", Shown(exc))) from exc
    if array.shape != shape:
        raise ProblemError(must_be(name, f"of the shape {shape}", Shown(f"shape {array.shape}")))
    wrong = ~(np.abs(array) <= MAX_NUMBER)
    if wrong.any():
        at = [int(i) for i in np.argwhere(wrong)[0]]
        raise ProblemError(must_be(f"{name}{at or ''}", f"a finite number up to {MAX_NUMBER:g}", Shown(f"{array[tuple(at)]}")))
    array.flags.writeable = False
    return array
