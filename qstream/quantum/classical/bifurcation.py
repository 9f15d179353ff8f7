"""Discrete simulated bifurcation: spins as signs of nonlinear oscillators, one matrix product a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.classical.greedy import best_descended, finish_s, replicas, setup_s
from qstream.quantum.ising import IsingProblem
from qstream.quantum.record import Answer, Refused, Remaining, SolveRequest, no_spins, spin_problem

STEPS: Final = 200
_STEP_S: Final = 1.25  # length of a step in the oscillators' own time


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
        if remaining_s() <= 0:
            break
    return np.where(x < 0, -1, 1).astype(np.int8)


@dataclass(frozen=True)
class Bifurcation:
    """Discrete simulated bifurcation of spins; every replica ends in a descent."""

    name: str = "dsb"
    path: Literal["classical"] = "classical"

    def refusal(self, request: SolveRequest) -> Refused | None:
        return None if isinstance(request.problem, IsingProblem) else no_spins()

    def estimate_ms(self, request: SolveRequest) -> float:
        problem = request.problem
        if not isinstance(problem, IsingProblem):
            return math.inf
        step_ms = 0.02 + replicas(problem) * problem.n * (problem.n + 50) * 1e-7
        return STEPS * step_ms + 1e3 * (setup_s(problem) + finish_s(problem, replicas(problem)))

    def run(self, request: SolveRequest, remaining_s: Remaining) -> Answer:
        problem = spin_problem(request)
        needed_s = finish_s(problem, replicas(problem))

        def left_s() -> float:
            return remaining_s() - needed_s

        starts = bifurcate(problem, replicas(problem), STEPS, np.random.default_rng([request.seed, 3]), left_s)
        if request.warm_start is not None:
            starts[0] = request.warm_start
        best, energy = best_descended(problem, starts, left_s)
        return Answer(best, energy, "search")


BIFURCATION: Final = Bifurcation()
