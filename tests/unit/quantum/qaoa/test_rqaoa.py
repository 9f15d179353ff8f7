"""Recursive QAOA: exact eliminations, answers near the optimum, an end in time."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest

from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.qaoa.analytic import Correlators, best_angles
from qstream.quantum.qaoa.rqaoa import ENUMERATED, RQAOA, Link, eliminate, paced, recurse, strongest
from qstream.quantum.record import Refused, SolveRequest
from schemas.solver import Reason


def unlimited() -> float:
    return math.inf


def random_ising(seed: int, n: int, fields: float = 1.0) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), fields * rng.normal(size=n), rng.normal())


def test_eliminated_spins_leave_the_energy_of_every_solution_as_it_was() -> None:
    problem = random_ising(1, 7)
    links: list[Link] = []
    rules = [Link(2, 5, -1), Link(0, None, 1), Link(5, 1, 1)]
    reduced, alive = eliminate(problem, list(range(7)), rules, links)
    assert alive == [1, 3, 4, 6]
    rng = np.random.default_rng(0)
    for left in rng.choice([-1, 1], (20, 4)):
        spins = np.zeros(7, int)
        spins[alive] = left
        spins[5] = spins[1]
        spins[0] = 1
        spins[2] = -spins[5]
        assert reduced.energy(left) == pytest.approx(problem.energy(spins), abs=1e-12)


def test_links_keep_the_names_of_the_first_problem() -> None:
    links: list[Link] = []
    eliminate(random_ising(2, 4), [3, 5, 8, 9], [Link(1, 3, -1)], links)
    assert links == [Link(5, 9, -1)]


def test_the_strongest_mean_rules_and_no_rule_speaks_of_a_spin_that_is_gone() -> None:
    means = Correlators(np.array([0.05, -0.6, 0.0]), np.array([0, 0, 1]), np.array([1, 2, 2]), np.array([-0.9, 0.7, 0.8]))
    assert strongest(means, 1) == [Link(1, 0, -1)]
    assert strongest(means, 3) == [Link(1, 0, -1), Link(2, 0, 1), Link(0, None, 1)]


@pytest.mark.parametrize("kind", ["gauss", "no fields", "regular"])
def test_sixteen_spins_come_close_to_the_optimum(kind: str) -> None:
    ratios = []
    for seed in range(6):
        if kind == "regular":
            graph = nx.random_regular_graph(3, 16, seed=seed)
            problem = IsingProblem(16, np.triu(nx.to_numpy_array(graph, nodelist=range(16)), 1))
        else:
            problem = random_ising(seed, 16, float(kind == "gauss"))
        energies = problem.diagonal()
        found = recurse(problem, best_angles(problem)[0])
        ratios.append((energies.max() - problem.energy(found)) / np.ptp(energies))
        answer = RQAOA.run(SolveRequest(problem), unlimited)
        assert answer.optimum == pytest.approx(energies.min(), abs=1e-10)
        assert answer.energy <= problem.energy(found) + 1e-12
        assert answer.energy >= energies.min() - 1e-10
    assert np.mean(ratios) >= 0.97
    assert min(ratios) >= 0.92


def test_a_chain_without_frustration_is_solved_exactly() -> None:
    couplings = np.zeros((40, 40))
    signs = np.random.default_rng(3).choice([-1, 1], 39)
    couplings[np.arange(39), np.arange(1, 40)] = signs
    answer = RQAOA.run(SolveRequest(IsingProblem(40, couplings)), unlimited)
    assert answer.energy == -39


def test_fields_alone_are_solved_exactly() -> None:
    fields = np.random.default_rng(4).normal(size=20)
    answer = RQAOA.run(SolveRequest(IsingProblem(20, np.zeros((20, 20)), fields)), unlimited)
    assert answer.energy == pytest.approx(-np.abs(fields).sum())


def test_ten_spins_are_enumerated_and_two_of_nothing_answered() -> None:
    problem = random_ising(5, ENUMERATED)
    assert RQAOA.run(SolveRequest(problem), unlimited).energy == pytest.approx(problem.diagonal().min(), abs=1e-12)
    assert RQAOA.run(SolveRequest(IsingProblem(12, np.zeros((12, 12)), offset=3.0)), unlimited).energy == 3.0


def test_the_record_tells_formula_control_and_that_nothing_was_sampled() -> None:
    problem = random_ising(6, 14)
    answer = RQAOA.run(SolveRequest(problem), unlimited)
    assert answer.execution == "simulated-analytic-p1"
    assert answer.p == 1
    assert answer.shots is None
    assert answer.samples is None
    assert answer.control is not None
    assert answer.control.mean_energy == problem.offset
    assert answer.control.p_opt == 2**-14
    assert answer.expectation is not None
    assert answer.expectation < problem.offset
    again = RQAOA.run(SolveRequest(problem), unlimited)
    assert again.solution.tobytes() == answer.solution.tobytes()


def test_a_short_time_left_takes_many_spins_a_round() -> None:
    assert paced(50, math.inf, 0.1) == 1
    assert paced(50, 10.0, 0.01) == 1
    assert paced(50, 0.1, 0.01) == 10
    assert paced(50, 0.0, 0.01) == 50
    assert paced(50, -1.0, 0.0) == 50


def test_a_deadline_ends_the_recursion_in_few_rounds() -> None:
    problem = random_ising(7, 60)
    asked = 0

    def ticking() -> float:
        nonlocal asked
        asked += 1
        return 0.05 - 0.01 * asked

    answer = RQAOA.run(SolveRequest(problem, deadline_s=0.05), ticking)
    assert asked < 12
    assert answer.energy == pytest.approx(problem.energy(answer.solution))
    assert answer.energy < answer.control.best_energy
    with pytest.raises(Refused):
        RQAOA.run(SolveRequest(problem), lambda: 0.0)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (SolveRequest(OneHotProblem((2, 2))), Reason.UNSUPPORTED),
        (SolveRequest(random_ising(1, 4), p=2), Reason.UNSUPPORTED),
        (SolveRequest(random_ising(1, 4), noise=0.1), Reason.UNSUPPORTED),
        (SolveRequest(random_ising(1, 4), warm_start=[1] * 4), Reason.UNSUPPORTED),
        (SolveRequest(IsingProblem(257, np.zeros((257, 257)))), Reason.TOO_LARGE),
    ],
)
def test_what_it_cannot_serve_is_refused_by_name(request_: SolveRequest, reason: Reason) -> None:
    refused = RQAOA.refusal(request_)
    assert refused is not None
    assert refused.reason is reason
    assert RQAOA.refusal(SolveRequest(random_ising(1, 4))) is None
