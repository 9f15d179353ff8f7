"""The solver ``qaoa``: spins by QAOA on a simulated state, its best samples descended by single flips; on the CPU."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.classical.greedy import polish
from qstream.quantum.compare import is_lower
from qstream.quantum.ising import IsingProblem, spins_of
from qstream.quantum.qaoa.cost import CostModel, calibrate
from qstream.quantum.qaoa.diagonals import MAX_QUBITS
from qstream.quantum.qaoa.measure import Distribution, distributions
from qstream.quantum.qaoa.optimize import MAX_EVALUATIONS, optimised
from qstream.quantum.qaoa.schedule import MAX_TREE_P, angles
from qstream.quantum.qaoa.statevector import Statevector, unlimited
from qstream.quantum.record import Answer, Control, ProducedBy, Refused, Remaining, SolveRequest, spin_problem
from schemas.solver import Reason
from schemas.wording import must_be

MOST_P: Final = 32
OPTIMIZED_P: Final = 3
POLISHED: Final = 16
# A gradient costs three circuits.
_OPTIMIZE_WORK: Final = 3 * MAX_EVALUATIONS + 1
_KEPT_STATES: Final = 1 << 26  # half a gigabyte


@dataclass(frozen=True)
class Qaoa:
    """QAOA at fixed angles, as deep as the deadline allows; with the schedule ``optimize`` the angles are sought first.

    A warm start begins, and mixes, around its solution, of which each spin is kept with probability 3/4.
    """

    name: str = "qaoa"
    path: Literal["quantum"] = "quantum"

    def refusal(self, request: SolveRequest) -> Refused | None:
        problem = request.problem
        if not isinstance(problem, IsingProblem):
            return Refused(Reason.UNSUPPORTED, "the problem has one-hot variables, this solver takes spins")
        if request.noise is not None or request.device is not None:
            return Refused(Reason.UNSUPPORTED, "this solver simulates without noise, and on no device")
        if request.schedule == "optimize" and request.warm_start is not None:
            return Refused(Reason.UNSUPPORTED, "schedule is 'optimize', a warm start has fixed angles")
        if request.schedule == "tree" and request.p is not None and request.p > MAX_TREE_P:
            return Refused(Reason.UNSUPPORTED, f"p is {request.p}, tree angles are kept up to {MAX_TREE_P}")
        if problem.n > MAX_QUBITS:
            return Refused(Reason.TOO_LARGE, must_be("n", f"at most {MAX_QUBITS} spins for a simulated state", problem.n))
        if request.schedule == "optimize" and (kept := (request.p or OPTIMIZED_P) << problem.n) > _KEPT_STATES:
            return Refused(
                Reason.TOO_LARGE, must_be("p", f"so small that a gradient keeps at most {_KEPT_STATES} amplitudes", kept)
            )
        return None

    def estimate_ms(self, request: SolveRequest) -> float:
        return 1e3 * calibrated().estimate_s(state_qubits(request), (request.p or 1) * work(request))

    def run(self, request: SolveRequest, remaining_s: Remaining) -> Answer:
        if (refused := self.refusal(request)) is not None:
            raise refused
        problem, p = spin_problem(request), layers(request, remaining_s)
        circuit = Statevector([problem], start=request.warm_start)
        before = None if request.warm_start is None else distributions(circuit)[0]
        gammas, betas, schedule = angles(request, p)
        if request.schedule == "optimize":
            gammas, betas = optimised(circuit, (gammas, betas), problem.sigma(), remaining_s)
            circuit.reset()
            schedule = "optimize"
        circuit.evolve(gammas, betas, remaining_s)
        return measured(request, distributions(circuit)[0], p, schedule, before)


QAOA: Final = Qaoa()


def layers(request: SolveRequest, remaining_s: Remaining) -> int:
    """The depth that is asked for, or the deepest useful one that fits; `Refused` if it does not fit."""
    deepest = {"tree": MAX_TREE_P, "optimize": OPTIMIZED_P}.get(request.schedule, MOST_P)
    if math.isinf(remaining_s()):
        return request.p or deepest
    model, qubits = calibrated(), state_qubits(request)
    if request.p is None:
        return model.fitting_layers(qubits, remaining_s(), deepest, work(request))
    model.fitting_layers(qubits, remaining_s(), 1, request.p * work(request))
    return request.p


def work(request: SolveRequest) -> int:
    """How many layers must be simulated for each layer of the circuit."""
    return _OPTIMIZE_WORK if request.schedule == "optimize" else 1


def state_qubits(request: SolveRequest) -> int:
    """Qubits that are simulated: without fields one spin is held."""
    problem = spin_problem(request)
    return problem.n - (problem.n > 1 and request.warm_start is None and not np.any(problem.h))


def measured(request: SolveRequest, found: Distribution, p: int, schedule: str, before: Distribution | None = None) -> Answer:
    """Sample, descend from the best, and record the figures of the state; `before` is a warm start's, at p = 0."""
    problem = spin_problem(request)
    rng = np.random.default_rng(request.seed)
    states, counts = found.sample(request.shots, rng)
    samples = spins_of(states, problem.n)
    energies = problem.energies(samples)
    best, produced_by = descended(problem, samples, energies)
    chance = control(found, request.shots, rng) if before is None else control_around(before, request.shots, rng)
    return Answer(
        best,
        problem.energy(best),
        produced_by,
        execution="simulated-statevector",
        samples=samples,
        energies=energies,
        counts=counts,
        shots=request.shots,
        p=p,
        n_2q=p * int(np.count_nonzero(problem.J)),
        schedule=schedule,
        expectation=found.expectation,
        p_opt=found.p_opt,
        optimum=found.optimum,
        control=chance,
    )


def descended(
    problem: IsingProblem, samples: NDArray[np.int8], energies: NDArray[np.float64]
) -> tuple[NDArray[np.int8], ProducedBy]:
    """The best sample, or what the best 16 descend to where that is lower."""
    order = np.argsort(energies, kind="stable")[:POLISHED]
    lower = polish(problem, samples[order])
    reached = problem.energies(lower)
    at = int(reached.argmin())
    if is_lower(problem, lower[at], samples[order[0]]):
        return lower[at], "polish"
    return samples[order[0]], "sample"


def control(found: Distribution, shots: int, rng: np.random.Generator) -> Control:
    """Uniformly random solutions in place of the circuit's samples."""
    energies = found.offset + found.energies[rng.integers(0, found.energies.size, shots)]
    return Control(float(energies.min()), float(energies.mean()), found.random_p_opt)


def control_around(before: Distribution, shots: int, rng: np.random.Generator) -> Control:
    """A warm start's own samples in place of the circuit's; mean and probability of the optimum are exact."""
    states, _ = before.sample(shots, rng)
    return Control(before.offset + float(before.energies[states].min()), before.expectation, before.p_opt)


@cache
def calibrated() -> CostModel:
    """The cost of this solver on this machine, measured once a process, at the first request."""
    return calibrate(lambda problem: QAOA.run(SolveRequest(problem, p=1), unlimited), time.perf_counter)
