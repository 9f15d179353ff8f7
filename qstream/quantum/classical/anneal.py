"""Simulated annealing of replicas, of spins and of levels, in rounds of growing length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from qstream.kernels import compiled
from qstream.quantum.classical.greedy import (
    best_descended,
    constructed,
    finish_s,
    random_solutions,
    replicas,
    setup_s,
    stacked_refusal,
)
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.record import Answer, Refused, Remaining, Solution, SolveRequest

# Sweeps of each round: a short one first, for a good answer soon.
ROUNDS: Final = (20, 200)
_HOT, _COLD = 3.0, 0.05  # temperatures of the ends, in units of the typical local field
_WORK_A_LOOK: Final = 10_000_000  # elementary steps between two looks at the clock, about 2 ms


@compiled
def sweep_spins(couplings: Any, local: Any, spins: Any, temperatures: Any, chance: Any) -> None:
    """Metropolis sweeps in place: spin i flips when its cost, -2 s_i local_i, is below T times an exponential variate.

    local float64 [R, n] are the fields that the spins [R, n] feel; chance float32 [sweeps, R, n] unit exponentials.
    """
    replicas, n = spins.shape
    for r in range(replicas):
        felt = local[r]
        for sweep in range(len(temperatures)):
            for i in range(n):
                if -2.0 * spins[r, i] * felt[i] < temperatures[sweep] * chance[sweep, r, i]:
                    change = -2.0 * spins[r, i]
                    spins[r, i] = -spins[r, i]
                    row = couplings[i]
                    for j in range(n):
                        felt[j] += change * row[j]


@compiled
def sweep_levels(pair: Any, cost: Any, starts: Any, taken: Any, temperatures: Any, chance: Any, pick: Any) -> None:
    """Metropolis sweeps in place over variables, each proposed one other level; `taken` [R, m] are stacked indices.

    cost float64 [R, K] holds each level's cost while the others stay; pick float32 [sweeps, R, m] uniform in [0, 1).
    """
    replicas, m = taken.shape
    for r in range(replicas):
        felt = cost[r]
        for sweep in range(len(temperatures)):
            for i in range(m):
                size = starts[i + 1] - starts[i]
                if size == 1:
                    continue
                old = taken[r, i]
                new = starts[i] + min(size - 2, np.int64(pick[sweep, r, i] * (size - 1)))
                if new >= old:
                    new += 1
                if felt[new] - felt[old] < temperatures[sweep] * chance[sweep, r, i]:
                    taken[r, i] = new
                    for k in range(len(felt)):
                        felt[k] += pair[new, k] - pair[old, k]


def anneal_spins(
    problem: IsingProblem, start: NDArray[np.int8], sweeps: int, rng: np.random.Generator, remaining_s: Remaining
) -> NDArray[np.int8]:
    """Anneal spins int8 [R, n] over a geometric schedule; cut short, still warm, when no time remains."""
    couplings, spins = problem.symmetric(), start.copy()
    local = spins @ couplings + problem.h
    for temperatures, part in schedule(problem.sigma(), sweeps, spins.shape, len(couplings)):
        chance = rng.standard_exponential((len(temperatures), *spins[part].shape), np.float32)
        sweep_spins(couplings, local[part], spins[part], temperatures, chance)
        if remaining_s() <= 0:
            break
    return spins


def anneal_levels(
    problem: OneHotProblem, start: NDArray[np.int64], sweeps: int, rng: np.random.Generator, remaining_s: Remaining
) -> NDArray[np.int64]:
    """Anneal levels int64 [R, m] over a geometric schedule; cut short, still warm, when no time remains."""
    firsts, unary, pair = problem.stacked()
    taken = start + firsts[:-1]
    chosen = np.zeros((len(start), len(unary)))
    np.put_along_axis(chosen, taken, 1.0, 1)
    cost = unary + chosen @ pair
    unit = math.sqrt(float(np.mean(unary * unary + (pair * pair).sum(1) * len(problem.sizes) / len(unary))))
    for temperatures, part in schedule(unit, sweeps, taken.shape, len(unary)):
        shape = (len(temperatures), *taken[part].shape)
        chance, pick = rng.standard_exponential(shape, np.float32), rng.random(shape, np.float32)
        sweep_levels(pair, cost[part], firsts, taken[part], temperatures, chance, pick)
        if remaining_s() <= 0:
            break
    levels: NDArray[np.int64] = taken - firsts[:-1]
    return levels


def schedule(unit: float, sweeps: int, shape: tuple[int, ...], row: int) -> list[tuple[NDArray[np.float64], slice]]:
    """Temperatures of all sweeps from hot to cold, in blocks of bounded work, each for some replicas of [R, n].

    All replicas together where one sweep of them is little work, else a few at a time.
    """
    temperatures = unit * np.geomspace(_HOT, _COLD, sweeps)
    count, variables = shape
    sweep = variables * (50 + row)
    at_once = min(count, max(1, _WORK_A_LOOK // sweep))
    block = max(1, _WORK_A_LOOK // (at_once * sweep))
    return [
        (temperatures[first : first + block], slice(replica, replica + at_once))
        for first in range(0, sweeps, block)
        for replica in range(0, count, at_once)
    ]


@dataclass(frozen=True)
class Anneal:
    """Simulated annealing; every replica ends in a descent. First the warm start, or a built solution, is descended: one to beat.

    What time cuts short, still warm, is descended too: with little time that first solution is the answer.
    """

    name: str = "sa"
    path: Literal["classical"] = "classical"

    def refusal(self, request: SolveRequest) -> Refused | None:
        return stacked_refusal(request.problem)

    def estimate_ms(self, request: SolveRequest) -> float:
        problem = request.problem
        return 0.2 + 1e3 * (setup_s(problem) + finish_s(problem, replicas(problem)))

    def run(self, request: SolveRequest, remaining_s: Remaining) -> Answer:
        problem = request.problem
        needed_s = finish_s(problem, replicas(problem))

        def left_s() -> float:
            return remaining_s() - needed_s

        first = constructed(problem, left_s) if request.warm_start is None else request.warm_start
        best, energy = best_descended(problem, first[np.newaxis], left_s)
        for number, sweeps in enumerate(ROUNDS):
            if left_s() <= 0:
                break
            rng = np.random.default_rng([request.seed, 2, number])
            start = random_solutions(problem, replicas(problem), rng)
            if isinstance(problem, IsingProblem):
                found: Solution = anneal_spins(problem, start.astype(np.int8), sweeps, rng, left_s)
            else:
                found = anneal_levels(problem, start.astype(np.int64), sweeps, rng, left_s)
            candidate, reached = best_descended(problem, found, left_s)
            if reached < energy:
                best, energy = candidate, reached
        return Answer(best, energy, "search", engine="numba")


ANNEAL: Final = Anneal()
