"""Discrete simulated bifurcation: spins as signs of nonlinear oscillators, one matrix product a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.classical.greedy import one_flip_descent
from qstream.quantum.ising import IsingProblem
from qstream.quantum.record import Answer, Reason, Refused, Remaining, SolveRequest

REPLICAS: Final = 32
STEPS: Final = 200
_STEP_S: Final = 1.25  # length of a step in the oscillators' own time
_RESERVE_S: Final = 0.0005


def bifurcate(
    problem: IsingProblem, replicas: int, steps: int, rng: np.random.Generator, remaining_s: Remaining
) -> NDArray[np.int8]:
    """Signs int8 [replicas, n] of the oscillators at the end, or when no time remains.

    Source: Goto et al., High-performance combinatorial optimization based on classical mechanics, Sci. Adv. 7 (2021),
    discrete variant: symplectic Euler, inelastic walls at |x| = 1.
    """
    couplings = problem.symmetric()
    unit = problem.sigma()
    force = 0.5 / unit if unit > 0 else 0.0  # c0 = 0.5 / (sigma_J sqrt(n)): sigma is the root of a sum over neighbours
    x = rng.uniform(-0.1, 0.1, (replicas, problem.n))
    y = rng.uniform(-0.1, 0.1, (replicas, problem.n))
    for step in range(steps):
        pump = step / steps
        y -= _STEP_S * ((1 - pump) * x + force * (np.sign(x) @ couplings + problem.h))
        x += _STEP_S * y
        y[np.abs(x) > 1] = 0
        np.clip(x, -1, 1, out=x)
        if remaining_s() <= _RESERVE_S:
            break
    return np.where(x < 0, -1, 1).astype(np.int8)


@dataclass(frozen=True)
class Bifurcation:
    """Discrete simulated bifurcation of spins; every replica ends in a descent."""

    name: str = "dsb"
    path: Literal["classical"] = "classical"

    def refusal(self, request: SolveRequest) -> Refused | None:
        if not isinstance(request.problem, IsingProblem):
            return Refused(Reason.UNSUPPORTED, "a one-hot problem, allowed are spins")
        return None

    def estimate_ms(self, request: SolveRequest) -> float:
        n = request.problem.n if isinstance(request.problem, IsingProblem) else math.inf
        return STEPS * (0.02 + REPLICAS * n * (n + 50) * 1e-6 / 10)

    def run(self, request: SolveRequest, remaining_s: Remaining) -> Answer:
        problem = request.problem
        if not isinstance(problem, IsingProblem):
            raise Refused(Reason.UNSUPPORTED, "a one-hot problem, allowed are spins")
        rng = np.random.default_rng([request.seed, 3])
        starts = bifurcate(problem, REPLICAS, STEPS, rng, remaining_s)
        if request.warm_start is not None:
            starts[0] = request.warm_start
        found = one_flip_descent(problem.symmetric(), problem.h, starts, remaining_s)
        energies = problem.energies(found)
        at = int(energies.argmin())
        return Answer(found[at], float(energies[at]), "search")


BIFURCATION: Final = Bifurcation()
