"""Exact search equals brute force, counts what is optimal, and refuses what it cannot finish."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from qstream.quantum.classical.exact import EXACT, spectrum
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.record import Refused, SolveRequest
from schemas.solver import Reason


def glass(n: int, seed: int) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n), rng.normal())


def brute_force(problem: IsingProblem) -> dict[tuple[int, ...], float]:
    """Energies by the definition, term by term."""
    energies = {}
    for s in itertools.product((1, -1), repeat=problem.n):
        energy = problem.offset
        for i in range(problem.n):
            energy += problem.h[i] * s[i]
            for j in range(i + 1, problem.n):
                energy += problem.J[i, j] * s[i] * s[j]
        energies[s] = energy
    return energies


@pytest.mark.parametrize("n", range(1, 11))
def test_the_optimum_of_spins_is_that_of_brute_force(n):
    problem = glass(n, n)
    energies = brute_force(problem)
    found = spectrum(problem)
    best = min(energies, key=energies.__getitem__)
    assert tuple(found.solution) == best
    assert found.solution.dtype == np.int8
    assert found.minimum == pytest.approx(energies[best])
    assert found.maximum == pytest.approx(max(energies.values()))
    assert (found.optimal, found.states) == (1, 2**n)


@pytest.mark.parametrize("n", [17, 18, 20])
def test_many_blocks_give_what_the_whole_diagonal_gives(n):
    problem = glass(n, n)
    diagonal = problem.diagonal()
    found = spectrum(problem)
    assert problem.energy(found.solution) == pytest.approx(diagonal.min())
    assert found.maximum == pytest.approx(diagonal.max())


def test_of_more_equal_optima_than_are_compared_the_first_is_the_answer():
    found = spectrum(IsingProblem(12, np.triu(np.full((12, 12), 1 / 7), 1)))  # no sum of sevenths is exact
    assert (found.optimal, found.solution.tolist()) == (924, [1] * 6 + [-1] * 6)
    levels = OneHotProblem((7,) * 4, pair={(i, j): np.full((7, 7), 1 / 7) for i in range(4) for j in range(i + 1, 4)})
    found = spectrum(levels)
    assert (found.optimal, found.solution.tolist()) == (7**4, [0] * 4)


@pytest.mark.parametrize("n", [3, 12, 18])
def test_a_ring_of_ferromagnets_has_two_optima_and_the_first_is_all_up(n):
    couplings = np.zeros((n, n))
    for i in range(n):
        couplings[min(i, (i + 1) % n), max(i, (i + 1) % n)] = -1
    found = spectrum(IsingProblem(n, couplings))
    assert (found.minimum, found.optimal) == (-n, 2)
    assert np.all(found.solution == 1)


def test_of_a_flat_problem_every_solution_is_optimal():
    found = spectrum(IsingProblem(5, np.zeros((5, 5)), offset=2.5))
    assert (found.minimum, found.maximum, found.optimal) == (2.5, 2.5, 32)


@pytest.mark.parametrize("sizes", [(1,), (7,), (2, 3), (3, 1, 4), (2, 2, 2, 2, 2), (5, 4, 3, 2), (1, 1, 1), (60, 1024, 63)])
def test_the_optimum_of_levels_is_that_of_brute_force(sizes):
    rng = np.random.default_rng(len(sizes))
    couples = [couple for couple in itertools.combinations(range(len(sizes)), 2) if rng.random() < 0.8]
    pair = {(i, j): rng.normal(size=(sizes[i], sizes[j])) for i, j in couples}
    problem = OneHotProblem(sizes, tuple(rng.normal(size=k) for k in sizes), pair, 0.25)
    found = spectrum(problem)
    diagonal = problem.diagonal()
    assert tuple(found.solution) == np.unravel_index(diagonal.argmin(), sizes)
    assert found.minimum == pytest.approx(diagonal.min())
    assert found.maximum == pytest.approx(diagonal.max())
    assert found.states == math.prod(sizes)


def test_one_level_energy_is_the_sum_of_its_terms():
    problem = OneHotProblem((2, 2), (np.array([0.0, 1]), np.array([0.0, 5])), {(0, 1): np.array([[9.0, 0], [0, 0]])}, 1)
    found = spectrum(problem)  # energies 10, 6, 2, 7
    assert found.solution.tolist() == [1, 0]
    assert (found.minimum, found.maximum, found.optimal) == (2, 10, 1)


def test_more_variables_than_numpy_has_axes_are_no_obstacle():
    sizes = (1,) * 100 + (3, 2)
    problem = OneHotProblem(sizes, tuple(-np.arange(k, dtype=float) for k in sizes))
    assert spectrum(problem).solution.tolist() == [0] * 100 + [2, 1]


@pytest.mark.parametrize(
    "problem", [IsingProblem(25, np.zeros((25, 25))), OneHotProblem((1000, 1000, 5))], ids=["spins", "levels"]
)
def test_too_large_problems_are_refused_before_anything_is_enumerated(problem):
    refused = EXACT.refusal(SolveRequest(problem))
    assert refused is not None
    assert refused.reason is Reason.TOO_LARGE
    with pytest.raises(Refused, match="too_large"):
        spectrum(problem)


def test_a_search_that_runs_out_of_time_proves_nothing():
    with pytest.raises(Refused, match="deadline_insufficient"):
        spectrum(glass(20, 0), lambda: 0.0)
