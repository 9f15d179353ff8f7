"""Quantum kernels of the Gaussian process: one qubit a numeric parameter, trained bandwidths, exact gradients, all simulated.

Fidelity kernels concentrate as qubits are added (Thanasilp et al., arXiv 2208.11060), so that each qubit has a length scale,
fitted by marginal likelihood. Unordered choices have a Hamming factor ``exp(-[x != y] / l)``. Letters as in `gp`; m qubits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.ising import basis_spins
from qstream.quantum.kernel import bloch_vectors, cross_gram, gram
from qstream.quantum.variational.embedding import iqp, product_state
from qstream.quantum.variational.gates import default_ranges, ring

Vec = NDArray[np.float64]
Mat = NDArray[np.float64]
Index = NDArray[np.int64]
States = NDArray[Any]  # float64 or complex128 [N, 2^m]

QUBITS: Final = 10  # of a register; more numeric parameters have several registers, whose kernels are multiplied
UPLOADS: Final = 3
_LENGTH: Final = (float(np.log(0.7)), -2.0, 3.0)  # log of a length scale: start, bounds
_SIGNAL: Final = (0.0, -4.0, 4.0)
_NOISE: Final = (-7.0, -16.0, 2.0)
_LENGTH_PRIOR: Final = 0.1


class Embedding(Protocol):
    """Angles as states, and how a function of the states depends on the angles."""

    def states(self, x: Mat) -> States:
        """States [N, 2^m] of angles [N, m]."""

    def pull(self, x: Mat, slope: States) -> Mat:
        """Gradient [N, m] of f by the angles where ``df = Re sum conj(slope) dpsi``."""


@dataclass(frozen=True)
class Iqp:
    """``variational.embedding.iqp``; the control without the phases of pairs is a product of qubits."""

    entangled: bool = True

    def states(self, x: Mat) -> States:
        if self.entangled:
            return np.asarray(iqp(x))
        found: States = np.exp(-0.5j * (x @ basis_spins(x.shape[1]).T)) / 2 ** (x.shape[1] / 2)
        return found

    def pull(self, x: Mat, slope: States) -> Mat:
        spins = basis_spins(x.shape[1]).astype(np.float64)
        turned = (slope.conj() * self.states(x)).imag / 2
        if not self.entangled:
            return np.asarray(turned @ spins)
        return np.asarray((turned * (1 + x @ spins.T)) @ spins - x * turned.sum(1)[:, None])


@dataclass(frozen=True)
class Reupload:
    """Angles about Y on each qubit and a ring of CNOTs, `UPLOADS` times (Perez-Salinas et al., Quantum 2020); real states."""

    entangled: bool = True

    def states(self, x: Mat) -> States:
        return self._layers(x)[-1]

    def pull(self, x: Mat, slope: States) -> Mat:
        found = np.zeros_like(x)
        for turned, order in zip(reversed(self._layers(x)), reversed(self._rings(x.shape[1])), strict=True):
            before = np.empty_like(slope)
            before[:, order] = slope
            state = np.empty_like(turned)
            state[:, order] = turned
            for qubit in range(x.shape[1]):
                s, t = (array.reshape(len(x), 1 << qubit, 2, -1) for array in (before, state))
                found[:, qubit] += (s[:, :, 1] * t[:, :, 0] - s[:, :, 0] * t[:, :, 1]).sum((1, 2)) / 2
            slope = _turn(before, -x)
        return found

    def _layers(self, x: Mat) -> list[States]:
        """States after each layer."""
        found: list[States] = []
        for order in self._rings(x.shape[1]):
            turned = _turn(found[-1], x) if found else product_state(x)
            found.append(turned[:, order])
        return found

    def _rings(self, m: int) -> list[Any]:
        if not self.entangled:
            return [np.arange(1 << m)] * UPLOADS
        return [ring(m, reach) for reach in default_ranges(m, UPLOADS)]


def _turn(states: States, x: Mat) -> States:
    """RY of each angle [N, m] on its qubit of real states [N, 2^m]."""
    for qubit in range(x.shape[1]):
        split = states.reshape(len(x), 1 << qubit, 2, -1)
        c, s = (f(x[:, qubit] / 2)[:, None, None] for f in (np.cos, np.sin))
        states = np.stack([c * split[:, :, 0] - s * split[:, :, 1], s * split[:, :, 0] + c * split[:, :, 1]], 2)
    return states.reshape(len(x), -1)


class Head(Protocol):
    """Similarities of states."""

    def own(self, states: States) -> Mat:
        """[N, N]."""

    def cross(self, left: States, right: States) -> Mat:
        """[B, N]."""

    def slope(self, left: States, right: States, weight: Mat) -> States:
        """Gradient by the left states of ``sum weight * cross(left, right)``, for `Embedding.pull`."""


@dataclass(frozen=True)
class Fidelity:
    """``|<psi|phi>|^2``."""

    def own(self, states: States) -> Mat:
        return np.asarray(gram(states))

    def cross(self, left: States, right: States) -> Mat:
        return np.asarray(cross_gram(left, right))

    def slope(self, left: States, right: States, weight: Mat) -> States:
        overlap = left @ right.conj().T
        return np.asarray(2 * (weight * overlap) @ right)


@dataclass(frozen=True)
class Bloch:
    """``exp(-|b - b'|^2 / 2)`` of the qubits' Bloch vectors: a projected kernel (Huang et al., Nat. Commun. 2021), gamma 1."""

    def own(self, states: States) -> Mat:
        vectors = bloch_vectors(states)
        return _gaussian(vectors, vectors)

    def cross(self, left: States, right: States) -> Mat:
        return _gaussian(bloch_vectors(left), bloch_vectors(right))

    def slope(self, left: States, right: States, weight: Mat) -> States:
        a, b = bloch_vectors(left), bloch_vectors(right)
        pulled = weight * _gaussian(a, b)
        by_vector = (pulled @ b - pulled.sum(1)[:, None] * a).reshape(len(a), -1, 3)
        found = np.zeros_like(left)
        for qubit in range(by_vector.shape[1]):
            split = left.reshape(len(left), 1 << qubit, 2, -1)
            x, y, z = (by_vector[:, qubit, axis][:, None, None] for axis in range(3))
            zero, one = split[:, :, 0], split[:, :, 1]
            found += 2 * np.stack([(x - 1j * y) * one + z * zero, (x + 1j * y) * zero - z * one], 2).reshape(left.shape)
        return found


def _gaussian(a: Mat, b: Mat) -> Mat:
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T)
    found: Mat = np.exp(-np.maximum(squared, 0) / 2)
    return found


@dataclass(frozen=True)
class Quantum:
    """A covariance of `gp`: signal variance, times a quantum kernel of each register, times a Hamming factor a choice.

    ``theta`` is log length scale of each parameter, log signal variance, log noise. Features of numeric parameters are turned
    about the middle of the cube by ``(x - 1/2) / l`` radians. `groups` int64 [F] as in `gp`: a group of several features is a
    choice.
    """

    groups: Index
    embedding: Embedding
    head: Head

    @property
    def lengths(self) -> int:
        return int(self.groups.max()) + 1

    def start(self) -> Vec:
        return np.array([_LENGTH[0]] * self.lengths + [_SIGNAL[0], _NOISE[0]])

    def bounds(self) -> Mat:
        return np.array([_LENGTH[1:]] * self.lengths + [_SIGNAL[1:], _NOISE[1:]])

    def log_prior(self, theta: Vec) -> tuple[float, Vec]:
        wide = np.exp(2.0 * theta[:-2])
        s2, noise = np.exp(theta[-2:])
        value = -_LENGTH_PRIOR * float((wide + 1.0 / wide).sum()) + theta[-2] - s2 + 0.1 * theta[-1] - 30.0 * noise
        return float(value), np.r_[-2.0 * _LENGTH_PRIOR * (wide - 1.0 / wide), 1.0 - s2, 0.1 - 30.0 * noise]

    def gram(self, theta: Vec, x: Mat) -> Mat:
        return self.gram_with_slope(theta, x)[0]

    def cross(self, theta: Vec, x: Mat, y: Mat) -> Mat:
        return self._product(theta, self._parts(theta, x, y))

    def diagonal(self, theta: Vec, x: Mat) -> Vec:
        return np.full(len(x), np.exp(theta[-2]))

    def pull(self, theta: Vec, x: Mat, y: Mat, weight: Mat) -> Mat:
        parts, found = self._parts(theta, x, y), np.zeros_like(x)
        every = weight * self._product(theta, parts)
        for number, columns in enumerate(self._registers):
            others = self._product(theta, [part for at, part in enumerate(parts) if at != number])
            found[:, columns] = self._register_pull(theta, x, y, weight * others, columns) / self._scale(theta, columns)
        columns = self._choices
        # The squared distance of two choices is 1, of a choice to itself 0.
        scale = self._scale(theta, columns)
        found[:, columns] = 2 * (every @ y[:, columns] - every.sum(1)[:, None] * x[:, columns]) / scale
        return found

    def gram_with_slope(self, theta: Vec, x: Mat) -> tuple[Mat, Callable[[Mat], Vec]]:
        registers = self._registers
        angles = [self._angles(theta, x, columns) for columns in registers]
        states = [self.embedding.states(each) for each in angles]
        parts = [*(self.head.own(each) for each in states), self._hamming(theta, x, x)]
        gram = self._product(theta, parts)

        def slope(weight: Mat) -> Vec:
            by_feature = np.zeros(x.shape[1])
            for number, columns in enumerate(registers):
                others = weight * self._product(theta, [part for at, part in enumerate(parts) if at != number])
                pulled = self.embedding.pull(angles[number], self.head.slope(states[number], states[number], others))
                by_feature[columns] = -2 * (pulled * angles[number]).sum(0)
            at, every = x[:, self._choices], weight * gram
            apart = (at * at * every.sum(1)[:, None]).sum(0) - (at * (every @ at)).sum(0)
            by_feature[self._choices] = 2 * apart / self._scale(theta, self._choices)
            found: Vec = np.r_[np.bincount(self.groups, by_feature, self.lengths), every.sum(), 0.0]
            return found

        return gram, slope

    @property
    def _registers(self) -> list[Index]:
        """Features of each register: single ones, at most `QUBITS` together."""
        numeric = np.flatnonzero(np.bincount(self.groups)[self.groups] == 1)
        return np.array_split(numeric, -(-len(numeric) // QUBITS)) if len(numeric) else []

    @property
    def _choices(self) -> Index:
        return np.flatnonzero(np.bincount(self.groups)[self.groups] > 1)

    def _scale(self, theta: Vec, columns: Index) -> Vec:
        found: Vec = np.exp(theta[self.groups[columns]])
        return found

    def _angles(self, theta: Vec, x: Mat, columns: Index) -> Mat:
        found: Mat = (x[:, columns] - 0.5) / self._scale(theta, columns)
        return found

    def _parts(self, theta: Vec, x: Mat, y: Mat) -> list[Mat]:
        """The kernel of each register, then the Hamming factor: [B, n] each."""
        pairs = [[self.embedding.states(self._angles(theta, points, each)) for points in (x, y)] for each in self._registers]
        return [*(self.head.cross(left, right) for left, right in pairs), self._hamming(theta, x, y)]

    def _hamming(self, theta: Vec, x: Mat, y: Mat) -> Mat:
        columns = self._choices
        root = np.sqrt(self._scale(theta, columns))
        a, b = x[:, columns] / root, y[:, columns] / root
        squared = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T)
        found: Mat = np.exp(-np.maximum(squared, 0))
        return found

    def _product(self, theta: Vec, parts: Sequence[Mat]) -> Mat:
        return np.asarray(np.exp(theta[-2]) * reduce(np.multiply, parts))

    def _register_pull(self, theta: Vec, x: Mat, y: Mat, weight: Mat, columns: Index) -> Mat:
        """Gradient [B, m] of ``sum weight * kernel`` by the angles of a register."""
        angles = self._angles(theta, x, columns)
        left, right = self.embedding.states(angles), self.embedding.states(self._angles(theta, y, columns))
        return self.embedding.pull(angles, self.head.slope(left, right, weight))


KERNELS: Final[dict[str, Callable[[bool], tuple[Embedding, Head]]]] = {
    "iqp": lambda entangled: (Iqp(entangled), Fidelity()),
    "reupload": lambda entangled: (Reupload(entangled), Fidelity()),
    "projected": lambda entangled: (Iqp(entangled), Bloch()),
}


def covariance(name: str, groups: Index, entangled: bool = True) -> Quantum:
    """A quantum kernel by name; without entangling phases it is its own control."""
    return Quantum(groups, *KERNELS[name](entangled))
