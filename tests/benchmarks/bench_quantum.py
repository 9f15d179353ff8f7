"""Quantum's classical side: exact search, annealing and bifurcation; other parts have files ``bench_quantum_<part>.py``."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from qstream.quantum.classical.exact import spectrum
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.planted import planted_torus
from qstream.quantum.record import SolveRequest
from qstream.quantum.solvers import find_solver, solve, warm

Row = tuple[str, float, str, str]

_IMPORT = """
import time
start = time.process_time()
import qstream.quantum
print(time.process_time() - start)
"""
_SEEDS = range(10)


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none); times are medians of wall and of CPU time."""
    warm()
    return [*exact_rows(), *search_rows(), *solve_rows(), import_row()]


def exact_rows() -> list[Row]:
    found: list[Row] = []
    for n, target in ((16, "<= 2"), (20, "<= 60"), (22, "<= 200"), (24, "-")):
        problem = glass(n, n)
        wall_ms, cpu_ms = times_ms(lambda problem=problem: spectrum(problem))  # type: ignore[misc]
        found += [(f"exact search, {n} spins", wall_ms, "ms", target), ("  CPU time", cpu_ms, "ms", target)]
    problem = glass(20, 20)
    equal = spectrum(problem).minimum - float(problem.diagonal().min())
    levels = OneHotProblem((4,) * 10, pair={(i, i + 1): np.random.default_rng(i).normal(size=(4, 4)) for i in range(9)})
    wall_ms, cpu_ms = times_ms(lambda: spectrum(levels))
    return [
        *found,
        ("  20 spins, difference to the whole diagonal", abs(equal), "", "<= 0.000000001"),
        ("exact search, 10 variables of 4 levels", wall_ms, "ms", "-"),
        ("  CPU time", cpu_ms, "ms", "-"),
    ]


def search_rows() -> list[Row]:
    """Time, and the share of seeds that reach the best known energy: of a glass that all of them found, of a planted torus."""
    found: list[Row] = []
    torus, ground = planted_torus(8, np.random.default_rng(0))
    dense = glass(64, 0)
    best = min(find_solver("sa").run(SolveRequest(dense, seed=100 + seed), forever).energy for seed in _SEEDS)
    for name in ("greedy", "sa", "dsb"):
        solver = find_solver(name)
        for what, problem, least in (("64 spins, dense glass", dense, best), ("64 spins, planted torus", torus, ground)):
            wall_ms, cpu_ms = times_ms(lambda problem=problem, solver=solver: solver.run(SolveRequest(problem), forever))  # type: ignore[misc]
            reached = [solver.run(SolveRequest(problem, seed=seed), forever).energy for seed in _SEEDS]
            hits = statistics.mean(energy <= least + 1e-9 * abs(least) for energy in reached)
            found += [
                (f"{name}, {what}", wall_ms, "ms", "-"),
                ("  CPU time", cpu_ms, "ms", "-"),
                ("  hit", hits, "of seeds", "-"),
            ]
    return found


def solve_rows() -> list[Row]:
    """A whole solve with its record: greedy, the solver, its twin and the optimum."""
    found: list[Row] = []
    problem = glass(12, 12)
    for name in ("exact", "sa", "qaoa"):
        wall_ms, cpu_ms = times_ms(lambda name=name: solve(problem, name, deadline_s=0.05))  # type: ignore[misc]
        found += [(f"solve by {name}, 12 spins, 50 ms", wall_ms, "ms", "<= 50"), ("  CPU time", cpu_ms, "ms", "-")]
    return found


def import_row() -> Row:
    done = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True)
    return ("import qstream.quantum, CPU time", 1e3 * float(done.stdout), "ms", "<= 150")


def glass(n: int, seed: int) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n))


def forever() -> float:
    return math.inf


def times_ms(call: Callable[[], object], repeats: int = 9) -> tuple[float, float]:
    """Medians of wall and CPU time."""
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(1e3 * (time.perf_counter() - wall))
        cpus.append(1e3 * (time.process_time() - cpu))
    return statistics.median(walls), statistics.median(cpus)
