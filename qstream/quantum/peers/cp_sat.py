"""Google's CP-SAT (OR-tools) on the linearised problem, as the solver ``cp-sat``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from ortools.sat.python import cp_model

from qstream.quantum.ising import IsingProblem
from qstream.quantum.record import Answer, Refused, Remaining, SolveRequest, no_spins, spin_problem
from schemas.solver import Reason
from schemas.wording import must_be

MAX_BITS: Final = 64
_STEPS: Final = 1 << 56  # the whole range of energies in the integers that CP-SAT counts in: finer than float64 rounds it
_FIRST_MS: Final = 20.0
_FIXED_WORK: Final = 20.0  # of CP-SAT's deterministic time, where there is no deadline


@dataclass(frozen=True)
class CpSat:
    """Branch and bound over bits and their products; says the optimum if it proves it. One thread, so that it is repeatable."""

    name: str = "cp-sat"
    path: Literal["classical"] = "classical"

    def refusal(self, request: SolveRequest) -> Refused | None:
        problem = request.problem
        if not isinstance(problem, IsingProblem):
            return no_spins()
        if problem.n > MAX_BITS:
            return Refused(Reason.TOO_LARGE, must_be("n", f"at most {MAX_BITS} spins", problem.n))
        return None

    def estimate_ms(self, request: SolveRequest) -> float:
        return _FIRST_MS

    def run(self, request: SolveRequest, remaining_s: Remaining) -> Answer:
        problem = spin_problem(request)
        model, spins = _model(problem)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = request.seed % 2**31
        left_s = remaining_s()
        if left_s == math.inf:
            solver.parameters.max_deterministic_time = _FIXED_WORK
        else:
            solver.parameters.max_time_in_seconds = max(left_s, 1e-3)
        status = solver.solve(model)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            raise Refused(Reason.DEADLINE_INSUFFICIENT, "no solution was found in time")
        solution = np.array([1 - 2 * solver.value(bit) for bit in spins], np.int8)
        energy = problem.energy(solution)
        return Answer(solution, energy, "search", optimum=energy if status == cp_model.OPTIMAL else None)


def _model(problem: IsingProblem) -> tuple[cp_model.CpModel, list[cp_model.IntVar]]:
    """Bits b with s = 1 - 2 b; s_i s_j = 1 - 2 (b_i xor b_j). Weights are rounded to integers of a fine scale."""
    model = cp_model.CpModel()
    bits = [model.new_bool_var(f"b{i}") for i in range(problem.n)]
    total = float(np.abs(problem.J).sum() + np.abs(problem.h).sum())
    scale = _STEPS / total if total > 0 else 1.0
    terms = [-2 * round(scale * field) * bit for field, bit in zip(problem.h.tolist(), bits, strict=True)]
    for i, j in np.argwhere(problem.J):
        differ = model.new_bool_var(f"d{i},{j}")
        model.add_bool_xor([bits[i], bits[j], ~differ])
        terms.append(-2 * round(scale * float(problem.J[i, j])) * differ)
    model.minimize(sum(terms))
    return model, bits


CP_SAT: Final = CpSat()
