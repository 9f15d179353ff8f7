"""QAOA at p = 1 in closed form: correlators, energy and best angles of an Ising problem of any size, without a state.

The circuit is ``exp(-i beta sum X) exp(-i gamma E) |+...+>``. Source: Ozaeta, van Dam and McMahon 2022, here with fields.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.ising import IsingProblem

_CHUNK: Final = 1 << 15
_BETAS: Final = np.linspace(-math.pi / 2, math.pi / 2, 181)[:-1]
_GAMMA_HATS: Final = np.geomspace(0.08, 2.0, 24)

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Correlators:
    """Means of Z_i, `spin` [n], and of Z_i Z_j, `pair` [M], for the pairs (i [M], j [M])."""

    spin: NDArray[np.float64]
    i: NDArray[np.int64]
    j: NDArray[np.int64]
    pair: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Profile:
    """The p = 1 state at one gamma, for every beta: ``<Z> = sin 2b spin``, ``<ZZ> = sin 4b linear - sin^2 2b quadratic``."""

    spin: NDArray[np.float64]
    i: NDArray[np.int64]
    j: NDArray[np.int64]
    linear: NDArray[np.float64]
    quadratic: NDArray[np.float64]

    def at(self, beta: float) -> Correlators:
        """The means at one beta."""
        s2, s4 = math.sin(2 * beta), math.sin(4 * beta)
        return Correlators(s2 * self.spin, self.i, self.j, s4 * self.linear - s2 * s2 * self.quadratic)

    def energies(self, problem: IsingProblem, betas: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean energies [B] at betas [B]; the pairs must be all that are coupled."""
        couplings, s2 = problem.J[self.i, self.j], np.sin(2 * betas)
        linear, quadratic = couplings @ self.linear, couplings @ self.quadratic
        found: NDArray[np.float64] = (
            problem.offset + s2 * (problem.h @ self.spin) + np.sin(4 * betas) * linear - s2 * s2 * quadratic
        )
        return found

    def best_beta(self, problem: IsingProblem) -> tuple[float, float]:
        """The beta of lowest mean energy, to about 1e-4, and that energy."""
        coarse = _BETAS[self.energies(problem, _BETAS).argmin()]
        fine = coarse + np.linspace(-math.pi / 180, math.pi / 180, 101)
        energies = self.energies(problem, fine)
        return float(fine[energies.argmin()]), float(energies.min())


def coupled_pairs(problem: IsingProblem) -> Pairs:
    """The pairs i < j with a coupling, in row order."""
    i, j = np.nonzero(problem.J)
    return i.astype(np.int64), j.astype(np.int64)


def profile(problem: IsingProblem, gamma: float, pairs: Pairs | None = None) -> Profile:
    """What every beta needs at this gamma, for the given pairs, by default the coupled ones; O(n) for each pair."""
    i, j = coupled_pairs(problem) if pairs is None else pairs
    angle, turn = 2 * gamma * problem.symmetric(), 2 * gamma * problem.h
    cos, sin = np.cos(angle), np.sin(angle)
    linear, quadratic = np.empty(len(i)), np.empty(len(i))
    rows = max(1, _CHUNK // problem.n)
    for start in range(0, len(i), rows):
        part = slice(start, start + rows)
        linear[part], quadratic[part] = _pair_terms(cos, sin, turn, i[part], j[part])
    return Profile(np.sin(turn) * cos.prod(1), i, j, linear, quadratic)


def correlators(problem: IsingProblem, gamma: float, beta: float) -> Correlators:
    """Means of all spins and of all pairs i < j."""
    i, j = np.triu_indices(problem.n, 1)
    return profile(problem, gamma, (i.astype(np.int64), j.astype(np.int64))).at(beta)


def expectation(problem: IsingProblem, gamma: float, beta: float) -> float:
    """The mean energy of the p = 1 state."""
    return float(profile(problem, gamma).energies(problem, np.array([beta]))[0])


def best_angles(problem: IsingProblem, near: float | None = None) -> tuple[float, float, float]:
    """The angles (gamma, beta) of lowest mean energy that a refined grid finds, and that energy.

    gamma is sought on the scale of ``1 / sigma``, on which angles transfer; `near`, a gamma already good, narrows the grid
    to its neighbourhood. Without couplings and fields every angle is best, and 0 is given.
    """
    sigma = problem.sigma()
    if sigma == 0:
        return 0.0, 0.0, problem.offset
    grid, ratio = (_GAMMA_HATS / sigma, 1.08) if near is None else (near * np.array([0.85, 1.0, 1.2]), 1.05)
    best = min(_energy_at(problem, gamma) for gamma in grid.tolist())
    for step in (ratio, math.sqrt(ratio), math.sqrt(math.sqrt(ratio))):
        best = min(best, *(_energy_at(problem, best[1] * factor) for factor in (1 / step, step)))
    energy, gamma, beta = best
    return gamma, beta, energy


def _energy_at(problem: IsingProblem, gamma: float) -> tuple[float, float, float]:
    beta, energy = profile(problem, gamma).best_beta(problem)
    return energy, gamma, beta


def _pair_terms(
    cos: NDArray[np.float64], sin: NDArray[np.float64], turn: NDArray[np.float64], i: NDArray[np.int64], j: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two terms of each pair; products run over all spins but the pair's own two."""
    at = np.arange(len(i))
    a, b = cos[i], cos[j]
    # cos(x + y) and cos(x - y) from the cosines and sines of x and y.
    both, cross = a * b, sin[i] * sin[j]
    plus, minus = both - cross, both + cross
    for factors in (a, b, plus, minus):
        factors[at, i] = factors[at, j] = 1
    linear = sin[i, j] * (np.cos(turn[i]) * a.prod(1) + np.cos(turn[j]) * b.prod(1)) / 2
    quadratic = (np.cos(turn[i] + turn[j]) * plus.prod(1) - np.cos(turn[i] - turn[j]) * minus.prod(1)) / 2
    return linear, quadratic
