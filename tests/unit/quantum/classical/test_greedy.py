"""Descents end in local minima, never go up, and a warm start counts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qstream.quantum.classical.greedy import GREEDY, one_flip_descent, polish, polish_levels, stacked_refusal
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.record import SolveRequest
from schemas.solver import Reason


def glass(n: int, seed: int) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n), 0.5)


def costs(sizes: tuple[int, ...], seed: int) -> OneHotProblem:
    rng = np.random.default_rng(seed)
    pair = {(i, j): rng.normal(size=(sizes[i], sizes[j])) for i in range(len(sizes)) for j in range(i + 1, len(sizes))}
    return OneHotProblem(sizes, tuple(rng.normal(size=k) for k in sizes), pair)


@pytest.mark.parametrize("n", [1, 2, 9, 64])
def test_no_single_flip_improves_a_polished_solution_and_none_got_worse(n):
    problem = glass(n, n)
    starts = np.where(np.random.default_rng(1).random((20, n)) < 0.5, -1, 1).astype(np.int8)
    found = polish(problem, starts)
    assert found.dtype == np.int8
    assert found.shape == starts.shape
    before, after = problem.energies(starts), problem.energies(found)
    assert np.all(after <= before + 1e-12)
    for i in range(n):
        flipped = found.copy()
        flipped[:, i] *= -1
        assert np.all(problem.energies(flipped) >= after - 1e-9)


def test_no_single_change_of_a_level_improves_a_polished_solution():
    problem = costs((3, 1, 4, 2, 5), 3)
    rng = np.random.default_rng(0)
    starts = rng.integers(0, problem.sizes, (20, 5))
    found = polish_levels(problem, starts)
    after = problem.energies(found)
    assert np.all(after <= problem.energies(starts) + 1e-12)
    for i, k in enumerate(problem.sizes):
        for level in range(k):
            moved = found.copy()
            moved[:, i] = level
            assert np.all(problem.energies(moved) >= after - 1e-9)


def test_a_flat_problem_is_left_as_it_is():
    spins = np.array([[1, -1, 1]], np.int8)
    assert np.array_equal(polish(IsingProblem(3, np.zeros((3, 3))), spins), spins)


def test_no_solutions_give_no_solutions():
    assert polish(glass(3, 0), np.zeros((0, 3), np.int8)).shape == (0, 3)


def test_a_descent_without_time_stops_early_with_a_solution():
    problem = glass(200, 0)
    spins = np.ones((4, 200), np.int8)
    hurried = one_flip_descent(problem.symmetric(), problem.h, spins, lambda: 0.0)
    assert np.isin(hurried, (-1, 1)).all()
    assert 0 < np.sum(hurried != spins) < np.sum(polish(problem, spins) != spins)


def test_the_solver_repeats_itself_and_starts_from_the_warm_start():
    problem = glass(12, 5)
    optimum = problem.diagonal().argmin()
    best = (1 - 2 * (optimum >> np.arange(11, -1, -1) & 1)).astype(np.int8)
    request = SolveRequest(problem, seed=3, warm_start=best)
    answer = GREEDY.run(request, lambda: math.inf)
    assert np.array_equal(answer.solution, best)
    assert answer.energy == pytest.approx(problem.diagonal().min())
    again = GREEDY.run(request, lambda: math.inf)
    assert again.solution.tobytes() == answer.solution.tobytes()


def test_a_problem_too_large_for_a_descent_is_still_answered_each_variable_after_those_before_it():
    rising = np.arange(1024.0)
    problem = OneHotProblem((1024,) * 5, (rising,) * 5, {(0, 3): -2 * np.outer(rising == 0, rising == 9)})
    answer = GREEDY.run(SolveRequest(problem), lambda: math.inf)
    assert answer.solution.tolist() == [0] * 5
    stronger = OneHotProblem((1024,) * 5, (rising,) * 5, {(0, 3): -20 * np.outer(rising == 0, rising == 9)})
    assert GREEDY.run(SolveRequest(stronger), lambda: math.inf).solution.tolist() == [0, 0, 0, 9, 0]


def test_only_annealing_and_descent_need_the_cost_matrix():
    refused = stacked_refusal(OneHotProblem((1024,) * 5))
    assert refused is not None
    assert refused.reason is Reason.TOO_LARGE
    assert stacked_refusal(OneHotProblem((1024,) * 4)) is None
