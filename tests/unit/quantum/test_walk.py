"""Quantum walks and heat on graphs, against matrix exponentials and what theory says."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.quantum import walk


def random_laplacian(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = np.triu(rng.random((n, n)) * (rng.random((n, n)) < 0.5), 1)
    return walk.laplacian(weights + weights.T)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), t=st.floats(-5, 5))
def test_the_propagator_is_the_matrix_exponential_and_keeps_probability(seed: int, n: int, t: float) -> None:
    generator = random_laplacian(seed, n)
    unitary = walk.propagator(generator, t)
    np.testing.assert_allclose(unitary, scipy.linalg.expm(-1j * t * generator), atol=1e-11)
    np.testing.assert_allclose(walk.propagator(generator, -t) @ unitary, np.eye(n), atol=1e-12)
    for source in range(n):
        np.testing.assert_allclose(walk.amplitudes(generator, t, source), unitary[:, source], atol=1e-12)
        assert walk.probabilities(generator, t, source).sum() == pytest.approx(1, abs=1e-12)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), t=st.floats(0, 5))
def test_heat_is_the_matrix_exponential_and_a_distribution(seed: int, n: int, t: float) -> None:
    generator = random_laplacian(seed, n)
    kernel = walk.heat_kernel(generator, t)
    np.testing.assert_allclose(kernel, scipy.linalg.expm(-t * generator), atol=1e-11)
    np.testing.assert_allclose(kernel.sum(0), 1, atol=1e-12)
    assert kernel.min() > -1e-12
    np.testing.assert_allclose(walk.heat(generator, t, n - 1), kernel[:, n - 1], atol=1e-12)


def test_at_time_zero_nothing_has_moved() -> None:
    generator = random_laplacian(1, 6)
    np.testing.assert_allclose(walk.propagator(generator, 0), np.eye(6), atol=1e-14)
    np.testing.assert_allclose(walk.heat_kernel(generator, 0), np.eye(6), atol=1e-14)


def test_two_nodes_swap_the_walker_and_share_the_heat() -> None:
    pair = walk.laplacian(nx.path_graph(2))
    times = np.array([0.0, 0.3, math.pi / 2])
    np.testing.assert_allclose(walk.probabilities(pair, times, 0)[:, 1], np.sin(times) ** 2, atol=1e-14)
    np.testing.assert_allclose(walk.heat(pair, times, 0)[:, 1], (1 - np.exp(-2 * times)) / 2, atol=1e-14)


def test_a_hypercube_hands_the_walker_to_its_antipode() -> None:
    adjacency = walk.adjacency(nx.convert_node_labels_to_integers(nx.hypercube_graph(4), ordering="sorted"))
    assert walk.probabilities(adjacency, math.pi / 2, 0)[15] == pytest.approx(1, abs=1e-12)


def test_a_walk_equals_a_pennylane_circuit() -> None:
    qml = pytest.importorskip("pennylane")
    generator = walk.laplacian(nx.cycle_graph(8))
    ops = [qml.BasisState(np.array([1, 0, 1]), wires=range(3)), qml.evolve(qml.Hermitian(generator, range(3)), 0.8)]
    (found,) = qml.execute([qml.tape.QuantumScript(ops, [qml.probs(wires=range(3))])], qml.device("default.qubit", wires=3))
    np.testing.assert_allclose(walk.probabilities(generator, 0.8, 5), found, atol=1e-12)


def test_the_time_average_is_the_limit_of_many_times() -> None:
    for graph in (nx.path_graph(5), nx.cycle_graph(6), nx.star_graph(4)):
        generator = walk.laplacian(graph)
        times = np.random.default_rng(0).uniform(0, 1e5, 40_000)
        sampled = walk.probabilities(generator, times, 1).mean(0)
        np.testing.assert_allclose(walk.mean_probabilities(generator, 1), sampled, atol=0.01)
    heat = walk.heat(walk.laplacian(nx.path_graph(5)), 1e3, 1)
    np.testing.assert_allclose(heat, 0.2, atol=1e-9)


def test_networkx_graphs_give_their_own_laplacian() -> None:
    graph = nx.Graph()
    graph.add_weighted_edges_from([("a", "b", 2.0), ("b", "c", 0.5), ("a", "d", 1.5)])
    graph.add_edge("c", "d")
    np.testing.assert_allclose(walk.laplacian(graph), nx.laplacian_matrix(graph).toarray(), atol=1e-15)
    np.testing.assert_array_equal(walk.adjacency(graph), nx.to_numpy_array(graph))
    twice = nx.MultiGraph([(0, 1), (0, 1), (1, 2)])
    np.testing.assert_array_equal(walk.adjacency(twice), nx.to_numpy_array(twice))


def test_a_state_of_several_nodes_walks_as_their_sum() -> None:
    generator = random_laplacian(2, 7)
    start = np.array([0.6, 0, 0.8j, 0, 0, 0, 0])
    expected = 0.6 * walk.amplitudes(generator, 0.9, 0) + 0.8j * walk.amplitudes(generator, 0.9, 2)
    np.testing.assert_allclose(walk.amplitudes(generator, 0.9, start), expected, atol=1e-13)
    spread = np.full(7, 1 / 7)
    np.testing.assert_allclose(walk.heat(generator, [0.1, 2.0], spread), 1 / 7, atol=1e-13)


def test_the_decomposition_is_kept_for_an_equal_generator_and_changed_with_it() -> None:
    generator = random_laplacian(3, 20)
    first, again = walk.spectrum(generator), walk.spectrum(generator.copy())
    assert first[1] is again[1]
    generator *= 2
    np.testing.assert_allclose(walk.spectrum(generator)[0], 2 * first[0], atol=1e-12)
    with pytest.raises(ValueError, match="read-only"):
        first[0][0] = 1


@pytest.mark.parametrize(
    ("given_", "name"),
    [
        (np.ones((2, 3)), "shape"),
        (np.array([[0, 1.0], [2, 0]]), "must be symmetric"),
        (np.array([[0, np.nan], [np.nan, 0]]), "of finite numbers"),
        (nx.DiGraph([(0, 1)]), "directed"),
    ],
)
def test_what_is_no_undirected_graph_is_named(given_: object, name: str) -> None:
    with pytest.raises(ProblemError, match=name):
        walk.laplacian(given_)


def test_a_source_outside_the_graph_is_named() -> None:
    generator = random_laplacian(4, 3)
    for source in (3, -1, np.ones(2)):
        with pytest.raises(ProblemError, match="source"):
            walk.probabilities(generator, 1.0, source)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda of: walk.probabilities(of, math.nan, 0), "t"),
        (lambda of: walk.amplitudes(of, [0, math.inf], 0), "t"),
        (lambda of: walk.heat(of, -1, 0), "t"),
        (lambda of: walk.heat_kernel(of, -1), "t"),
        (lambda of: walk.propagator(of, math.nan), "t"),
        (lambda of: walk.heat(of, 1, [1j, 0, 0, 0]), "source"),
        (lambda of: walk.amplitudes(of, 1, "abc"), "source"),
    ],
)
def test_what_has_no_meaning_is_named(call, field: str) -> None:
    with pytest.raises(ProblemError, match=rf"^{field}\b"):
        call(random_laplacian(0, 4))
