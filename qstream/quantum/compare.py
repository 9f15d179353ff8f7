"""Which solution is lower: decided by the exact sum of the terms that differ; and how far rounding moves an energy.

A constraint is often a penalty of a million times the costs. Its terms cancel in every allowed solution, but a tolerance that is
a share of them is above all differences of cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.record import Problem, Solution

EPSILON: Final = float(np.finfo(np.float64).eps)
# Terms of one exact comparison; a sum of more takes milliseconds.
MOST_TERMS: Final = 1 << 16


def rounding(problem: Problem) -> float:
    """How far two ways to add up one energy of the problem may be apart."""
    variables = problem.n if isinstance(problem, IsingProblem) else len(problem.sizes)
    return margin(variables, problem.magnitude())


def margin(variables: int, magnitude: float) -> float:
    """The same of energies whose terms together have that size; a sum has rarely more roundings in a row than variables."""
    return (variables + 4) * EPSILON * magnitude


def is_lower(problem: Problem, first: Solution, second: Solution) -> bool:
    """Whether the first solution has the lower energy, by more than the rounding of the coefficients may make it.

    The terms that differ are added up exactly, so that of a penalty nothing but its own last digit hides a cost. Of more than
    `MOST_TERMS`, the rounding of whole energies counts.
    """
    differ = np.asarray(first) != np.asarray(second)
    changed = int(np.count_nonzero(differ))
    if changed * (len(differ) - changed + 1) > MOST_TERMS:
        return problem.energy(first) < problem.energy(second) - rounding(problem)
    if isinstance(problem, IsingProblem):
        terms = _spin_terms(problem, np.asarray(first, np.float64), differ).tolist()
    else:
        terms = _level_terms(problem, first, second, differ)
    return math.fsum(terms) < -EPSILON * math.fsum(map(abs, terms))


def lowest(problem: Problem, solutions: Sequence[Solution]) -> int:
    """The number of the lowest solution, of equal ones the first; see `is_lower`."""
    best = 0
    for at in range(1, len(solutions)):
        if is_lower(problem, solutions[at], solutions[best]):
            best = at
    return best


def _spin_terms(problem: IsingProblem, s: NDArray[np.float64], differ: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The terms of half the difference that the spins of a mask make: of fields and couplings whose products of spins differ."""
    couplings = problem.J[np.ix_(differ, ~differ)] + problem.J[np.ix_(~differ, differ)].T  # of each couple one is 0
    products = couplings * np.outer(s[differ], s[~differ])
    return np.concatenate([problem.h[differ] * s[differ], products[couplings != 0]])


def _level_terms(problem: OneHotProblem, first: Solution, second: Solution, differ: NDArray[np.bool_]) -> list[float]:
    """The costs of the first solution and, negative, those of the second, where their levels differ."""
    terms: list[float] = []
    for i in np.flatnonzero(differ).tolist():
        terms += (float(problem.unary[i][first[i]]), -float(problem.unary[i][second[i]]))
    for (i, j), costs in problem.pair.items():
        if differ[i] or differ[j]:
            terms += (float(costs[first[i], first[j]]), -float(costs[second[i], second[j]]))
    return terms
