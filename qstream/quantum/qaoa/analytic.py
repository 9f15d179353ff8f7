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

_CHUNK: Final = 1 << 20
_BETAS: Final = np.linspace(-math.pi / 2, math.pi / 2, 181)[:-1]
_GAMMA_HATS: Final = np.geomspace(0.08, 2.0, 24)


@dataclass(frozen=True, eq=False)
class Correlators:
    """Exact means of the p = 1 state: `spin` [n] of Z_i, and `pair` [M] of Z_i Z_j for the pairs (i[M], j[M])."""

    spin: NDArray[np.float64]
    i: NDArray[np.int64]
    j: NDArray[np.int64]
    pair: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Terms:
    """What does not depend on beta: ``<Z> = sin 2b spin`` and ``<ZZ> = sin 4b linear - sin^2 2b quadratic``."""

    spin: NDArray[np.float64]
    linear: NDArray[np.float64]
    quadratic: NDArray[np.float64]


def coupled_pairs(problem: IsingProblem) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs i < j with a coupling, in row order."""
    i, j = np.nonzero(problem.J)
    return i.astype(np.int64), j.astype(np.int64)


def correlators(
    problem: IsingProblem,
    gamma: float,
    beta: float,
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> Correlators:
    """Means of spins and of the given pairs, by default of all pairs i < j; O(n) for each pair."""
    i, j = pairs or np.triu_indices(problem.n, 1)
    terms = _terms(problem, gamma, i, j)
    s2, s4 = math.sin(2 * beta), math.sin(4 * beta)
    return Correlators(s2 * terms.spin, i, j, s4 * terms.linear - s2 * s2 * terms.quadratic)


def expectation(problem: IsingProblem, gamma: float, beta: float) -> float:
    """The mean energy of the p = 1 state."""
    return float(energies_over_beta(problem, gamma, np.array([beta]))[0])


def energies_over_beta(problem: IsingProblem, gamma: float, betas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean energies [B] at one gamma and many betas [B], for the price of one."""
    i, j = coupled_pairs(problem)
    terms = _terms(problem, gamma, i, j)
    couplings = problem.J[i, j]
    s2 = np.sin(2 * betas)
    fields = problem.h @ terms.spin
    found: NDArray[np.float64] = (
        problem.offset
        + s2 * fields
        + np.sin(4 * betas) * (couplings @ terms.linear)
        - s2 * s2 * (couplings @ terms.quadratic)
    )
    return found


def best_angles(problem: IsingProblem, near: float | None = None) -> tuple[float, float, float]:
    """The angles (gamma, beta) of lowest mean energy, and that energy, over a grid refined twice.

    gamma is sought on the scale of ``1 / sigma``, on which angles transfer; `near`, a gamma already good, narrows the grid
    to its neighbourhood. Without couplings and fields every angle is best, and 0 is given.
    """
    sigma = problem.sigma()
    if sigma == 0:
        return 0.0, 0.0, problem.offset
    grid = _GAMMA_HATS / sigma if near is None else near * np.array([0.85, 1.0, 1.2])
    step = 1.15 if near is None else 1.08
    best = _best_of(problem, grid)
    for _ in range(2 if near is None else 1):
        best = min(best, _best_of(problem, best[1] * np.array([1 / step, math.sqrt(1 / step), math.sqrt(step), step])))
        step = math.sqrt(math.sqrt(step))
    energy, gamma, beta = best
    return gamma, beta, energy


def _best_of(problem: IsingProblem, gammas: NDArray[np.float64]) -> tuple[float, float, float]:
    """Lowest (energy, gamma, beta) of these gammas, beta to about 1e-4."""
    found = []
    for gamma in gammas:
        coarse = energies_over_beta(problem, gamma, _BETAS)
        found.append((float(coarse.min()), float(gamma), float(_BETAS[coarse.argmin()])))
    _, gamma, beta = min(found)
    fine = np.linspace(beta - math.pi / 180, beta + math.pi / 180, 101)
    energies = energies_over_beta(problem, gamma, fine)
    return float(energies.min()), gamma, float(fine[energies.argmin()])


def _terms(problem: IsingProblem, gamma: float, i: NDArray[np.int64], j: NDArray[np.int64]) -> _Terms:
    angle = 2 * gamma * problem.symmetric()
    cos, sin = np.cos(angle), np.sin(angle)
    turn = 2 * gamma * problem.h
    spin = np.sin(turn) * cos.prod(1)
    linear, quadratic = np.empty(len(i)), np.empty(len(i))
    rows = max(1, _CHUNK // problem.n)
    for start in range(0, len(i), rows):
        part = slice(start, start + rows)
        linear[part], quadratic[part] = _pair_terms(cos, sin, turn, i[part], j[part])
    return _Terms(spin, linear, quadratic)


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
