"""Quantum kernels of the Gaussian process: one qubit a numeric parameter, trained bandwidths, exact gradients, all simulated.

Fidelity kernels concentrate as qubits are added (Thanasilp et al., arXiv 2208.11060), so that each qubit has a length scale,
fitted by marginal likelihood. Unordered choices have a Hamming factor ``exp(-[x != y] / l)``. Letters as in `gp`; m qubits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from qstream.hpo.gp import Against, Pull
from qstream.quantum.ising import basis_spins
from qstream.quantum.kernel import bloch_vectors, cross_gram, gram
from qstream.quantum.variational.embedding import iqp, product_state
from qstream.quantum.variational.gates import default_ranges, group_matrices, ring, rotate, rotation

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
    """Angles as states."""

    @property
    def layers(self) -> int:
        """Of the circuit."""

    def run(self, x: Mat) -> tuple[States, Callable[[States], Mat]]:
        """States [N, 2^m] of angles [N, m], and the gradient [N, m] by the angles of f with ``df = Re sum conj(slope) dpsi``,
        a function of the slope."""


@dataclass(frozen=True)
class Iqp:
    """``variational.embedding.iqp``; the control without the phases of pairs is a product of qubits."""

    entangled: bool = True
    layers: int = 1

    def run(self, x: Mat) -> tuple[States, Callable[[States], Mat]]:
        spins = basis_spins(x.shape[1])
        states: States = iqp(x) if self.entangled else np.exp(-0.5j * (x @ spins.T)) / 2 ** (x.shape[1] / 2)

        def pull(slope: States) -> Mat:
            turned = (slope.conj() * states).imag / 2
            if not self.entangled:
                return np.asarray(turned @ spins)
            return np.asarray((turned * (1 + x @ spins.T)) @ spins - x * turned.sum(1)[:, None])

        return states, pull


@dataclass(frozen=True)
class Reupload:
    """Angles about Y on each qubit and a ring of CNOTs, `UPLOADS` times (Perez-Salinas et al., Quantum 2020); real states."""

    entangled: bool = True
    layers: int = UPLOADS

    def run(self, x: Mat) -> tuple[States, Callable[[States], Mat]]:
        m = x.shape[1]
        rings = (
            [ring(m, reach) for reach in default_ranges(m, self.layers)] if self.entangled else [np.arange(1 << m)] * self.layers
        )
        gates = group_matrices(rotation(x, "Y").real)
        turned, states = [], product_state(x)
        for number, order in enumerate(rings):
            turned.append(_turn(states, gates) if number else states)
            states = turned[-1][:, order]

        def pull(slope: States) -> Mat:
            found, back = np.zeros_like(x), [gate.swapaxes(-1, -2) for gate in gates]
            flipped, sign = _flips(m)
            for state, order in zip(reversed(turned), reversed(rings), strict=True):
                before = np.empty_like(slope)
                before[:, order] = slope
                found += np.einsum("ns,nms,ms->nm", before, state[:, flipped], sign) / 2
                slope = _turn(before, back)
            return found

        return states, pull


def _turn(states: States, gates: Sequence[Any]) -> States:
    """Real gates of each sample on its state [N, 2^m]."""
    return np.asarray(rotate(states[:, None], gates)[:, 0])


@cache
def _flips(m: int) -> tuple[Index, Mat]:
    """``-i Y`` of each qubit as index and sign [m, 2^m]: new state = sign * state[index]."""
    qubit = 1 << np.arange(m - 1, -1, -1)
    return np.arange(1 << m) ^ qubit[:, None], -basis_spins(m).T


class Head(Protocol):
    """Similarities of states, by a view of them."""

    def view(self, states: States) -> Any:
        """What similarities depend on, an array of N rows."""

    def own(self, views: Any) -> Mat:
        """[N, N]."""

    def cross(self, left: Any, right: Any) -> Mat:
        """[B, N]."""

    def slope(self, states: States, left: Any, right: Any, weight: Mat) -> States:
        """Gradient by the left states of ``sum weight * cross(left, right)``, for `Embedding.run`."""


@dataclass(frozen=True)
class Fidelity:
    """``|<psi|phi>|^2``."""

    def view(self, states: States) -> States:
        return states

    def own(self, views: States) -> Mat:
        return np.asarray(gram(views))

    def cross(self, left: States, right: States) -> Mat:
        return np.asarray(cross_gram(left, right))

    def slope(self, states: States, left: States, right: States, weight: Mat) -> States:
        return np.asarray(2 * (weight * (states @ right.conj().T)) @ right)


@dataclass(frozen=True)
class Bloch:
    """``exp(-|b - b'|^2 / 2)`` of the qubits' Bloch vectors: a projected kernel (Huang et al., Nat. Commun. 2021), gamma 1."""

    def view(self, states: States) -> Mat:
        return bloch_vectors(states)

    def own(self, views: Mat) -> Mat:
        return _gaussian(views, views)

    def cross(self, left: Mat, right: Mat) -> Mat:
        return _gaussian(left, right)

    def slope(self, states: States, left: Mat, right: Mat, weight: Mat) -> States:
        pulled = weight * _gaussian(left, right)
        by_vector = (pulled @ right - pulled.sum(1)[:, None] * left).reshape(len(left), -1, 3)
        found = np.zeros_like(states)
        for qubit in range(by_vector.shape[1]):
            split = states.reshape(len(states), 1 << qubit, 2, -1)
            x, y, z = (by_vector[:, qubit, axis][:, None, None] for axis in range(3))
            zero, one = split[:, :, 0], split[:, :, 1]
            found += 2 * np.stack([(x - 1j * y) * one + z * zero, (x + 1j * y) * zero - z * one], 2).reshape(states.shape)
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
    def layers(self) -> int:
        return self.embedding.layers if self._registers else 0

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

    def against(self, theta: Vec, y: Mat) -> Against:
        registers = self._registers
        seen = [self.head.view(self.embedding.run(self._angles(theta, y, columns))[0]) for columns in registers]

        def covariances(x: Mat) -> tuple[Mat, Pull]:
            runs = [self.embedding.run(self._angles(theta, x, columns)) for columns in registers]
            views = [self.head.view(states) for states, _ in runs]
            parts = [*map(self.head.cross, views, seen), *self._hamming(theta, x, y)]
            cross = self._product(theta, parts)

            def pull(weight: Mat) -> Mat:
                found = np.zeros_like(x)
                for number, columns in enumerate(registers):
                    others = weight * self._product(theta, parts[:number] + parts[number + 1 :])
                    states, by_angle = runs[number]
                    slope = self.head.slope(states, views[number], seen[number], others)
                    found[:, columns] = by_angle(slope) / self._scale(theta, columns)
                columns, every = self._choices, weight * cross
                # The squared distance of two choices is 1, of a choice to itself 0.
                apart = every @ y[:, columns] - every.sum(1)[:, None] * x[:, columns]
                found[:, columns] = 2 * apart / self._scale(theta, columns)
                return found

            return cross, pull

        return covariances

    def diagonal(self, theta: Vec, x: Mat) -> Vec:
        return np.full(len(x), np.exp(theta[-2]))

    def gram_with_slope(self, theta: Vec, x: Mat) -> tuple[Mat, Callable[[Mat], Vec]]:
        registers = self._registers
        angles = [self._angles(theta, x, columns) for columns in registers]
        runs = [self.embedding.run(each) for each in angles]
        views = [self.head.view(states) for states, _ in runs]
        parts = [*map(self.head.own, views), *self._hamming(theta, x, x)]
        gram = self._product(theta, parts)

        def slope(weight: Mat) -> Vec:
            by_feature = np.zeros(x.shape[1])
            for number, (columns, (states, by_angle)) in enumerate(zip(registers, runs, strict=True)):
                others = weight * self._product(theta, parts[:number] + parts[number + 1 :])
                pulled = by_angle(self.head.slope(states, views[number], views[number], others))
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

    def _hamming(self, theta: Vec, x: Mat, y: Mat) -> list[Mat]:
        """The factor [B, n] of the choices, if there are any."""
        columns = self._choices
        if not len(columns):
            return []
        root = np.sqrt(self._scale(theta, columns))
        a, b = x[:, columns] / root, y[:, columns] / root
        squared = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T)
        return [np.exp(-np.maximum(squared, 0))]

    def _product(self, theta: Vec, parts: Sequence[Mat]) -> Mat:
        return np.asarray(reduce(np.multiply, parts, np.exp(theta[-2])))


KERNELS: Final[dict[str, Callable[[bool], tuple[Embedding, Head]]]] = {
    "iqp": lambda entangled: (Iqp(entangled), Fidelity()),
    "reupload": lambda entangled: (Reupload(entangled), Fidelity()),
    "projected": lambda entangled: (Iqp(entangled), Bloch()),
}


def covariance(name: str, groups: Index, entangled: bool = True) -> Quantum:
    """A quantum kernel by name; without entangling phases it is its own control."""
    return Quantum(groups, *KERNELS[name](entangled))
