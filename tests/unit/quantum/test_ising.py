"""What reads all couplings of a large problem does so part by part, stops in time, and keeps what it made."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.quantum.classical.anneal import ANNEAL
from qstream.quantum.classical.greedy import GREEDY, constructed
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.record import SolveRequest


def glass(n: int, seed: int = 0) -> IsingProblem:
    rng = np.random.default_rng([n, seed])
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n), 2.0)


@pytest.mark.parametrize("n", [1, 7, 128, 129, 300])
def test_the_symmetric_matrix_is_the_couplings_and_their_transpose(n):
    problem = glass(n)
    assert np.array_equal(problem.symmetric(), problem.J + problem.J.T)
    assert problem.symmetric() is problem.symmetric()
    with pytest.raises(ValueError, match="read-only"):
        problem.symmetric()[0, 0] = 1


def test_without_time_there_is_no_symmetric_matrix_and_it_is_asked_for_between_parts():
    problem, asked = glass(600), []

    def left() -> float:
        asked.append(1)
        return 3.0 - len(asked)

    assert problem.symmetric_in(left) is None
    assert len(asked) == 3
    assert np.array_equal(problem.symmetric_in(lambda: math.inf), problem.J + problem.J.T)


def test_magnitude_adds_up_the_sizes_of_all_terms():
    problem = glass(200)
    assert problem.magnitude() == pytest.approx(2.0 + np.abs(problem.J).sum() + np.abs(problem.h).sum())
    levels = OneHotProblem((2, 2), (np.array([1.0, -3]), np.zeros(2)), {(0, 1): np.array([[0.0, 1], [-5, 2]])}, -1.0)
    assert levels.magnitude() == 1 + 3 + 0 + 5


def test_each_spin_is_set_against_the_field_of_those_before_it():
    problem = glass(9)
    spins = constructed(problem)
    for i in range(9):
        assert spins[i] == (-1 if problem.h[i] + spins[:i] @ problem.J[:i, i] > 0 else 1)


@pytest.mark.parametrize("solver", [GREEDY, ANNEAL])
def test_a_hurried_answer_is_a_solution_made_without_the_symmetric_matrix(solver):
    problem = glass(700)
    answer = solver.run(SolveRequest(problem), lambda: 0.0)
    assert np.isin(answer.solution, (-1, 1)).all()
    assert answer.energy == pytest.approx(problem.energy(answer.solution))
    assert problem.symmetric_in(lambda: 0.0) is None


def test_half_a_construction_is_better_than_chance():
    problem = glass(512)
    left = iter([1.0, 1.0, 1.0, 1.0, 0.0])
    half = problem.energy(constructed(problem, lambda: next(left)))
    random = problem.energies(1 - 2 * np.random.default_rng(0).integers(0, 2, (200, 512)))
    assert problem.energy(constructed(problem)) < half < random.mean()


def test_levels_are_built_with_and_without_time():
    rng = np.random.default_rng(0)
    pair = {(i, j): rng.normal(size=(3, 3)) for i in range(20) for j in range(i + 1, 20)}
    problem = OneHotProblem((3,) * 20, tuple(rng.normal(size=3) for _ in range(20)), pair)
    levels = constructed(problem)
    for i in range(20):
        costs = problem.unary[i] + sum((pair[j, i][levels[j]] for j in range(i)), np.zeros(3))
        assert levels[i] == costs.argmin()
    hurried = constructed(problem, lambda: 0.0)
    assert np.all((hurried >= 0) & (hurried < 3))


@pytest.mark.parametrize("labels", [("a", "a"), (1, True), ([], "a"), (1, 2, 3), 7])
def test_labels_are_distinct_hashable_names(labels: Any) -> None:
    with pytest.raises(ProblemError, match=r"^labels "):
        IsingProblem(2, np.zeros((2, 2)), labels=labels)


def test_a_problem_survives_pickling_and_stays_read_only() -> None:
    problem = IsingProblem(3, np.triu(np.arange(9.0).reshape(3, 3), 1), np.ones(3), 2.0, ("a", "b", "c"))
    again = pickle.loads(pickle.dumps(problem))
    assert (again.digest(), again.labels) == (problem.digest(), problem.labels)
    assert not again.J.flags.writeable
    assert not again.h.flags.writeable


def test_sigma_of_tiny_couplings_does_not_vanish() -> None:
    tiny = IsingProblem(2, np.array([[0, 3e-200], [0, 0]]), np.array([4e-200, 4e-200]))
    assert tiny.sigma() == pytest.approx(5e-200)
    assert IsingProblem(2, np.zeros((2, 2))).sigma() == 0
