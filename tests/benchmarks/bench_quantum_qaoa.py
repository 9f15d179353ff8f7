"""Simulated QAOA on one thread: an expectation's time next to PennyLane's, fixed angles next to exact search."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import networkx as nx
import numpy as np

from qstream.quantum.classical.exact import EXACT
from qstream.quantum.ising import IsingProblem
from qstream.quantum.qaoa.batch import solve_batch
from qstream.quantum.qaoa.gradient import expectation_gradient
from qstream.quantum.qaoa.measure import distributions
from qstream.quantum.qaoa.schedule import tree
from qstream.quantum.qaoa.solver import QAOA
from qstream.quantum.qaoa.statevector import Statevector, unlimited
from qstream.quantum.record import SolveRequest

Row = tuple[str, float, str, str]

INSTANCES = 15
SHOTS = 256


def rows() -> list[Row]:
    """Expectations, solves and batches; medians of wall time, means over instances."""
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 - comes with the extra that this measures

    with threadpool_limits(1):
        return [*expectation_rows(), *pennylane_rows(), *solve_rows(), *batch_rows()]


def expectation_rows() -> list[Row]:
    found: list[Row] = []
    for n, target, repeats in ((12, "<= 0.6", 41), (16, "<= 6", 21), (20, "<= 90", 7)):
        problem = dense(n, 0)
        circuit, angles = Statevector([problem]), tree(2, problem.sigma())
        wall, cpu = median_ms(partial(expectation, circuit, angles), repeats)
        prepared, _ = median_ms(partial(prepared_expectation, problem, angles), repeats)
        found += [
            (f"expectation, p = 2, {n} qubits, float32", wall, "ms", target),
            ("  CPU time", cpu, "ms", target),
            ("  with its preparation", prepared, "ms", "-"),
        ]
        if n < 20:
            gradient, _ = median_ms(partial(expectation_gradient, circuit, *angles), repeats)
            found.append(("  expectation and gradient", gradient, "ms", "-"))
    return found


def pennylane_rows() -> list[Row]:
    """The same expectation by a QNode on lightning.qubit, one gate a term; both in turn, so that load hits both."""
    found: list[Row] = []
    for n, repeats in ((12, 15), (16, 7)):
        problem = dense(n, 0)
        circuit, angles = Statevector([problem]), tree(2, problem.sigma())
        qnode = lightning_qnode(problem, angles)
        difference = abs(qnode() - expectation(circuit, angles)) / problem.sigma()
        script = lightning_script(problem, angles)
        assert abs(script() - qnode()) < 1e-9 * problem.sigma()
        calls = (qnode, script, partial(expectation, circuit, angles))
        costs = np.median([[cost_ms(call) for call in calls] for _ in range(repeats)], axis=0)
        (their_wall, their_cpu), (_, bare_cpu), (our_wall, our_cpu) = costs
        found += [
            (f"lightning QNode, p = 2, {n} qubits", their_wall, "ms", "-"),
            ("  its time over ours", their_wall / our_wall, "", ">= 7"),
            ("  its CPU time over ours", their_cpu / our_cpu, "", ">= 7"),
            ("  difference of the expectations, in sigma", difference, "", "<= 0.0001"),
            ("  CPU time of its prebuilt circuit's probabilities, over ours", bare_cpu / our_cpu, "", "-"),
        ]
    return found


def solve_rows() -> list[Row]:
    """Mean P(opt) and share of instances whose optimum is among the samples, before any descent."""
    kinds: tuple[tuple[str, Callable[[int, int], IsingProblem]], ...] = (("SK", sk), ("SK with fields", dense), ("cubic", cubic))
    found: list[Row] = []
    for n, p, time_target, p_targets, hit_target in (
        (12, 32, "<= 20", {"SK": ">= 0.45", "cubic": ">= 0.70"}, "-"),
        (16, 16, "<= 80", {"SK": ">= 0.12", "cubic": ">= 0.35"}, ">= 0.95"),
    ):
        for kind, make in kinds:
            problems = [make(n, seed) for seed in range(INSTANCES)]
            for schedule in ("ramp", "auto"):
                p_opt, hit, wall, cpu = solved(problems, schedule, p)
                ours = schedule == "ramp"
                found += [
                    (f"{kind}, {n} qubits, {schedule}, p = {p}: P(opt)", p_opt, "", p_targets.get(kind, "-") if ours else "-"),
                    (f"  optimum among {SHOTS} samples", hit, "", hit_target if ours else "-"),
                    ("  whole solve", wall, "ms", time_target),
                    ("  whole solve, CPU time", cpu, "ms", time_target),
                ]
        exact, _ = median_ms(partial(EXACT.run, SolveRequest(problems[0]), unlimited), 9)
        found.append((f"exact search of the same, {n} spins", exact, "ms", "-"))
    return found


def batch_rows() -> list[Row]:
    found: list[Row] = []
    for n in (6, 8, 10):
        problems = [dense(n, seed) for seed in range(64)]
        wall, _ = median_ms(partial(solve_batch, problems, p=5, shots=SHOTS), 9)
        found.append((f"64 problems of {n} qubits in one call, p = 5: each", wall / len(problems), "ms", "-"))
    return found


def sk(n: int, seed: int) -> IsingProblem:
    return IsingProblem(n, np.triu(np.random.default_rng(seed).normal(size=(n, n)), 1))


def dense(n: int, seed: int) -> IsingProblem:
    return IsingProblem(n, sk(n, seed).J, np.random.default_rng([seed, 1]).normal(size=n))


def cubic(n: int, seed: int) -> IsingProblem:
    return IsingProblem(n, np.triu(nx.to_numpy_array(nx.random_regular_graph(3, n, seed=seed)), 1))


def expectation(circuit: Statevector, angles: tuple[np.ndarray, np.ndarray]) -> float:
    circuit.reset()
    circuit.evolve(*angles)
    return distributions(circuit)[0].expectation


def prepared_expectation(problem: IsingProblem, angles: tuple[np.ndarray, np.ndarray]) -> float:
    return expectation(Statevector([problem]), angles)


def lightning_qnode(problem: IsingProblem, angles: tuple[np.ndarray, np.ndarray]) -> Callable[[], float]:
    """The whole call of a QNode, as a user writes it; its Hamiltonian is built before."""
    import pennylane as qml  # noqa: PLC0415 - an extra

    energy = hamiltonian(problem)

    @qml.qnode(qml.device("lightning.qubit", wires=problem.n), diff_method=None)
    def circuit() -> Any:
        gates(problem, angles)
        return qml.expval(energy)

    return lambda: float(circuit())


def lightning_script(problem: IsingProblem, angles: tuple[np.ndarray, np.ndarray]) -> Callable[[], float]:
    """The fastest way round: a circuit built and prepared before, whose probabilities meet the energies of all states."""
    import pennylane as qml  # noqa: PLC0415 - an extra

    device = qml.device("lightning.qubit", wires=problem.n)
    program, config = device.preprocess()
    script = qml.tape.QuantumScript(gates(problem, angles), [qml.probs(wires=range(problem.n))])
    scripts, _ = program([script])
    energies = problem.diagonal()
    return lambda: float(device.execute(scripts, config)[0] @ energies)


def gates(problem: IsingProblem, angles: tuple[np.ndarray, np.ndarray]) -> list[Any]:
    """H on all, then for each layer one gate a term and RX on all; a QNode queues them."""
    import pennylane as qml  # noqa: PLC0415 - an extra

    made = [qml.Hadamard(i) for i in range(problem.n)]
    for gamma, beta in zip(*angles, strict=True):
        made += [qml.IsingZZ(2 * gamma * problem.J[i, j], (i, j)) for i, j in np.argwhere(problem.J).tolist()]
        made += [qml.RZ(2 * gamma * problem.h[i], i) for i in range(problem.n)]
        made += [qml.RX(2 * beta, i) for i in range(problem.n)]
    return made


def hamiltonian(problem: IsingProblem) -> Any:
    import pennylane as qml  # noqa: PLC0415 - an extra

    pairs = np.argwhere(problem.J).tolist()
    terms = [qml.Z(i) @ qml.Z(j) for i, j in pairs] + [qml.Z(i) for i in range(problem.n)]
    return qml.Hamiltonian([*problem.J[problem.J != 0], *problem.h], terms)


def solved(problems: list[IsingProblem], schedule: Any, p: int) -> tuple[float, float, float, float]:
    """Mean P(opt), share of instances whose optimum is among the samples, and medians of wall and CPU time in ms."""
    p_opt, hits, costs = [], [], []
    for seed, problem in enumerate(problems):
        request = SolveRequest(problem, seed=seed, shots=SHOTS, p=p, schedule=schedule)
        costs.append(cost_ms(partial(QAOA.run, request, unlimited)))
        answer = QAOA.run(request, unlimited)
        assert answer.energies is not None
        assert answer.optimum is not None
        p_opt.append(answer.p_opt or 0.0)
        hits.append(bool(answer.energies.min() <= answer.optimum + 1e-9 * problem.sigma()))
    wall, cpu = np.median(costs, axis=0)
    return statistics.mean(p_opt), statistics.mean(hits), wall, cpu


def median_ms(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Medians of wall and CPU time."""
    wall, cpu = np.median([cost_ms(call) for _ in range(repeats)], axis=0)
    return float(wall), float(cpu)


def cost_ms(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU time of one call; they differ where other processes have the core."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)
