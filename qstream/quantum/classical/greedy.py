"""Greedy construction and descents: the first answer to every problem, and the polish of every other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.compare import margin
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import MAX_STACKED, OneHotProblem
from qstream.quantum.record import Answer, Problem, Refused, Remaining, Solution, SolveRequest
from schemas.solver import Reason
from schemas.wording import must_be

RESTARTS: Final = 32
REPLICAS: Final = 32
# A move must gain more than this share of the largest local cost: the running sums carry rounding errors below it. Of sums
# made for each move they are below that of rounding: costs far below a penalty are descended so, up to so many variables.
TOLERANCE: Final = 1e-10
MOST_REFINED: Final = 512
_MOVES_A_LOOK: Final = 16
_VARIABLES_A_LOOK: Final = 64
_SMALL: Final = 64  # variables whose starts descend all at once, deadline or not
# Seconds of a number of the couplings, doubled: to make them symmetric, and to begin or to evaluate one solution.
_SYMMETRIC_S: Final = 1e-8
_READ_S: Final = 5e-10
_BLOCK: Final = 4
_PAIR_S: Final = 5e-6  # of a pair of levels' costs


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
            return result
    return _refined_spins(couplings, fields, result, remaining_s)


def _refined_spins(
    couplings: NDArray[np.float64], fields: NDArray[np.float64], spins: NDArray[np.int8], remaining_s: Remaining
) -> NDArray[np.int8]:
    """Flips of a gain that running sums do not show, in solutions [S, n] of a descent."""
    if len(fields) > MOST_REFINED:
        return spins
    enough = margin(len(fields), 1.0) * (np.abs(couplings).sum(1) + np.abs(fields))
    rows = np.arange(len(spins))
    while len(rows) and remaining_s() > 0:
        s = spins[rows].astype(np.float64)
        gain = s * (s @ couplings + fields) - enough
        at = gain.argmax(1)
        better = gain[np.arange(len(rows)), at] > 0
        rows = rows[better]
        spins[rows, at[better]] *= -1
    return spins


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
            return result
    return _refined_levels(problem, result, remaining_s)


def _refined_levels(problem: OneHotProblem, levels: NDArray[np.int64], remaining_s: Remaining) -> NDArray[np.int64]:
    """Changes of a gain that running sums do not show, in solutions [S, m] of a descent."""
    starts, unary, pair = problem.stacked()
    if len(unary) > MOST_REFINED:
        return levels
    owner = np.repeat(np.arange(len(problem.sizes)), problem.sizes)
    terms = np.maximum.reduceat(np.abs(pair), starts[:-1], axis=1).sum(1) + np.abs(unary)
    enough = 2 * margin(len(problem.sizes), float(terms.max()))
    rows = np.arange(len(levels))
    while len(rows) and remaining_s() > 0:
        x = levels[rows] + starts[:-1]
        taken = np.zeros((len(x), len(unary)))
        np.put_along_axis(taken, x, 1.0, 1)
        cost = unary + taken @ pair
        change = cost - np.take_along_axis(cost, x, 1)[:, owner]
        at = change.argmin(1)
        better = change[np.arange(len(rows)), at] < -enough
        rows, at = rows[better], at[better]
        levels[rows, owner[at]] = at - starts[owner[at]]
    return levels


def constructed(problem: Problem, remaining_s: Remaining = lambda: math.inf) -> Solution:
    """One solution [n], each variable the best for those chosen before it; without time the rest by what it is so far."""
    if isinstance(problem, IsingProblem):
        return constructed_spins(problem, remaining_s)
    return constructed_levels(problem, remaining_s)


def constructed_spins(problem: IsingProblem, remaining_s: Remaining) -> NDArray[np.int8]:
    """Spins [n], by one pass over the couplings."""
    local = problem.h.copy()
    for i in range(problem.n):
        row = problem.J[i, i + 1 :]
        if local[i] > 0:
            local[i + 1 :] -= row
        else:
            local[i + 1 :] += row
        if i % _VARIABLES_A_LOOK == 0 and remaining_s() <= 0:
            break
    return np.where(local > 0, -1, 1).astype(np.int8)


def constructed_levels(problem: OneHotProblem, remaining_s: Remaining) -> NDArray[np.int64]:
    """Levels [m], by one pass over the pairs."""
    costs = [unary.copy() for unary in problem.unary]
    for at, ((i, j), pair) in enumerate(problem.pair.items()):
        # Pairs are in order: by now all costs of variable i are in.
        costs[j] += pair[costs[i].argmin()]
        if at % _VARIABLES_A_LOOK == 0 and remaining_s() <= 0:
            break
    return np.array([cost.argmin() for cost in costs], np.int64)


def random_solutions(problem: Problem, count: int, rng: np.random.Generator) -> Solution:
    """Uniformly random solutions [count, n]: spins int8, or levels int64."""
    if isinstance(problem, IsingProblem):
        return (1 - 2 * rng.integers(0, 2, (count, problem.n), dtype=np.int8)).astype(np.int8)
    return rng.integers(0, problem.sizes, (count, len(problem.sizes)), dtype=np.int64)


def descend(problem: Problem, solutions: Solution, remaining_s: Remaining = lambda: math.inf) -> Solution:
    """The descent that fits the problem's kind, of solutions [S, n]; without time to read the couplings they stay as they are."""
    if isinstance(problem, OneHotProblem):
        return one_level_descent(problem, solutions.astype(np.int64), remaining_s)
    couplings = problem.symmetric_in(remaining_s)
    if couplings is None:
        return solutions
    return one_flip_descent(couplings, problem.h, solutions.astype(np.int8), remaining_s)


