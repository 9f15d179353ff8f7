"""Fixed angles: their formulas, their scale, and which of them a request gets."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.qaoa.measure import distributions
from qstream.quantum.qaoa.schedule import Angles, angles, effective_degree, ramp, stretched, tree
from qstream.quantum.qaoa.statevector import Statevector
from qstream.quantum.record import Refused, SolveRequest
from schemas.solver import Reason


def sk(n: int, seed: int) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1))


def regular(n: int, degree: int, seed: int) -> IsingProblem:
    return IsingProblem(n, np.triu(nx.to_numpy_array(nx.random_regular_graph(degree, n, seed=seed)), 1))


def p_opt(problem: IsingProblem, schedule: Angles) -> float:
    circuit = Statevector([problem])
    circuit.evolve(*schedule)
    return distributions(circuit)[0].p_opt


def test_the_ramp_is_linear_between_its_end_points() -> None:
    gammas, betas = ramp(4, sigma=2.0)
    np.testing.assert_allclose(gammas, 0.375 * np.array([1, 3, 5, 7]) / 8)
    np.testing.assert_allclose(betas, -0.65 * np.array([7, 5, 3, 1]) / 8)


def test_the_gammas_of_all_schedules_are_inverse_to_the_problems_scale() -> None:
    for make in (lambda sigma: ramp(3, sigma), lambda sigma: tree(3, sigma, 4), lambda sigma: stretched(9, sigma)):
        one, ten = make(1.0), make(10.0)
        np.testing.assert_allclose(ten[0], one[0] / 10)
        np.testing.assert_array_equal(ten[1], one[1])
        assert np.all(one[0] > 0)
        assert np.all(one[1] < 0)
        np.testing.assert_array_equal(make(0.0)[0], one[0])


def test_a_problem_scaled_has_the_same_distribution() -> None:
    problem = sk(8, 0)
    scaled = IsingProblem(8, 37.5 * problem.J)
    assert p_opt(scaled, tree(4, scaled.sigma())) == pytest.approx(p_opt(problem, tree(4, problem.sigma())), rel=1e-4)


def test_a_regular_graph_has_its_degree_and_heavy_terms_count_more() -> None:
    assert effective_degree(regular(12, 5, 0)) == pytest.approx(5)
    star = np.zeros((4, 4))
    star[0, 1], star[2, 3] = 1.0, 1.0
    assert effective_degree(IsingProblem(4, star)) == pytest.approx(1)
    assert effective_degree(IsingProblem(4, star, np.ones(4))) == pytest.approx(2)
    # A Gaussian spin of many terms: E[J^2]^2 / E[J^4] is a third of their number.
    assert effective_degree(sk(400, 1)) == pytest.approx(399 / 3, rel=0.05)
    assert effective_degree(IsingProblem(3, np.zeros((3, 3)))) == math.inf


def test_tree_angles_are_of_the_nearest_degree_and_end_at_five_layers() -> None:
    np.testing.assert_array_equal(tree(2, 1.0, 3.4)[0], tree(2, 1.0, 3)[0])
    np.testing.assert_array_equal(tree(2, 1.0, 1.2)[0], tree(2, 1.0, 3)[0])
    np.testing.assert_array_equal(tree(2, 1.0, 50)[0], tree(2, 1.0)[0])
    assert tree(2, 1.0, 11.2)[0][0] != tree(2, 1.0)[0][0]
    for p in (0, 6):
        with pytest.raises(ProblemError, match=f"p must be 1 to 5 for tree angles, got {p}"):
            tree(p, 1.0)


def test_stretched_to_five_layers_the_angles_are_those_of_the_limit() -> None:
    for part, known in zip(stretched(5, 1.0), tree(5, 1.0), strict=True):
        np.testing.assert_allclose(part, known, atol=1e-15)


@pytest.mark.parametrize("p", [6, 8, 12])
def test_stretched_angles_find_the_optimum_more_often_than_the_ramp(p: int) -> None:
    for problems in ([sk(10, seed) for seed in range(8)], [regular(10, 3, seed) for seed in range(8)]):
        curve, line = (np.mean([p_opt(x, make(p, x.sigma())) for x in problems]) for make in (stretched, ramp))
        assert curve > 1.1 * line


def test_auto_takes_the_tree_then_stretches_it_and_ramps_a_warm_start() -> None:
    problem = sk(5, 3)
    assert angles(SolveRequest(problem), 5)[2] == "tree"
    assert angles(SolveRequest(problem), 6)[2] == "stretched"
    assert angles(SolveRequest(problem, schedule="ramp"), 2)[2] == "ramp"
    assert angles(SolveRequest(problem, warm_start=np.ones(5, np.int8)), 2)[2] == "ramp"


def test_tree_angles_of_six_layers_and_one_hot_problems_are_refused() -> None:
    for request_, p in (
        (SolveRequest(sk(5, 3), schedule="tree"), 6),
        (SolveRequest(OneHotProblem((2, 2), (np.zeros(2), np.zeros(2)), {})), 1),
    ):
        with pytest.raises(Refused) as refused:
            angles(request_, p)
        assert refused.value.reason is Reason.UNSUPPORTED
