"""One small problem, such as a window of a larger plan: solved by who is asked, under a deadline, with the record of a plan.

Spins, levels, or spins of which a fixed number is at -1. The first two are `solve`'s; a fixed weight races here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.quantum.ising import IsingProblem
from qstream.quantum.portfolio import Arm, Clock, Step, race, race_record
from qstream.quantum.qaoa.fixed_weight import WeightMixer, solve_fixed_weight, weight_energies, weight_spins
from qstream.quantum.record import (
    Answer,
    Control,
    Problem,
    Refused,
    Remaining,
    Solution,
    SolveRequest,
    SolveResult,
    checked_solution,
    solver_record,
)
from qstream.quantum.solvers import solve
from schemas.solver import DEVICE, Execution, Reason, SolverRecord
from schemas.wording import Shown, must_be

WindowSolver = Literal["exact", "qaoa", "greedy"]
_DEVICE_PRICE: Final = 2.0  # of the squared distance to the weight, in deviations of the energies
_STARTS: Final = 8  # of the exchange descents
_CONTROL: Final = 1
_ROUNDING: Final = 1e-12
_CIRCUITS_SHARE: Final = 0.5  # of the time, before their twin


class Runtime(Protocol):
    """What windows need of `qstream.quantum.runtime.QuantumRuntime`."""

    def solve(self, request: SolveRequest, /, solver: str = ...) -> SolveResult: ...


@dataclass(frozen=True, slots=True, eq=False)
class Circuits:
    """How circuits are run: `layers`, `shots`, the mixer of a fixed weight, `warm` to start around the incumbent, on the named
    `device` of the `runtime` or simulated."""

    layers: int = 2
    shots: int = 256
    mixer: WeightMixer = "xy"
    warm: bool = False
    device: str | None = None
    runtime: Runtime | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    """The best solution and its energy, the record, and why the solver that was asked for did not answer, if it did not.

    `circuits` is how circuits ran, whatever gave the answer, which `record.execution` is of; None where none did.
    """

    solution: Solution
    energy: float
    record: SolverRecord
    fallback_reason: Reason | None
    circuits: Execution | None = None


def solve_window(
    problem: Problem,
    incumbent: Solution,
    solver: WindowSolver = "exact",
    *,
    weight: int | None = None,
    prior: NDArray[np.float64] | None = None,
    circuits: Circuits | None = None,
    seed: int = 0,
    deadline_s: float = math.inf,
    clock: Clock = time.perf_counter,
) -> Solved:
    """Solve a window by enumeration, descents or circuits, and let the incumbent stand where none is lower.

    After circuits a classical search runs as their twin: annealing, or descents by exchanges for a fixed weight.
    The record has the exact optimum where it is known. Without a deadline equal arguments give equal answers.

    Parameters
    ----------
    problem
        Spins, or levels (one-hot).
    incumbent
        A solution, which is returned where nothing is lower.
    weight
        How many spins must be at -1; without one any may be.
    prior : float64 [C(n, weight)], optional
        Probabilities that the circuits of a fixed weight start from, in the order of `fixed_weight.weight_indices`.
    deadline_s
        From the call; a fixed weight counts it by `clock`.

    Raises
    ------
    ProblemError
        The incumbent is not a solution, or the weight has more than 16,384 states.
    """
    terms = circuits or Circuits()
    before = checked_solution("incumbent", problem, incumbent)
    if weight is None:
        return _by_solve(problem, before, solver, terms, seed, deadline_s)
    if not isinstance(problem, IsingProblem):
        raise ProblemError(must_be("problem", "an IsingProblem where a weight is given", Shown(type(problem).__name__)))
    if np.count_nonzero(before < 0) != weight:
        raise ProblemError(must_be("incumbent", f"spins with {weight} at -1", before.tolist()))
    energies = weight_energies(problem, weight)
    ran: list[Answer] = []

    def sampled(_: Solution, __: bool, remaining_s: Remaining) -> Step[Solution]:
        around = before.astype(np.int8) if terms.warm else None
        try:
            answer = sample_fixed_weight(problem, weight, terms, seed, around=around, prior=prior, remaining_s=remaining_s)
        except Refused as refused:
            return Step(None, math.inf, reason=refused.reason)
        ran.append(answer)
        return Step(answer.solution, answer.energy, execution=answer.execution, depth=answer.p, shots=answer.shots)

    arms: dict[WindowSolver, Arm[Solution]] = {
        "exact": Arm("exact", partial(_enumerated, problem, weight, energies)),
        "greedy": Arm("greedy", partial(_exchanged, problem, weight, seed)),
        "qaoa": Arm("qaoa", sampled, _CIRCUITS_SHARE),
    }
    asked = [arms[solver], *([arms["greedy"]] if solver == "qaoa" else [])]
    found = race(before, problem.energy(before), asked, deadline_s=deadline_s, clock=clock)
    record = race_record(
        found,
        SolverRecord(solver="incumbent"),
        seed=seed,
        n=problem.n,
        exact=float(energies.min()),
        control=ran[0].control.best_energy if ran and ran[0].control else None,
        twin=next((tried.step.objective for tried in found.tried if tried.name == "greedy"), None),
    )
    # The twin was not asked for.
    record = record.model_copy(update={"asked": (solver,)})
    return Solved(found.answer, found.objective, record, found.fallback_reason, ran[0].execution if ran else None)


def sample_fixed_weight(
    problem: IsingProblem,
    weight: int,
    circuits: Circuits,
    seed: int,
    *,
    around: NDArray[np.int8] | None = None,
    prior: NDArray[np.float64] | None = None,
    remaining_s: Remaining,
) -> Answer:
    """Samples of a circuit for spins of a fixed weight, from a solution, a prior or uniform: simulated, or of a device.

    Raises
    ------
    Refused
        The device cannot be had, or gives nothing of that weight, or the time ended.
    """
    if circuits.device is not None:
        return _on_device(problem, weight, circuits, seed, remaining_s)
    return solve_fixed_weight(
        problem,
        weight,
        p=circuits.layers,
        shots=circuits.shots,
        seed=seed,
        warm_start=around,
        prior=prior,
        mixer=circuits.mixer,
        remaining_s=remaining_s,
    )


def exchange_descent(
    costs: Callable[[NDArray[np.int8]], NDArray[np.float64]], spins: NDArray[np.int8]
) -> tuple[NDArray[np.int8], float]:
    """Spins [n] after the best exchange of two, again and again while that lowers their cost, and this cost.

    `costs` gives float64 [S] of spins [S, n].
    """
    cost = float(costs(spins[None])[0])
    while True:
        each = exchanges(spins)
        if not len(each) or not (found := costs(each)).min() < cost - _ROUNDING * max(1.0, abs(cost)):
            return spins, cost
        spins, cost = each[found.argmin()], float(found.min())


def exchanges(spins: NDArray[np.int8]) -> NDArray[np.int8]:
    """All spins [X, n] that differ from these [n] by the exchange of two unequal ones."""
    down, up = np.meshgrid(np.flatnonzero(spins > 0), np.flatnonzero(spins < 0))
    each, rows = np.tile(spins, (down.size, 1)), np.arange(down.size)
    each[rows, down.ravel()], each[rows, up.ravel()] = -1, 1
    return each


def _on_device(problem: IsingProblem, weight: int, circuits: Circuits, seed: int, remaining_s: Remaining) -> Answer:
    """Those of the device's samples that have the weight, which its mixer does not keep: a price in the energy does."""
    device = circuits.device
    if circuits.runtime is None:
        raise Refused(Reason.UNAVAILABLE, f"device {device!r} needs a runtime")
    if not (left_s := remaining_s()) > 0:
        raise Refused(Reason.TIMEOUT, "the deadline passed between two windows")
    n, energies = problem.n, weight_energies(problem, weight)
    price, aim = _DEVICE_PRICE * float(energies.std()), n - 2 * weight
    # price (sum_i s_i - aim)^2, without its constant.
    priced = IsingProblem(n, problem.J + np.triu(np.full((n, n), 2.0 * price), 1), problem.h - 2.0 * price * aim)
    request = SolveRequest(priced, deadline_s=left_s, seed=seed, shots=circuits.shots, p=circuits.layers, device=device)
    result = circuits.runtime.solve(request, f"{DEVICE}{device}")
    if result.meta.fallback is not None:
        raise Refused(result.meta.fallback.reason, result.meta.fallback.detail)
    if result.samples is None or result.counts is None:
        raise Refused(Reason.INVALID_OUTPUT, f"{device} gave no samples")
    kept = np.count_nonzero(result.samples < 0, axis=1) == weight
    if not kept.any():
        raise Refused(Reason.INVALID_OUTPUT, f"no sample of {device} has {weight} of {n} spins at -1")
    spins = result.samples[kept].astype(np.int8)
    found, meta = problem.energies(spins), result.meta
    best = int(found.argmin())
    drawn = np.random.default_rng([seed, _CONTROL]).choice(energies, circuits.shots)
    return Answer(
        spins[best],
        float(found[best]),
        "sample",
        execution=meta.execution,
        engine=meta.engine,
        samples=spins,
        energies=found,
        counts=result.counts[kept],
        shots=meta.shots,
        p=meta.p,
        n_2q=meta.n_2q,
        schedule=meta.schedule,
        optimum=float(energies.min()),
        control=Control(float(drawn.min()), float(energies.mean())),
    )


