"""Quantum, constrained and closed-form: subspaces, windows of fixed weight, recursion, noise, walks, with their controls."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Iterable
from functools import partial

import networkx as nx
import numpy as np
import scipy.linalg

from qstream.quantum import noise, walk
from qstream.quantum.classical.anneal import ANNEAL
from qstream.quantum.classical.exact import spectrum
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.qaoa.analytic import best_angles, correlators
from qstream.quantum.qaoa.fixed_weight import solve_fixed_weight, weight_energies
from qstream.quantum.qaoa.rqaoa import RQAOA
from qstream.quantum.qaoa.subspace_solver import QAOA_XY
from qstream.quantum.record import SolveRequest
from tests.benchmarks.clock import median_ms

Row = tuple[str, float, str, str]

_INSTANCES = 12
_WINDOWS = 60


def rows() -> list[Row]:
    """Medians of wall time on one thread, means over instances."""
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 - comes with the extra that this measures

    with threadpool_limits(1):
        return [*onehot_rows(), *window_rows(), *prior_rows(), *recursion_rows(), *noise_rows(), *walk_rows()]


def onehot_rows() -> list[Row]:
    """Random Gaussian one-hot problems; every state that the circuit can give is feasible."""
    found: list[Row] = []
    for m, k, p in ((4, 3, 5), (6, 4, 5), (6, 4, 10)):
        problems = [gaussian_onehot(seed, m, k) for seed in range(_INSTANCES)]
        answers = [QAOA_XY.run(SolveRequest(problem, p=p), unlimited) for problem in problems]
        request = SolveRequest(problems[0], p=p)
        spent = median_ms(partial(QAOA_XY.run, request, unlimited))
        feasible = [np.all((a.samples >= 0) & (a.samples < k)) for a in answers if a.samples is not None]
        name = f"one-hot {m} x {k}, p = {p}, 256 shots"
        timed = (m, p) == (6, 5)
        found += [
            (name, spent, "ms", "<= 10" if timed else "-"),
            ("  feasible samples", float(np.mean(feasible)), "", "1"),
            ("  probability of the optimum", _mean(a.p_opt for a in answers), "", "-"),
            ("  control: probability of the optimum at p = 0", _mean(a.control.p_opt for a in answers if a.control), "", "-"),
            ("  optimum among raw samples", _mean(float(_hit(a.energies.min(), a.optimum)) for a in answers), "", "-"),
        ]
    return found


def window_rows() -> list[Row]:
    """Share of the exact gain over a random incumbent that the best of 32 samples captures, half the spins at -1, p = 2."""
    found: list[Row] = []
    for n, target in ((8, ">= 0.97"), (10, ">= 0.95"), (12, ">= 0.85"), (14, "-")):
        gains, cold, controls, seconds = [], [], [], []
        for seed in range(_WINDOWS):
            problem = gaussian_ising(seed, n)
            warm = np.random.default_rng(seed).permutation(np.repeat([1, -1], n // 2)).astype(np.int8)
            before = problem.energy(warm)
            start = time.perf_counter()
            answer = solve_fixed_weight(problem, n // 2, p=2, shots=32, seed=seed, warm_start=warm)
            seconds.append(time.perf_counter() - start)
            if _hit(before, answer.optimum):
                continue
            uniform = solve_fixed_weight(problem, n // 2, p=2, shots=32, seed=seed)
            for into, energy in ((gains, answer.energy), (cold, uniform.energy), (controls, answer.control.best_energy)):
                into.append(max(0.0, before - energy) / (before - answer.optimum))
        found += [
            (f"window of {n} spins, p = 2, 32 shots: gain captured", _mean(gains), "of exact", target),
            ("  from the uniform start", _mean(cold), "of exact", "-"),
            ("  control: 32 shots of the warm start, p = 0", _mean(controls), "of exact", "-"),
            ("  time", 1e3 * statistics.median(seconds), "ms", "-"),
        ]
    return found


def prior_rows() -> list[Row]:
    """Three of 24 spins (2,024 states), and the largest subspace, from the uniform start and from a prior that knows half."""
    found: list[Row] = []
    for mixer in ("xy", "grover"):
        for known in (False, True):
            reached, before = [], []
            for seed in range(_INSTANCES):
                problem = gaussian_ising(seed, 24)
                answer = solve_fixed_weight(
                    problem, 3, p=2, shots=64, seed=seed, mixer=mixer, prior=noisy_prior(problem, 3, seed) if known else None
                )
                reached.append(answer.p_opt)
                before.append(answer.control.p_opt)
            start = "a prior" if known else "the uniform start"
            found += [
                (f"3 of 24 spins by {mixer} from {start}, p = 2: P(opt)", _mean(reached), "", "-"),
                ("  control: the start", _mean(before), "", "-"),
            ]
        largest = gaussian_ising(0, 16)
        spent = median_ms(partial(solve_fixed_weight, largest, 8, p=2, shots=64, seed=0, mixer=mixer), 5)
        found.append((f"8 of 16 spins (12,870 states) by {mixer}, p = 2: time", spent, "ms", "-"))
    return found


def noisy_prior(problem: IsingProblem, weight: int, seed: int) -> np.ndarray:
    """Boltzmann probabilities of energies with as much noise as they have spread."""
    energies = weight_energies(problem, weight)
    noisy = energies / energies.std() + np.random.default_rng([seed, 1]).normal(size=len(energies))
    return np.exp(-noisy)


def recursion_rows() -> list[Row]:
    """RQAOA against the optimum (n = 16) or simulated annealing (above): (E_max - E) / (E_max - E_min) or E / E_annealed."""
    found: list[Row] = []
    for name, make in (("Gaussian", gaussian_ising), ("3-regular", regular_ising)):
        for n in (16, 32, 64):
            ratios, seconds = [], []
            for seed in range(_INSTANCES if n < 64 else 4):
                problem = make(seed, n)
                start = time.perf_counter()
                energy = RQAOA.run(SolveRequest(problem), unlimited).energy
                seconds.append(time.perf_counter() - start)
                if n == 16:
                    ends = spectrum(problem)
                    ratios.append((ends.maximum - energy) / (ends.maximum - ends.minimum))
                else:
                    ratios.append(energy / ANNEAL.run(SolveRequest(problem), unlimited).energy)
            against = "ratio to the optimum" if n == 16 else "energy over annealing's"
            found += [
                (f"rqaoa, {name} n = {n}: {against}", _mean(ratios), "", ">= 0.97" if n == 16 else "-"),
                ("  time", 1e3 * statistics.median(seconds), "ms", "-"),
            ]
    large = gaussian_ising(0, 64)
    means = median_ms(lambda: correlators(large, 0.06, -0.4))
    return [
        *found,
        ("closed form p = 1, all 2,016 correlators of 64 spins", means, "ms", "-"),
        ("  best angles", median_ms(lambda: best_angles(large), 3), "ms", "-"),
    ]


def noise_rows() -> list[Row]:
    """The model calibrated on 4 to 6 qubits, against exact channels on 8."""
    model = noise.calibrate()
    errors, naive = [], []
    for seed, p_gate in itertools.product(range(2), (0.002, 0.01)):
        problem = gaussian_ising(seed, 8)
        gammas, betas = [0.25 * 0.75 / problem.sigma(), 0.75 * 0.75 / problem.sigma()], [-0.65 * 0.75, -0.65 * 0.25]
        energies = problem.diagonal()
        ideal = float(noise.noisy_probabilities(problem, gammas, betas, 0.0) @ energies)
        noisy = float(noise.noisy_probabilities(problem, gammas, betas, p_gate) @ energies)
        touches = noise.touches(problem, 2)
        errors.append(abs(ideal * model.energy_fidelity(p_gate, touches, 8) - noisy) / abs(ideal))
        naive.append(abs(ideal * (1 - p_gate) ** touches - noisy) / abs(ideal))
    return [
        ("noise model, 8 qubits p = 2: error of the energy", _mean(errors), "relative", "<= 0.03"),
        ("  from the product of all gates' fidelities", _mean(naive), "relative", "-"),
        ("  calibration", median_ms(noise.calibrate, 3), "ms", "-"),
    ]


def walk_rows() -> list[Row]:
    return [row for n in (64, 256) for row in graph_rows(n, walk.laplacian(nx.random_regular_graph(4, n, seed=0)))]


def graph_rows(n: int, generator: np.ndarray) -> list[Row]:
    times = np.linspace(0, 5, 16)
    walk.spectrum(generator)
    return [
        (f"walk on {n} nodes, 16 times, one source", median_ms(lambda: walk.probabilities(generator, times, 0)), "ms", "-"),
        ("  whole propagator", median_ms(lambda: walk.propagator(generator, 1.0)), "ms", "-"),
        ("  eigendecomposition, once a graph", median_ms(lambda: np.linalg.eigh(generator), 5), "ms", "-"),
        ("  rival: scipy's expm", median_ms(lambda: scipy.linalg.expm(-1j * generator), 3), "ms", "-"),
    ]


def gaussian_onehot(seed: int, m: int, k: int) -> OneHotProblem:
    rng = np.random.default_rng(seed)
    pairs = {(i, j): rng.normal(size=(k, k)) for i, j in itertools.combinations(range(m), 2)}
    return OneHotProblem((k,) * m, tuple(rng.normal(size=(m, k))), pairs)


def gaussian_ising(seed: int, n: int) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n))


def regular_ising(seed: int, n: int) -> IsingProblem:
    graph = nx.random_regular_graph(3, n, seed=seed)
    return IsingProblem(n, np.triu(nx.to_numpy_array(graph, nodelist=range(n)), 1))


def unlimited() -> float:
    return math.inf


def _hit(energy: float, optimum: float) -> bool:
    return energy <= optimum + 1e-9 * max(1.0, abs(optimum))


def _mean(values: Iterable[float | None]) -> float:
    return statistics.mean(float(value) for value in values if value is not None)
