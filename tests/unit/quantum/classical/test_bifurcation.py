"""Simulated bifurcation finds optima that enumeration proves, repeats itself by seed, and keeps its deadline."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qstream.quantum.classical.bifurcation import BIFURCATION, bifurcate
from qstream.quantum.classical.exact import spectrum
from qstream.quantum.classical.greedy import random_solutions
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.record import Refused, SolveRequest
from schemas.solver import Reason


def glass(n: int, seed: int) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n), 1.0)


def forever() -> float:
    return math.inf


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_the_optimum_of_small_problems(seed):
    problem = glass(16, seed)
    answer = BIFURCATION.run(SolveRequest(problem, seed=seed), forever)
    assert answer.energy == pytest.approx(spectrum(problem).minimum)
    assert problem.energy(answer.solution) == pytest.approx(answer.energy)


def test_fields_alone_are_followed_and_a_flat_problem_is_no_fault():
    fields = np.array([3.0, -2.0, 0.5])
    answer = BIFURCATION.run(SolveRequest(IsingProblem(3, np.zeros((3, 3)), fields)), forever)
    assert answer.solution.tolist() == [-1, 1, -1]
    assert BIFURCATION.run(SolveRequest(IsingProblem(2, np.zeros((2, 2)))), forever).energy == 0


def test_the_oscillators_alone_are_far_better_than_random_spins():
    problem = glass(64, 1)
    rng = np.random.default_rng(0)
    found = problem.energies(bifurcate(problem, 32, 200, rng, forever))
    random = problem.energies(random_solutions(problem, 1000, rng))
    assert found.mean() < random.min()


def test_the_same_seed_gives_the_same_bytes():
    first, second = (BIFURCATION.run(SolveRequest(glass(40, 1), seed=9), forever) for _ in range(2))
    assert first.solution.tobytes() == second.solution.tobytes()


def test_without_time_it_still_answers():
    problem = glass(60, 0)
    answer = BIFURCATION.run(SolveRequest(problem), lambda: 0.0)
    assert answer.energy == pytest.approx(problem.energy(answer.solution))


def test_levels_are_refused():
    request = SolveRequest(OneHotProblem((3, 3)))
    refused = BIFURCATION.refusal(request)
    assert refused is not None
    assert refused.reason is Reason.UNSUPPORTED
    with pytest.raises(Refused, match="unsupported"):
        BIFURCATION.run(request, forever)