def _enumerated(
    problem: IsingProblem, weight: int, energies: NDArray[np.float64], best: Solution, _: bool, __: Remaining
) -> Step[Solution]:
    lowest = int(energies.argmin())
    return Step(weight_spins(problem.n, weight)[lowest], float(energies[lowest]))


def _exchanged(problem: IsingProblem, weight: int, seed: int, best: Solution, _: bool, remaining_s: Remaining) -> Step[Solution]:
    """Descents by the best exchange of two spins, from the best so far and from random starts."""
    rng = np.random.default_rng([seed, problem.n, weight, 2])
    every = weight_spins(problem.n, weight)
    starts = [best, *every[rng.integers(len(every), size=_STARTS - 1)]]
    found, lowest = best, problem.energy(best)
    for number, start in enumerate(starts):
        if number and remaining_s() <= 0:
            return Step(found, lowest, reason=Reason.TIMEOUT)
        spins, energy = exchange_descent(problem.energies, start.astype(np.int8))
        if energy < lowest:
            found, lowest = spins, energy
    return Step(found, lowest)


def _by_solve(
    problem: Problem, incumbent: Solution, solver: WindowSolver, circuits: Circuits, seed: int, deadline_s: float
) -> Solved:
    """Spins of any weight, and levels, by `solve` or the runtime's."""
    quantum = "qaoa" if isinstance(problem, IsingProblem) else "qaoa-xy"
    name = solver if solver != "qaoa" else f"{DEVICE}{circuits.device}" if circuits.device else quantum
    asked = solver == "qaoa"
    request = SolveRequest(
        problem,
        deadline_s=deadline_s,
        seed=seed,
        shots=circuits.shots,
        p=circuits.layers if asked else None,
        device=circuits.device if asked else None,
        warm_start=incumbent if asked and circuits.warm else None,
        incumbent=incumbent,
    )
    result = (solve if circuits.runtime is None else circuits.runtime.solve)(request, name)
    reason = None if result.meta.fallback is None else result.meta.fallback.reason
    ran = result.meta.execution if asked and result.meta.p is not None else None
    return Solved(result.solution, result.energy, solver_record(result), reason, ran)
