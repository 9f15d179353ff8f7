"""Greedy descent from random starts: the first answer to every problem, and the polish of every other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import MAX_STACKED, OneHotProblem
from qstream.quantum.record import Answer, Problem, Reason, Refused, Remaining, Solution, SolveRequest

RESTARTS: Final = 32
# A move must gain more than this share of the largest local cost: the running sums carry rounding errors below it.
TOLERANCE: Final = 1e-10
_MOVES_A_LOOK: Final = 16
_SMALL: Final = 256  # variables whose starts descend all at once, deadline or not


def polish(problem: IsingProblem, spins: NDArray[np.int8]) -> NDArray[np.int8]:
    """Flip the best spin of each solution [S, n] until no single flip lowers its energy."""
    return one_flip_descent(problem.symmetric(), problem.h, spins)


def one_flip_descent(
    couplings: NDArray[np.float64],
    fields: NDArray[np.float64],
    spins: NDArray[np.int8],
    remaining_s: Remaining = lambda: math.inf,
) -> NDArray[np.int8]:
    """Steepest single-flip descent of all solutions at once; cut short when no time remains.

    Parameters
    ----------
    couplings : float64 [n, n]
        Symmetric, zero diagonal.
    fields : float64 [n]
    spins : int8 [S, n]

    Returns
    -------
    spins : int8 [S, n]
        Each a local minimum, unless time ran out; ties go to the lowest spin.
    """
    result = np.array(spins, np.int8)
    enough = TOLERANCE * float(np.max(np.abs(couplings).sum(1) + np.abs(fields), initial=0.0))
    rows, s = np.arange(len(result)), result.astype(np.float64)
    local = s @ couplings + fields
    moves = 0
    while len(rows):
        gain = s * local  # flipping spin i changes the energy by -2 gain_i
        at = gain.argmax(1)
        better = gain[np.arange(len(rows)), at] > enough
        if not better.all():
            result[rows[~better]] = s[~better]
            rows, s, local, at = rows[better], s[better], local[better], at[better]
        moved = np.arange(len(rows)), at
        s[moved] *= -1
        local += couplings[at] * (2 * s[moved])[:, np.newaxis]
        moves += 1
        if moves % _MOVES_A_LOOK == 0 and remaining_s() <= 0:
            result[rows] = s
            break
    return result


def polish_levels(problem: OneHotProblem, levels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Set the best variable of each solution [S, m] to its best level until no single change lowers the energy."""
    return one_level_descent(problem, levels)


def one_level_descent(
    problem: OneHotProblem, levels: NDArray[np.int64], remaining_s: Remaining = lambda: math.inf
) -> NDArray[np.int64]:
    """Steepest single-variable descent of all solutions at once, levels [S, m]; cut short when no time remains."""
    starts, unary, pair = problem.stacked()
    owner = np.repeat(np.arange(len(problem.sizes)), problem.sizes)
    result = np.array(levels, np.int64)
    enough = TOLERANCE * float(np.max(np.abs(pair).sum(1) + np.abs(unary), initial=0.0))
    rows, x = np.arange(len(result)), result + starts[:-1]
    taken = np.zeros((len(x), len(unary)))
    np.put_along_axis(taken, x, 1.0, 1)
    cost = unary + taken @ pair  # [S, K]: of each level, the others as they are
    moves = 0
    while len(rows):
        change = cost - np.take_along_axis(cost, x, 1)[:, owner]
        at = change.argmin(1)
        better = change[np.arange(len(rows)), at] < -enough
        if not better.all():
            result[rows[~better]] = x[~better] - starts[:-1]
            rows, x, cost, at = rows[better], x[better], cost[better], at[better]
        moved = np.arange(len(rows)), owner[at]
        cost += pair[at] - pair[x[moved]]
        x[moved] = at
        moves += 1
        if moves % _MOVES_A_LOOK == 0 and remaining_s() <= 0:
            result[rows] = x - starts[:-1]
            break
    return result


def constructed(problem: OneHotProblem) -> NDArray[np.int64]:
    """Levels [m], each the best for those chosen before it."""
    costs = [unary.copy() for unary in problem.unary]
    levels = np.zeros(len(costs), np.int64)
    after: dict[int, list[int]] = {}
    for i, j in problem.pair:
        after.setdefault(i, []).append(j)
    for i, cost in enumerate(costs):
        levels[i] = cost.argmin()
        for j in after.get(i, ()):
            costs[j] += problem.pair[i, j][levels[i]]
    return levels


def random_solutions(problem: Problem, count: int, rng: np.random.Generator) -> Solution:
    """Uniformly random solutions [count, n]: spins int8, or levels int64."""
    if isinstance(problem, IsingProblem):
        return (1 - 2 * rng.integers(0, 2, (count, problem.n), dtype=np.int8)).astype(np.int8)
    return rng.integers(0, problem.sizes, (count, len(problem.sizes)), dtype=np.int64)


def descend(problem: Problem, solutions: Solution, remaining_s: Remaining = lambda: math.inf) -> Solution:
    """The descent that fits the problem's kind, of solutions [S, n]."""
    if isinstance(problem, IsingProblem):
        return one_flip_descent(problem.symmetric(), problem.h, solutions.astype(np.int8), remaining_s)
    return one_level_descent(problem, solutions.astype(np.int64), remaining_s)


def stacked_refusal(problem: Problem) -> Refused | None:
    """Whether a one-hot problem has too many levels for its cost matrix."""
    if isinstance(problem, OneHotProblem) and sum(problem.sizes) > MAX_STACKED:
        return Refused(Reason.TOO_LARGE, f"{sum(problem.sizes)} levels in all, allowed are {MAX_STACKED}")
    return None


@dataclass(frozen=True)
class Greedy:
    """Restart greedy: the warm start, if there is one, and random solutions, each descended to a local minimum.

    It always answers: of one-hot problems too large for a descent, with one solution built variable by variable.
    """

    name: str = "greedy"
    path: Literal["classical"] = "classical"

    def refusal(self, request: SolveRequest) -> Refused | None:
        return None

    def estimate_ms(self, request: SolveRequest) -> float:
        return 0.0  # it is never too late for it: without time it returns where it started

    def run(self, request: SolveRequest, remaining_s: Remaining) -> Answer:
        problem = request.problem
        if isinstance(problem, OneHotProblem) and stacked_refusal(problem) is not None:
            levels = constructed(problem)
            return Answer(levels, problem.energy(levels), "search")
        starts = random_solutions(problem, RESTARTS, np.random.default_rng([request.seed, 1]))
        if request.warm_start is not None:
            starts[0] = request.warm_start
        block = RESTARTS if len(starts[0]) <= _SMALL or remaining_s() == math.inf else 4
        best, energy = starts[0], problem.energy(starts[0])
        for first in range(0, RESTARTS, block):
            found = descend(problem, starts[first : first + block], remaining_s)
            energies = problem.energies(found)
            at = int(energies.argmin())
            if energies[at] < energy:
                best, energy = found[at], float(energies[at])
            if remaining_s() <= 0:
                break
        return Answer(best, energy, "search")


GREEDY: Final = Greedy()
