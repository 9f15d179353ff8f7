"""A PennyLane device as a solver: the problem's QAOA circuit at fixed angles, its samples, the best of them descended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.classical.greedy import descend, stacked_refusal
from qstream.quantum.devices.circuits import Circuit, Samples, circuit_of, feasible_levels
from qstream.quantum.devices.pool import DEFAULT_POOL, DevicePool, DeviceSpec
from qstream.quantum.devices.sample import sample
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.qaoa.schedule import MAX_TREE_P
from qstream.quantum.qaoa.schedule import angles as spin_angles
from qstream.quantum.qaoa.subspace_solver import QAOA_XY
from qstream.quantum.record import Answer, Problem, ProducedBy, Refused, Remaining, Solution, SolveRequest
from schemas.solver import DEVICE, Reason
from schemas.wording import must_be

Sampler = Callable[[Circuit, Remaining], Samples]
POLISHED: Final = 16
# Layers that gain more than their noise costs on today's machines, and that transferred angles serve.
DEFAULT_P: Final = 3
NOISY_P: Final = 2
# Milliseconds of a gate, and of a gate on one amplitude, by simulator; measured on a busy core, as is the circuit's own cost.
_COSTS_MS: Final = {"lightning.": (0.02, 3e-7), "default.mixed": (0.9, 3.2e-4), "": (0.1, 2e-5)}
_CIRCUIT_MS: Final = 1.0


@dataclass(frozen=True, eq=False)
class DeviceSolver:
    """The solver ``device:NAME``: `sampler` measures the circuits, in this process or in another.

    A warm start is refused. No circuit has more shots than the pool allows the device: the record's `shots` says how many it had.
    """

    spec: DeviceSpec
    sampler: Sampler
    path: Literal["quantum"] = "quantum"

    @property
    def name(self) -> str:
        return DEVICE + self.spec.name

    def refusal(self, request: SolveRequest) -> Refused | None:
        spec, problem = self.spec, request.problem
        if request.noise and not spec.takes_noise:
            return Refused(Reason.UNSUPPORTED, f"noise is {request.noise}, which only density matrices take")
        if request.warm_start is not None:
            return Refused(Reason.UNSUPPORTED, "a warm start needs a circuit of its own, a device's starts uniform")
        if request.schedule == "optimize":
            return Refused(Reason.UNSUPPORTED, "schedule is 'optimize', a device runs fixed angles")
        if request.schedule == "tree" and (isinstance(problem, OneHotProblem) or (request.p or 1) > MAX_TREE_P):
            return Refused(Reason.UNSUPPORTED, f"schedule is 'tree', which has angles of spins and of 1 to {MAX_TREE_P} layers")
        if (wires := wires_of(problem)) > spec.max_wires:
            return Refused(Reason.TOO_LARGE, must_be("the problem", f"of at most {spec.max_wires} qubits on {spec.name}", wires))
        return stacked_refusal(problem)

    def estimate_ms(self, request: SolveRequest) -> float:
        return self._estimate_ms(request, request.p or 1)

    def run(self, request: SolveRequest, remaining_s: Remaining) -> Answer:
        problem = request.problem
        execution = self.spec.execution(request.noise)
        p = request.p or self._fitting_layers(request, 1e3 * remaining_s())
        gammas, betas, schedule = angles(request, p)
        circuit = circuit_of(problem, gammas, betas, min(request.shots, self.spec.shots), request.seed, request.noise)
        found, counts = solutions_of(problem, self.sampler(circuit, remaining_s))
        energies = problem.energies(found)
        order = np.argsort(energies, kind="stable")
        best: Solution = found[order[0]]
        produced_by: ProducedBy = "sample"
        polished = descend(problem, found[order[:POLISHED]], remaining_s)
        lowest = polished[problem.energies(polished).argmin()]
        if problem.energy(lowest) < problem.energy(best):
            best, produced_by = lowest, "polish"
        return Answer(
            best,
            problem.energy(best),
            produced_by,
            execution=execution,
            engine=self.spec.pennylane,
            samples=found,
            energies=energies,
            counts=counts,
            shots=circuit.shots,
            p=p,
            n_2q=circuit.two_qubit_gates,
            schedule=schedule,
        )

    def _fitting_layers(self, request: SolveRequest, left_ms: float) -> int:
        noisy = not self.spec.simulates or self.spec.execution(request.noise) == "simulated-noisy"
        most = NOISY_P if noisy else DEFAULT_P
        return next((p for p in range(most, 1, -1) if self._estimate_ms(request, p) <= left_ms / 2), 1)

    def _estimate_ms(self, request: SolveRequest, p: int) -> float:
        """0 of a machine that is not simulated: its own times tell, which its slots measure."""
        if not self.spec.simulates:
            return 0.0
        gate_ms, amplitude_ms = next(cost for family, cost in _COSTS_MS.items() if self.spec.pennylane.startswith(family))
        n = wires_of(request.problem)
        amplitudes = 4.0**n if self.spec.takes_noise else 2.0**n
        return _CIRCUIT_MS + (n + p * gates_of(request.problem)) * (gate_ms + amplitudes * amplitude_ms)


def device_solver(name: str, pool: DevicePool = DEFAULT_POOL) -> DeviceSolver:
    """The solver of a device that runs in this process, where nothing ends it: for experiments and tests.

    Raises
    ------
    Refused
        The pool has no device of that name.
    """
    spec = pool.device(name.removeprefix(DEVICE))
    return DeviceSolver(spec, lambda circuit, _: sample(spec, circuit))


def wires_of(problem: Problem) -> int:
    """Qubits: one a spin, or one a level."""
    return problem.n if isinstance(problem, IsingProblem) else sum(problem.sizes)


def gates_of(problem: Problem) -> int:
    """About how many gates a layer has."""
    if isinstance(problem, IsingProblem):
        return int(np.count_nonzero(problem.J) + np.count_nonzero(problem.h)) + problem.n
    return sum(costs.size for costs in problem.pair.values()) + 5 * sum(problem.sizes)


def solutions_of(problem: Problem, samples: Samples) -> tuple[Solution, NDArray[np.int64]]:
    """Samples as solutions of the problem, with their counts; of one-hot problems the feasible ones."""
    if isinstance(problem, IsingProblem):
        return samples.spins, samples.counts
    levels, counts = feasible_levels(samples, problem.sizes)
    if not len(levels):
        raise Refused(Reason.INVALID_OUTPUT, "no sample chooses one level of each variable")
    return levels, counts


def angles(request: SolveRequest, p: int) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    """Gammas [p], betas [p] or [p, m], and the name of their schedule: those of the simulated solvers."""
    if isinstance(request.problem, OneHotProblem):
        return *QAOA_XY.angles(request.problem, p), "ramp"
    return spin_angles(request, p)
