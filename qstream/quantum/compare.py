"""Which solution is lower: decided by the terms that differ; and how far rounding moves an energy.

A constraint is often a penalty of a million times the costs. Its terms cancel in every allowed solution, but a tolerance that is
a share of them is above all differences of cost.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.record import Problem, Solution

EPSILON: Final = float(np.finfo(np.float64).eps)
MOST_SPINS: Final = 512  # of more, whole energies are compared: their terms take milliseconds
MOST_PAIRS: Final = 4096  # the same of one-hot problems
Long = NDArray[np.longdouble]


def rounding(problem: Problem) -> float:
    """How far two ways to add up one energy of the problem may be apart."""
    return margin(_size(problem), problem.magnitude())


def margin(variables: int, magnitude: float) -> float:
    """The same of energies whose terms together have that size; a sum has rarely more roundings in a row than variables."""
    return (variables + 4) * EPSILON * magnitude


def is_lower(problem: Problem, first: Solution, second: Solution) -> bool:
    """Whether the first solution has the lower energy, by more than the rounding of the coefficients may make it.

    Only terms that differ count, added up in extended precision, so that of a penalty nothing but its own last digit hides a
    cost. Of large problems the rounding of whole energies counts.
    """
    if _size(problem) > MOST_SPINS or (isinstance(problem, OneHotProblem) and len(problem.pair) > MOST_PAIRS):
        return problem.energy(first) < problem.energy(second) - rounding(problem)
    change, near = _changes(problem, first[np.newaxis], second)
    return bool(change[0] < -near[0])


def lowest(problem: Problem, solutions: Solution) -> int:
    """The number of the lowest of solutions [S, n], of equal ones the first; as `is_lower`, of problems up to its bounds."""
    best = 0
    while True:
        change, near = _changes(problem, solutions, solutions[best])
        at = int((change + near).argmin())
        if change[at] + near[at] >= 0:
            return int(np.flatnonzero(change <= near)[0])
        best = at


def _size(problem: Problem) -> int:
    return problem.n if isinstance(problem, IsingProblem) else len(problem.sizes)


def _changes(problem: Problem, solutions: Solution, known: Solution) -> tuple[Long, Long]:
    """By how much the energies of solutions [S, n] are above that of the known one [n], and how far rounding moves that [S]."""
    of = _spin_changes if isinstance(problem, IsingProblem) else _level_changes
    change, terms = of(problem, solutions, known)  # type: ignore[arg-type]
    return change, (EPSILON + (_size(problem) + 4) * np.finfo(np.longdouble).eps) * terms


def _spin_changes(problem: IsingProblem, spins: Solution, known: Solution) -> tuple[Long, Long]:
    """Half of the changes [S], and the sizes of their terms: fields, and couplings between a spin that differs and one that does
    not."""
    s, couplings, fields = spins.astype(np.longdouble), problem.symmetric().astype(np.longdouble), problem.h.astype(np.longdouble)
    differ = spins != known
    change: Long = np.where(differ, s * (fields + np.where(differ, 0, s) @ couplings), 0).sum(1)
    terms: Long = np.where(differ, np.abs(fields) + (~differ).astype(np.longdouble) @ np.abs(couplings), 0).sum(1)
    return change, terms


def _level_changes(problem: OneHotProblem, levels: Solution, known: Solution) -> tuple[Long, Long]:
    """The changes [S], and the sizes of their terms: the costs of levels and of pairs of which one differs."""
    change, terms = np.zeros((2, len(levels)), np.longdouble)
    for i, costs in enumerate(problem.unary):
        _add(change, terms, levels[:, i] != known[i], costs[levels[:, i]], costs[known[i]])
    for (i, j), costs in problem.pair.items():
        differ = (levels[:, i] != known[i]) | (levels[:, j] != known[j])
        _add(change, terms, differ, costs[levels[:, i], levels[:, j]], costs[known[i], known[j]])
    return change, terms


def _add(change: Long, terms: Long, differ: NDArray[np.bool_], found: NDArray[np.float64], known: np.float64) -> None:
    """Add one term of each solution where it differs."""
    change += np.where(differ, found, 0)
    change -= np.where(differ, known, 0)
    terms += np.where(differ, np.abs(found) + abs(known), 0)
