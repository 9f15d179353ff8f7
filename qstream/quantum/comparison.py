"""Solvers side by side on small problems whose optimum is known: time, ratio, probability of the optimum, hits."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import networkx as nx
import numpy as np

from qstream.quantum.attempt import Clock
from qstream.quantum.classical.exact import Spectrum, spectrum
from qstream.quantum.classical.greedy import random_solutions
from qstream.quantum.convert import from_networkx
from qstream.quantum.ising import IsingProblem
from qstream.quantum.record import Answer, Schedule, SolveRequest
from qstream.quantum.solvers import find_solver

RANDOM: Final = "random"
# What is compared: a solver, its layers and its schedule of angles.
METHODS: Final[tuple[tuple[str, int | None, Schedule], ...]] = (
    ("exact", None, "auto"),
    (RANDOM, None, "auto"),
    ("greedy", None, "auto"),
    ("sa", None, "auto"),
    ("dsb", None, "auto"),
    ("qaoa", 1, "tree"),
    ("qaoa", 3, "tree"),
    ("qaoa", 5, "tree"),
    ("qaoa", 8, "ramp"),
    ("qaoa", 16, "ramp"),
    ("qaoa", 32, "ramp"),
    ("rqaoa", 1, "auto"),
)


@dataclass(frozen=True)
class Row:
    """Means of one method over the instances of one family; `ms` is the median wall time.

    `ratio` is ``(E_max - E) / (E_max - E_min)``: of the mean of the samples, or of the one answer of a classical method.
    `hit` is the share of instances whose optimum was among the samples, before any descent, or was the answer.
    """

    family: str
    n: int
    method: str
    quantum: bool
    ms: float
    ratio: float
    p_opt: float | None
    hit: float


def glass(n: int, rng: np.random.Generator) -> IsingProblem:
    """Sherrington-Kirkpatrick spin glass with fields: all couplings and fields standard normal."""
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n))


def cubic_maxcut(n: int, rng: np.random.Generator) -> IsingProblem:
    """MaxCut of a random 3-regular graph."""
    return from_networkx(nx.random_regular_graph(3, n, seed=int(rng.integers(2**31))))


def partition(n: int, rng: np.random.Generator) -> IsingProblem:
    """Number partitioning: the energy is the square of the difference of the two sums of uniform numbers."""
    numbers = rng.random(n)
    return IsingProblem(n, np.triu(2 * np.outer(numbers, numbers), 1), offset=float(numbers @ numbers))


FAMILIES: Final[Mapping[str, Callable[[int, np.random.Generator], IsingProblem]]] = {
    "spin glass": glass,
    "3-regular MaxCut": cubic_maxcut,
    "number partition": partition,
}


def compare(n: int, instances: int, seed: int, shots: int, clock: Clock) -> list[Row]:
    """Every method on the same instances of every family, each with all its work."""
    rows = []
    for number, (family, build) in enumerate(FAMILIES.items()):
        rng = np.random.default_rng([seed, n, number])
        problems = [build(n, rng) for _ in range(instances)]
        ends = [spectrum(problem) for problem in problems]
        rows += [
            _row(family, method, problems, ends, SolveRequest(problems[0], seed=seed, shots=shots), clock) for method in METHODS
        ]
    return rows


def _row(
    family: str,
    method: tuple[str, int | None, Schedule],
    problems: list[IsingProblem],
    ends: list[Spectrum],
    terms: SolveRequest,
    clock: Clock,
) -> Row:
    name, p, schedule = method
    times, ratios, chances, hits = [], [], [], []
    for number, (problem, found) in enumerate(zip(problems, ends, strict=True)):
        request = SolveRequest(problem, seed=terms.seed + number, shots=terms.shots, p=p, schedule=schedule)
        start = clock()
        answer = _random(request) if name == RANDOM else find_solver(name).run(request, lambda: math.inf)
        times.append(1e3 * (clock() - start))
        energies = np.array([answer.energy]) if answer.energies is None else answer.energies
        mean = float(energies.mean()) if answer.expectation is None else answer.expectation
        ratios.append((found.maximum - mean) / (found.maximum - found.minimum))
        chances.append(found.optimal / found.states if name == RANDOM else answer.p_opt)
        hits.append(bool(found.is_optimal(energies).any()))
    known = [chance for chance in chances if chance is not None]
    label = name if p is None else f"{name} p={p} {schedule}" if name == "qaoa" else f"{name} p={p}"
    return Row(
        family,
        problems[0].n,
        label,
        "qaoa" in name,
        statistics.median(times),
        statistics.mean(ratios),
        statistics.mean(known) if known else None,
        statistics.mean(hits),
    )


def _random(request: SolveRequest) -> Answer:
    """Uniformly random solutions, as many as the circuits are sampled."""
    drawn = random_solutions(request.problem, request.shots, np.random.default_rng([request.seed, 4]))
    energies = request.problem.energies(drawn)
    at = int(energies.argmin())
    return Answer(drawn[at], float(energies[at]), "sample", energies=energies)


def verdict(rows: list[Row]) -> str:
    """What the rows say about speed, in one sentence, and what they cannot change, in another."""
    exact = {(row.family, row.n): row.ms for row in rows if row.method == "exact"}
    quantum = [row for row in rows if row.quantum]
    slower = [row.ms / exact[row.family, row.n] for row in quantum]
    faster = sum(factor < 1 for factor in slower)
    return (
        f"Of {len(quantum)} rows of simulated quantum methods {faster} are faster than exact search, which proves the optimum; "
        f"they take {min(slower):.1f} to {max(slower):.0f} times as long. A simulated circuit needs the energies of all states, "
        "and the lowest of them is the answer: at sizes that can be simulated, quantum is never worth it for speed. It is for "
        "circuits that will run on a machine, for research, and for diversity next to other solvers."
    )
