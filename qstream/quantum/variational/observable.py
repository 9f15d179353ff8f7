"""Sums of Pauli operators Z and X on single qubits and pairs: exact expectations, shots, and the closed form on product states.

Every such sum is a real symmetric matrix. Qubit 0 is the most significant bit, as in all of `qstream.quantum`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.quantum.ising import basis_spins
from qstream.quantum.variational.gates import Array, checked_qubits, group_matrices, namespace, rotate
from schemas.wording import Shown, must_be

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def size(n: int) -> int:
    """How many terms a sum over n qubits has: the constant, Z and X of each qubit, and four products of each pair."""
    return 1 + 2 * n + 2 * n * (n - 1)


@cache
def pairs(n: int) -> tuple[Indices, Indices]:
    """Operators of each two-qubit term, int64 [2 n (n - 1)] twice: operator i < n is Z of qubit i, operator n + i is its X."""
    first, second = np.triu_indices(2 * n, 1)
    apart = first % n != second % n
    return first[apart].astype(np.int64), second[apart].astype(np.int64)


@dataclass(frozen=True, eq=False)
class PauliSum:
    """``c_0 + sum_i (c_Zi Z_i + c_Xi X_i) + sum_{i<j} sum_{P, Q in {Z, X}} c_PiQj P_i Q_j``.

    Parameters
    ----------
    n
        Qubits.
    coefficients
        float64 [1 + 2n + 2n(n-1)]: the constant, Z of all qubits, X of all qubits, then the products in the order of `pairs`.

    Raises
    ------
    ProblemError
        The coefficients are not as many, or not finite.
    """

    n: int
    coefficients: Floats

    def __post_init__(self) -> None:
        terms = size(self.n)
        if self.n < 1 or self.coefficients.shape != (terms,) or not np.isfinite(self.coefficients).all():
            shown = Shown(f"shape {self.coefficients.shape}, or numbers that are not finite")
            raise ProblemError(must_be("coefficients", f"{terms} finite numbers for {self.n} qubits", shown))

    @cached_property
    def fields(self) -> Floats:
        """Coefficients of Z, then of X, of each qubit: float64 [2n]."""
        return self.coefficients[1 : 1 + 2 * self.n]

    @cached_property
    def couplings(self) -> Floats:
        """Coefficients of products of two operators, float64 [2n, 2n], above the diagonal."""
        matrix = np.zeros((2 * self.n, 2 * self.n))
        matrix[pairs(self.n)] = self.coefficients[1 + 2 * self.n :]
        return matrix

    def on_product(self, theta: Array) -> Array:
        """Expectations [B] in the states ``prod RY(theta_i)|0>`` of angles [B, n], any n: ``<Z> = cos``, ``<X> = sin``.

        The closed form, without any state: classical, and cheap.
        """
        xp = namespace(theta)
        values = xp.concat([xp.cos(theta), xp.sin(theta)], -1)
        fields, couplings = (xp.asarray(part, dtype=values.dtype) for part in (self.fields, self.couplings))
        return float(self.coefficients[0]) + ((values @ couplings + fields) * values).sum(-1)

    def slope_on_product(self, theta: Floats) -> Floats:
        """Gradient of `on_product` by the angles, float64 [B, n]: what the shift rule gives, without its 2n circuits."""
        cos, sin = np.cos(theta), np.sin(theta)
        field = np.concatenate([cos, sin], axis=1) @ (self.couplings + self.couplings.T) + self.fields
        slope: Floats = cos * field[:, self.n :] - sin * field[:, : self.n]
        return slope

    def expectation(self, states: Array) -> Array:
        """Expectations [B] in states [B, 2^n], real or complex, numpy or torch."""
        self._check(states)
        xp = namespace(states)
        found = float(self.coefficients[0])
        for basis, energies in self.measurements:
            weights = probabilities(states, basis)
            found = found + weights @ xp.asarray(energies, dtype=weights.dtype)
        return found

    def sample(self, states: Array, shots: int, rng: np.random.Generator) -> Floats:
        """Expectations [B] as measured: `shots` of each state, spread evenly over the bases that the terms need.

        Unbiased; the error falls as ``1 / sqrt(shots)``. `ProblemError` unless there is a shot for each basis.
        """
        self._check(states)
        needed = self.measurements
        if shots < len(needed):
            raise ProblemError(must_be("shots", f"{len(needed)} or more, one for each basis", shots))
        found = np.full(len(states), self.coefficients[0])
        for turn, (basis, energies) in enumerate(needed):
            taken = shots // len(needed) + (turn < shots % len(needed))
            weights = np.asarray(probabilities(states, basis), np.float64)
            counts = rng.multinomial(taken, weights / weights.sum(-1, keepdims=True))
            found += counts @ energies / taken
        return found

    @cached_property
    def measurements(self) -> list[tuple[NDArray[np.bool_], Floats]]:
        """Each basis that a term needs, with the energies [2^n] of its outcomes: a term is spread over all bases that show it."""
        n, spins = checked_qubits(self.n), basis_spins(self.n).astype(np.float64)
        shown = [np.concatenate([~basis, basis]) for basis in bases(n)]
        table = np.array(shown, np.float64)
        singles, doubles = table.sum(0), table.T @ table
        found = []
        for basis, each in zip(bases(n), shown, strict=True):
            operators = np.flatnonzero(each)[np.argsort(np.flatnonzero(each) % n)]
            fields = self.fields[operators] / singles[operators]
            both = np.ix_(operators, operators)
            couplings = (self.couplings + self.couplings.T)[both] / np.maximum(doubles[both], 1) / 2
            if fields.any() or couplings.any():
                found.append((basis, spins @ fields + ((spins @ couplings) * spins).sum(1)))
        return found

    def _check(self, states: Array) -> None:
        if states.ndim != 2 or states.shape[1] != 1 << checked_qubits(self.n):
            raise ProblemError(must_be("states", f"[B, {1 << self.n}]", Shown(f"shape {tuple(states.shape)}")))


@cache
def bases(n: int) -> tuple[NDArray[np.bool_], ...]:
    """Bases that show every term, bool [n] each, true where X is measured: all Z, all X, two for each bit of a qubit's number.

    Two qubits differ in some bit of their numbers, so that one of those bases shows Z of the one with X of the other.
    """
    masks = [np.zeros(n, bool)]
    masks += [(np.arange(n) >> bit & 1).astype(bool) for bit in range((n - 1).bit_length())]
    return tuple(basis for mask in masks for basis in (mask, ~mask))


def probabilities(states: Array, basis: NDArray[np.bool_]) -> Array:
    """Probabilities [B, 2^n] of the outcomes where X is measured on the qubits of `basis`, bool [n], and Z on the others."""
    xp = namespace(states)
    if basis.any():
        hadamard, identity = np.array([[1, 1], [1, -1]]) / np.sqrt(2), np.eye(2)
        gates = xp.asarray(np.where(basis[:, None, None], hadamard, identity), dtype=states.dtype)
        states = rotate(states, group_matrices(gates))
    return abs(states) ** 2


def moments(states: Array) -> Floats:
    """What each term of a `PauliSum` without its coefficient is in states [B, 2^n]: float64 [B, terms], a linear model's rows."""
    n = states.shape[1].bit_length() - 1
    spins = basis_spins(checked_qubits(n)).astype(np.float64)
    total, seen = np.zeros((len(states), 2 * n, 2 * n)), np.zeros((2 * n, 2 * n))
    for basis in bases(n):
        operators = np.arange(n) + n * basis
        weights = np.asarray(probabilities(states, basis), np.float64)
        products = np.einsum("bs,si,sj->bij", weights, spins, spins, optimize=True)
        products[:, range(n), range(n)] = weights @ spins
        total[:, operators[:, None], operators] += products
        seen[operators[:, None], operators] += 1
    means = total / np.maximum(seen, 1)
    first, second = pairs(n)
    return np.concatenate([np.ones((len(states), 1)), np.einsum("bii->bi", means), means[:, first, second]], axis=1)


def product_moments(theta: Floats) -> Floats:
    """`moments` of the states ``prod RY(theta_i)|0>`` of angles float64 [B, n], in closed form: any n, no state."""
    values = np.concatenate([np.cos(theta), np.sin(theta)], axis=1)
    first, second = pairs(theta.shape[1])
    return np.concatenate([np.ones((len(theta), 1)), values, values[:, first] * values[:, second]], axis=1)
