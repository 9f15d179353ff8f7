"""D-Wave's simulated annealing in C++ (dwave-samplers), as the solver ``dwave-sa``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from dwave.samplers import SimulatedAnnealingSampler

from qstream.quantum.classical.greedy import polish
from qstream.quantum.ising import IsingProblem
from qstream.quantum.record import Answer, Refused, Remaining, SolveRequest, no_spins, spin_problem

READS: Final = 20
SWEEPS: Final = 100
_UPDATE_MS: Final = 5e-6  # of one spin, a coupling
_START_MS: Final = 2.0


@dataclass(frozen=True)
class DWaveAnnealing:
    """Twenty reads of a hundred sweeps, each ended by a descent. A run cannot be cut short, so it must fit the time left."""

    name: str = "dwave-sa"
    path: Literal["classical"] = "classical"

    def refusal(self, request: SolveRequest) -> Refused | None:
        return None if isinstance(request.problem, IsingProblem) else no_spins()

    def estimate_ms(self, request: SolveRequest) -> float:
        problem = request.problem
        couplings = np.count_nonzero(problem.J) if isinstance(problem, IsingProblem) else 0
        return _START_MS + READS * SWEEPS * _UPDATE_MS * float(couplings)

    def run(self, request: SolveRequest, remaining_s: Remaining) -> Answer:
        problem = spin_problem(request)
        pairs = np.argwhere(problem.J)
        couplings = {(int(i), int(j)): float(problem.J[i, j]) for i, j in pairs}
        found = SimulatedAnnealingSampler().sample_ising(
            dict(enumerate(problem.h.tolist())), couplings, num_reads=READS, num_sweeps=SWEEPS, seed=request.seed % 2**31
        )
        order = np.argsort(list(found.variables))
        spins = polish(problem, np.ascontiguousarray(found.record.sample[:, order], np.int8))
        energies = problem.energies(spins)
        best = int(np.argmin(energies))
        return Answer(spins[best], float(energies[best]), "search")


DWAVE_ANNEALING: Final = DWaveAnnealing()
