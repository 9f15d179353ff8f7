"""The tree iteration and its table against published values and against circuits on graphs."""

from __future__ import annotations

import json
import math

import networkx as nx
import numpy as np
import pytest

from qstream.quantum.ising import IsingProblem
from qstream.quantum.qaoa.angles import DEGREES, LIMIT, PATH, deeper, differs, generate, limit_energy, maximise, tree_cut
from qstream.quantum.qaoa.measure import distributions
from qstream.quantum.qaoa.schedule import tree
from qstream.quantum.qaoa.statevector import Statevector

TABLE = json.loads(PATH.read_text())
# Wurtz and Lykov, arXiv:2107.00677, and Basso et al., arXiv:2110.14206: p = 1 to 5.
PUBLISHED = {
    3: (0.6925, 0.7559, 0.7924, 0.8169, 0.8364),
    4: (0.6624, 0.7161, 0.7486, 0.7690, 0.7841),
    5: (0.6431, 0.6907, 0.7199, 0.7386, 0.7523),
    6: (0.6294, 0.6726, 0.6993, 0.7165, 0.7292),
    8: (0.6108, 0.6480, 0.6711, 0.6861, 0.6972),
    11: (0.5936, 0.6253, 0.6450, 0.6578, 0.6673),
}
# Farhi et al., arXiv:1910.08187, p = 1 to 4.
PUBLISHED_LIMIT = (0.3033, 0.4075, 0.4726, 0.5157)


def stored(degree: str, p: int) -> tuple[np.ndarray, np.ndarray]:
    row = TABLE[degree][p - 1]
    return np.array(row["gamma"]), np.array(row["beta"])


def cut_share(graph: nx.Graph, p: int) -> float:
    """Expected share of the edges that the circuit at the table's angles cuts."""
    problem = IsingProblem(len(graph), np.triu(nx.to_numpy_array(graph), 1))
    circuit = Statevector([problem], np.float64)
    circuit.evolve(*tree(p, problem.sigma(), dict(graph.degree)[0]))
    return 0.5 - distributions(circuit)[0].expectation / graph.number_of_edges() / 2


@pytest.mark.parametrize("degree", DEGREES)
def test_the_first_layer_is_the_closed_form(degree: int) -> None:
    gamma, beta = math.atan(1 / math.sqrt(degree - 1)) / 2, -math.pi / 8
    best = 0.5 + ((degree - 1) / degree) ** ((degree - 1) / 2) / (2 * math.sqrt(degree))
    assert tree_cut(degree, np.array([gamma]), np.array([beta])) == pytest.approx(best, abs=1e-14)
    assert TABLE[str(degree)][0]["value"] == pytest.approx(best, abs=1e-8)
    for g, b in ((0.3, -0.2), (-0.1, 0.7)):
        expected = 0.5 - 0.5 * math.sin(4 * b) * math.sin(2 * g) * math.cos(2 * g) ** (degree - 1)
        assert tree_cut(degree, np.array([g]), np.array([b])) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("degree", PUBLISHED)
def test_the_table_reaches_the_published_cuts_of_trees(degree: int) -> None:
    for p, value in enumerate(PUBLISHED[degree], 1):
        gamma, beta = stored(str(degree), p)
        reached = tree_cut(degree, gamma / math.sqrt(degree), beta)
        assert reached == pytest.approx(value, abs=5.1e-5)
        assert reached == pytest.approx(TABLE[str(degree)][p - 1]["value"], abs=1e-8)


def test_the_angles_of_degree_3_are_the_published_ones() -> None:
    for p, gammas, betas in (
        (1, [0.3077], [0.3927]),
        (2, [0.2439, 0.4489], [0.5549, 0.2924]),
        (3, [0.2109, 0.3992, 0.4685], [0.6090, 0.4596, 0.2357]),
    ):
        gamma, beta = stored("3", p)
        np.testing.assert_allclose(gamma / math.sqrt(3), gammas, atol=1e-4)
        np.testing.assert_allclose(-beta, betas, atol=1e-4)


def test_the_limit_reaches_the_published_energies_of_the_sherrington_kirkpatrick_model() -> None:
    for p, value in enumerate(PUBLISHED_LIMIT, 1):
        assert limit_energy(*stored("limit", p)) == pytest.approx(value, abs=6e-5)
    np.testing.assert_allclose(np.ravel(stored("limit", 1)), [0.5, -math.pi / 8], atol=1e-5)
    np.testing.assert_allclose(np.ravel(stored("limit", 2)), [0.3817, 0.6655, -0.4960, -0.2690], atol=2e-4)


def test_trees_of_growing_degree_approach_the_limit() -> None:
    for p in (1, 2, 3):
        gamma, beta = stored("limit", p)
        limit = limit_energy(gamma, beta)
        near, far = (abs(math.sqrt(d - 1) * (tree_cut(d, gamma / math.sqrt(d - 1), beta) - 0.5) - limit) for d in (4001, 401))
        assert near < 1.1e-4
        assert far == pytest.approx(10 * near, rel=0.05)


def test_graphs_without_short_cycles_cut_as_their_tree() -> None:
    petersen, heawood = nx.petersen_graph(), nx.heawood_graph()
    assert cut_share(petersen, 1) == pytest.approx(0.6924500897, abs=1e-9)
    assert cut_share(nx.complete_bipartite_graph(3, 3), 1) == pytest.approx(0.6924500897, abs=1e-9)
    assert cut_share(heawood, 1) == pytest.approx(0.6924500897, abs=1e-9)
    assert cut_share(heawood, 2) == pytest.approx(0.755906, abs=1e-6)
    assert cut_share(petersen, 2) == pytest.approx(0.732703, abs=2e-6)  # its pentagons are seen


def test_no_random_cubic_graph_falls_below_the_guarantee_of_its_tree() -> None:
    graphs = [nx.random_regular_graph(3, n, seed=seed) for n in (6, 8, 10, 12) for seed in range(9)]
    for p, guarantee in ((1, 0.69245), (2, 0.7559), (3, 0.79239)):
        for graph in graphs:
            problem = IsingProblem(len(graph), np.triu(nx.to_numpy_array(graph), 1))
            edges = graph.number_of_edges()
            largest = 0.5 - problem.diagonal().min() / edges / 2
            assert cut_share(graph, p) / largest >= guarantee


def test_the_generator_makes_the_stored_table() -> None:
    made = generate(max_p=3, degrees=(LIMIT, 11.0))
    assert set(made) == {"limit", "11"}
    assert differs(made, TABLE) == []
    made["11"][1]["value"] = 0.62
    assert differs(made, TABLE) == [f"degree 11, p = 2: 0.62 made, {TABLE['11'][1]['value']} stored"]


def test_angles_of_one_layer_more_interpolate() -> None:
    np.testing.assert_allclose(deeper(np.array([2.0, 4.0, -3.0, -1.0])), [2, 3, 4, -3, -2, -1])
    np.testing.assert_allclose(deeper(np.array([2.0, -3.0])), [2, 2, -3, -3])


def test_the_best_of_several_local_maxima_is_kept() -> None:
    value, angles = maximise(lambda g, b: float(np.cos(g[0]) - 0.1 * g[0] ** 2 - b[0] ** 2), [np.array([6.0, 1.0]), np.ones(2)])
    assert value == pytest.approx(1)
    np.testing.assert_allclose(angles, 0, atol=1e-4)
