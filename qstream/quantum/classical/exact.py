"""Exact search: all solutions are enumerated, in blocks of one matrix product over two halves of the variables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.compare import lowest, rounding
from qstream.quantum.ising import IsingProblem, basis_spins, spins_of
from qstream.quantum.onehot import MAX_STATES, OneHotProblem, states_text
from qstream.quantum.record import Answer, Problem, Refused, Remaining, Solution, SolveRequest
from schemas.solver import Reason
from schemas.wording import Shown, must_be

MAX_BITS: Final = 24
# Of so many solutions that rounding alone tells apart, the lowest is sought term by term.
_COMPARED: Final = 256
# Multiplications of a block: few enough that its energies stay in a core's cache, and that BLAS wakes no other cores.
_BLOCK: Final = 400_000
_RIGHT_BITS: Final = 11

Halves = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Both ends of a problem's spectrum: its first optimal solution, E_min, E_max, and how many of all solutions are optimal,
    up to `rounding`."""

    solution: Solution
    minimum: float
    maximum: float
    optimal: int
    states: int
    rounding: float

    def is_optimal(self, energies: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which energies are the minimum, up to rounding."""
        close: NDArray[np.bool_] = energies <= self.minimum + self.rounding
        return close


def spectrum(problem: Problem, remaining_s: Remaining = lambda: math.inf) -> Spectrum:
    """Enumerate all solutions; `Refused` when they are too many (2^24 spins, 4 million levels) or time runs out."""
    if (refused := size_refusal(problem)) is not None:
        raise refused
    left, right = spin_halves(problem) if isinstance(problem, IsingProblem) else level_halves(problem)
    rows = max(1, _BLOCK // right.size)
    starts = range(0, len(left), rows)
    lows, highs = [], []
    for block in blocks(left, right, starts, rows):
        lows.append(float(block.min()))
        highs.append(float(block.max()))
        if remaining_s() <= 0:
            raise Refused(Reason.DEADLINE_INSUFFICIENT, f"{len(lows)} of {len(starts)} blocks of solutions enumerated")
    near = rounding(problem)
    again = [start for start, low in zip(starts, lows, strict=True) if low <= min(lows) + near]
    optimal, at, energies = 0, np.zeros(0, np.int64), np.zeros(0)
    for start, block in zip(again, blocks(left, right, again, rows), strict=True):
        hits = np.flatnonzero(block <= min(lows) + near)
        optimal += len(hits)
        at, energies = np.append(at, start * right.shape[1] + hits), np.append(energies, block[hits])
        kept = np.union1d(np.argsort(energies, kind="stable")[:_COMPARED], [0])  # the first one too: it wins a tie
        at, energies = at[kept], energies[kept]
    if np.ptp(energies) == 0.0:  # as of whole numbers, which no sum rounds
        at = at[:1]
    candidates = solutions_at(problem, at)
    solution = candidates[lowest(problem, candidates)]
    return Spectrum(solution, problem.energy(solution), max(highs), optimal, len(left) * right.shape[1], near)


def blocks(
    left: NDArray[np.float64], right: NDArray[np.float64], starts: Iterable[int], rows: int
) -> Iterator[NDArray[np.float64]]:
    """Products of `rows` rows of `left`, from each start, with `right`, flat; each overwrites the one before."""
    buffer = np.empty((rows, right.shape[1]))
    for start in starts:
        part = left[start : start + rows]
        yield np.matmul(part, right, out=buffer[: len(part)]).reshape(-1)


def spin_halves(problem: IsingProblem) -> Halves:
    """Matrices [2^a, b + 2] and [b + 2, 2^b] whose product are the energies of all spins, in index order."""
    split = max(problem.n // 2, problem.n - _RIGHT_BITS)
    a, b = basis_spins(split), basis_spins(problem.n - split)
    low = problem.energies_of(slice(0, split), a) + problem.offset
    high = problem.energies_of(slice(split, problem.n), b)
    cross = a @ problem.J[:split, split:]
    return np.column_stack((cross, low, np.ones(len(a)))), np.vstack((b.T, np.ones(len(b)), high))


def level_halves(problem: OneHotProblem) -> Halves:
    """Matrices [A, K + 2] and [K + 2, B] whose product are the energies of all levels, in index order; K levels at the right."""
    sizes, m = problem.sizes, len(problem.sizes)
    split = min(range(m), key=lambda at: sum(sizes[at:]) * (math.prod(sizes[:at]) + math.prod(sizes[at:])))
    a, b = all_levels(sizes[:split]), all_levels(sizes[split:])
    firsts = np.cumsum((0, *sizes[split:]))
    cross, chosen = np.zeros((len(a), firsts[-1])), np.zeros((firsts[-1], len(b)))
    low, high = np.full(len(a), problem.offset), np.zeros(len(b))
    for i, costs in enumerate(problem.unary):
        if i < split:
            low += costs[a[:, i]]
        else:
            high += costs[b[:, i - split]]
            chosen[firsts[i - split] + b[:, i - split], np.arange(len(b))] = 1
    for (i, j), pair in problem.pair.items():
        if j < split:
            low += pair[a[:, i], a[:, j]]
        elif i >= split:
            high += pair[b[:, i - split], b[:, j - split]]
        else:
            cross[:, firsts[j - split] : firsts[j - split + 1]] += pair[a[:, i]]
    return np.column_stack((cross, low, np.ones(len(a)))), np.vstack((chosen, np.ones(len(b)), high))


def all_levels(sizes: Sequence[int]) -> NDArray[np.int64]:
    """All solutions [states, m] over variables of these sizes, the first variable changing slowest."""
    index, levels = np.arange(math.prod(sizes), dtype=np.int64), []
    for size in reversed(sizes):
        index, level = np.divmod(index, size)
        levels.append(level)
    return np.stack(levels[::-1], 1) if levels else np.zeros((1, 0), np.int64)


def solutions_at(problem: Problem, indices: NDArray[np.int64]) -> Solution:
    """The solutions [S, n] of these indices [S]."""
    if isinstance(problem, IsingProblem):
        return spins_of(indices, problem.n)
    levels = []
    for size in reversed(problem.sizes):  # there may be more of them than an array has axes
        indices, level = np.divmod(indices, size)
        levels.append(level)
    return np.stack(levels[::-1], 1)


def size_refusal(problem: Problem) -> Refused | None:
    """Whether the problem has more solutions than are enumerated."""
    if isinstance(problem, IsingProblem):
        if problem.n > MAX_BITS:
            return Refused(Reason.TOO_LARGE, must_be("n", f"at most {MAX_BITS} spins", problem.n))
    elif problem.states > MAX_STATES:
        return Refused(Reason.TOO_LARGE, must_be("sizes", f"of at most {MAX_STATES} states", Shown(states_text(problem))))
    return None


@dataclass(frozen=True)
class Exact:
    """The optimum, proven by enumeration; of equal ones the first. What rounding may tell apart is compared term by term."""

    name: str = "exact"
    path: Literal["classical"] = "classical"

    def refusal(self, request: SolveRequest) -> Refused | None:
        return size_refusal(request.problem)

    def estimate_ms(self, request: SolveRequest) -> float:
        problem = request.problem
        if isinstance(problem, IsingProblem):
            return 0.1 + 2.0 ** (problem.n - 18)  # twice of what a quiet core of 2024 takes
        return 0.1 + problem.states * 4e-5

    def run(self, request: SolveRequest, remaining_s: Remaining) -> Answer:
        found = spectrum(request.problem, remaining_s)
        return Answer(found.solution, found.minimum, "search", optimum=found.minimum)


EXACT: Final = Exact()
