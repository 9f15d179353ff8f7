"""Solutions are compared by the terms that differ: a penalty far above the costs hides none of them, and ties stay ties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from qstream.quantum import from_qubo, solve
from qstream.quantum.classical.exact import spectrum
from qstream.quantum.classical.greedy import polish, polish_levels
from qstream.quantum.compare import is_lower, lowest, rounding
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.record import SolveRequest

PENALTIES = [(1e9, 1e-3), (1e6, 1e-6), (1e12, 1.0), (1e12, 0.1)]


def one_of_three(penalty: float, unit: float) -> IsingProblem:
    """Bits of which one may be set, by a penalty; the second is the best by its cost."""
    return from_qubo(np.diag([-1.0, -3.0, -2.0]) * unit + np.triu(np.full((3, 3), penalty), 1))


def colored(penalty: float, unit: float) -> OneHotProblem:
    """Four variables of three levels, any two but the first and the last different by a penalty; costs by level."""
    costs = unit * np.random.default_rng(3).permutation(12).reshape(4, 3)
    pair = {(i, j): penalty * np.eye(3) for i, j in itertools.combinations(range(4), 2) if (i, j) != (0, 3)}
    return OneHotProblem((3, 3, 3, 3), tuple(costs), pair)


@pytest.mark.parametrize(("penalty", "unit"), PENALTIES)
@pytest.mark.parametrize("solver", ["auto", "exact", "greedy", "sa", "dsb", "qaoa", "rqaoa"])
def test_a_penalty_far_above_the_costs_hides_none_of_them(penalty, unit, solver):
    problem = one_of_three(penalty, unit)
    found = solve(problem, solver, seed=1)
    assert found.solution.tolist() == [1, -1, 1]
    assert found.energy == pytest.approx(-3 * unit, abs=rounding(problem))
    assert found.meta.optimum is not None
    assert found.meta.optimum <= found.energy
    assert found.meta.optimum == pytest.approx(found.energy, abs=rounding(problem))


@pytest.mark.parametrize(("penalty", "unit"), PENALTIES)
@pytest.mark.parametrize("solver", ["auto", "exact", "greedy", "sa", "qaoa-xy"])
def test_a_penalty_between_levels_hides_no_cost_of_a_level(penalty, unit, solver):
    problem = colored(penalty, unit)
    costs = {x: sum(problem.unary[i][level] for i, level in enumerate(x)) for x in itertools.product(range(3), repeat=4)}
    allowed = {x: cost for x, cost in costs.items() if all(x[i] != x[j] for i, j in problem.pair)}
    found = solve(problem, solver, seed=1)
    assert tuple(found.solution) == min(allowed, key=allowed.__getitem__)
    assert found.meta.optimum == found.energy


@pytest.mark.parametrize(("penalty", "unit"), PENALTIES)
def test_the_proof_of_another_solver_holds_next_to_a_penalty(penalty, unit):
    peer = pytest.importorskip("qstream.quantum.peers.cp_sat")
    problem = one_of_three(penalty, unit)
    found = peer.CP_SAT.run(SolveRequest(problem), lambda: 600.0)
    assert found.solution.tolist() == [1, -1, 1]
    assert found.optimum == found.energy


def test_descents_reach_costs_that_running_sums_lose_next_to_a_penalty():
    problem = one_of_three(1e9, 1e-3)
    assert polish(problem, np.array([[1, 1, 1]], np.int8)).tolist() == [[1, -1, 1]]
    levels = OneHotProblem((2, 2), ([0.0, 0.0], [1e-3, 0.0]), {(0, 1): np.array([[0.0, 0.0], [1e9, 1e9]])})
    assert polish_levels(levels, np.array([[1, 0]])).tolist() == [[0, 1]]


def test_only_the_terms_that_differ_decide():
    problem = IsingProblem(3, np.zeros((3, 3)), np.array([1e15, 1e-9, 0.0]), offset=1e15)
    up, down = np.array([-1, 1, 1], np.int8), np.array([-1, -1, 1], np.int8)
    assert problem.energy(up) == problem.energy(down), "the energies themselves have lost the second field"
    assert is_lower(problem, down, up)
    assert not is_lower(problem, up, down)
    assert not is_lower(problem, up, up)
    assert lowest(problem, np.array([up, down, down])) == 1
    assert lowest(problem, np.array([-up, down, up, down])) == 1
    assert spectrum(problem).solution.tolist() == [-1, -1, 1]


def test_what_the_rounding_of_the_coefficients_makes_differ_is_equal():
    problem = IsingProblem(3, np.zeros((3, 3)), np.array([0.1, 0.2, -(0.1 + 0.2)]))
    mixed = np.array([-1, -1, -1], np.int8)
    assert not is_lower(problem, mixed, -mixed)
    assert not is_lower(problem, -mixed, mixed)


def test_of_very_many_terms_rounding_decides_as_it_does_for_energies():
    n = 600
    couplings = np.triu(np.random.default_rng(0).normal(size=(n, n)), 1)
    problem = IsingProblem(n, couplings)
    half = np.where(np.arange(n) < n // 2, -1, 1).astype(np.int8)
    ones = np.ones(n, np.int8)
    first, second = sorted((half, ones), key=problem.energy)
    assert is_lower(problem, first, second)
    assert not is_lower(problem, second, first)
