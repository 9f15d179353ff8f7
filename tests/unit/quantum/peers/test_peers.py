"""Solvers of other packages: found by entry points, right by enumeration, refused where they do not fit."""

import itertools

import numpy as np
import pytest

from qstream.quantum import IsingProblem, OneHotProblem, SolveRequest, solve
from qstream.quantum.solvers import find_solver, solver_names
from schemas.solver import Reason

PEERS = pytest.mark.parametrize("name", ["dwave-sa", "cp-sat"])


def glass(n: int, seed: int) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n), offset=0.5)


def lowest(problem: IsingProblem) -> float:
    return min(problem.energy(np.array(spins)) for spins in itertools.product((1, -1), repeat=problem.n))


@PEERS
def test_a_peer_is_a_name_like_the_others_and_finds_the_optimum(name):
    assert name in solver_names()
    for seed in range(4):
        problem = glass(9, seed)
        found = find_solver(name).run(SolveRequest(problem, seed=seed), lambda: float("inf"))
        assert found.energy == pytest.approx(lowest(problem), abs=1e-9)
        assert found.energy == pytest.approx(problem.energy(found.solution), abs=1e-12)


@PEERS
def test_a_peer_answers_a_solve_and_repeats_itself(name):
    problem = glass(12, 5)
    first, second = (solve(problem, name, seed=3) for _ in range(2))
    assert first.meta.fallback is None
    assert first.meta.label == "classical"
    assert name in [arm.solver for arm in first.meta.tried]
    assert first.solution.tobytes() == second.solution.tobytes()


def test_cp_sat_knows_that_it_has_proven_the_optimum():
    problem = glass(10, 1)
    found = find_solver("cp-sat").run(SolveRequest(problem), lambda: float("inf"))
    assert found.optimum == found.energy


def test_cp_sat_without_time_is_refused_and_another_solver_answers():
    result = solve(glass(20, 1), "cp-sat", deadline_s=0.01)
    assert result.meta.fallback is not None
    assert result.meta.fallback.reason in (Reason.DEADLINE_INSUFFICIENT, Reason.NOT_READY)


@PEERS
def test_a_problem_that_a_peer_cannot_take_is_answered_by_another(name):
    result = solve(OneHotProblem((3, 3)), name)
    assert result.meta.fallback is not None
    assert result.meta.fallback.reason is Reason.UNSUPPORTED
    if name == "cp-sat":
        assert solve(IsingProblem(65, np.zeros((65, 65))), name).meta.fallback.reason is Reason.TOO_LARGE


@PEERS
def test_a_problem_without_any_couplings_is_no_special_case(name):
    assert solve(IsingProblem(3, np.zeros((3, 3)), np.array([1.0, -2.0, 0.0])), name).energy == -3