def setup_s(problem: Problem) -> float:
    """Seconds that the cost matrix of a descent may take."""
    if isinstance(problem, IsingProblem):
        return _SYMMETRIC_S * problem.n**2
    return _SYMMETRIC_S * sum(problem.sizes) ** 2 + _PAIR_S * len(problem.pair)


def finish_s(problem: Problem, count: int) -> float:
    """Seconds that it may take to begin the descent of so many solutions and to evaluate them: not to be interrupted."""
    if isinstance(problem, IsingProblem):
        return 2e-4 + _READ_S * count * problem.n**2
    return 2e-4 + _READ_S * count * sum(problem.sizes) ** 2 + _PAIR_S * len(problem.pair)


def replicas(problem: Problem) -> int:
    """How many solutions annealing and bifurcation move at once: fewer where each is long."""
    size = problem.n if isinstance(problem, IsingProblem) else sum(problem.sizes)
    return max(4, min(REPLICAS, 32_768 // size))


def best_descended(problem: Problem, solutions: Solution, remaining_s: Remaining) -> tuple[Solution, float]:
    """The lowest of these solutions [S, n], each descended first, and its energy."""
    found = descend(problem, solutions, remaining_s)
    energies = problem.energies(found)
    at = int(energies.argmin())
    return found[at], float(energies[at])


def stacked_refusal(problem: Problem) -> Refused | None:
    """Whether a one-hot problem has too many levels for its cost matrix."""
    if isinstance(problem, OneHotProblem) and sum(problem.sizes) > MAX_STACKED:
        return Refused(Reason.TOO_LARGE, must_be("sizes", f"of at most {MAX_STACKED} levels in all", sum(problem.sizes)))
    return None


@dataclass(frozen=True)
class Greedy:
    """Restart greedy: one solution built variable by variable, then it or the warm start, and random ones, each descended.

    It always answers. The built solution is there after one pass over the couplings, or a part of it; what then takes time is
    begun only where it fits. Of one-hot problems too large for a descent the built solution is the answer.
    """

    name: str = "greedy"
    path: Literal["classical"] = "classical"

    def refusal(self, request: SolveRequest) -> Refused | None:
        return None

    def estimate_ms(self, request: SolveRequest) -> float:
        return 0.0  # it is never too late for it: without time it returns where it started

    def run(self, request: SolveRequest, remaining_s: Remaining) -> Answer:
        problem = request.problem
        best = constructed(problem, remaining_s) if request.warm_start is None else request.warm_start
        energy = problem.energy(best)
        block = RESTARTS if len(best) <= _SMALL or remaining_s() == math.inf else _BLOCK
        needed_s = finish_s(problem, block)
        if stacked_refusal(problem) is not None or remaining_s() <= setup_s(problem) + needed_s:
            return Answer(best, energy, "search")
        starts = random_solutions(problem, RESTARTS, np.random.default_rng([request.seed, 1]))
        starts[0] = best
        for first in range(0, RESTARTS, block):
            found = descend(problem, starts[first : first + block], lambda: remaining_s() - needed_s)
            energies = problem.energies(found)
            at = int(energies.argmin())
            if energies[at] < energy:
                best, energy = found[at], float(energies[at])
            if remaining_s() <= needed_s:
                break
        return Answer(best, energy, "search")


GREEDY: Final = Greedy()
