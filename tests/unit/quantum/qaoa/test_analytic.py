"""The closed form at p = 1, against dense state vectors, PennyLane and published values."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.quantum.ising import IsingProblem, basis_spins
from qstream.quantum.qaoa.analytic import best_angles, correlators, expectation, profile


def random_ising(seed: int, n: int, density: float = 1.0) -> IsingProblem:
    rng = np.random.default_rng(seed)
    couplings = np.triu(rng.normal(size=(n, n)) * (rng.random((n, n)) < density), 1)
    return IsingProblem(n, couplings, rng.normal(size=n), rng.normal())


def dense_probabilities(problem: IsingProblem, gamma: float, beta: float) -> np.ndarray:
    """By a full matrix for the mixer: e^{-i b X} on every qubit is cos^(n-h) (-i sin)^h at Hamming distance h."""
    n = problem.n
    distance = np.bitwise_count(np.arange(1 << n)[:, None] ^ np.arange(1 << n)).astype(int)
    mixer = np.cos(beta) ** (n - distance) * (-1j * np.sin(beta)) ** distance
    return np.abs(mixer @ (np.exp(-1j * gamma * problem.diagonal()) / 2 ** (n / 2))) ** 2


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 7),
    density=st.sampled_from([0.0, 0.4, 1.0]),
    gamma=st.floats(-3, 3),
    beta=st.floats(-2, 2),
)
def test_all_means_are_those_of_the_state(seed: int, n: int, density: float, gamma: float, beta: float) -> None:
    problem = random_ising(seed, n, density)
    p = dense_probabilities(problem, gamma, beta)
    spins = basis_spins(n)
    found = correlators(problem, gamma, beta)
    np.testing.assert_allclose(found.spin, p @ spins, atol=1e-12)
    np.testing.assert_allclose(found.pair, ((spins.T * p) @ spins)[np.triu_indices(n, 1)], atol=1e-12)
    assert expectation(problem, gamma, beta) == pytest.approx(p @ problem.diagonal(), abs=1e-11)


def test_the_means_are_those_of_a_pennylane_circuit() -> None:
    qml = pytest.importorskip("pennylane")
    problem, gamma, beta = random_ising(3, 5), 0.31, -0.42
    ops = [qml.Hadamard(i) for i in range(5)]
    ops += [qml.IsingZZ(2 * gamma * problem.J[i, j], wires=[i, j]) for i, j in np.argwhere(problem.J).tolist()]
    ops += [qml.RZ(2 * gamma * h, wires=i) for i, h in enumerate(problem.h)]
    ops += [qml.RX(2 * beta, wires=i) for i in range(5)]
    pairs = list(zip(*np.triu_indices(5, 1), strict=True))
    wanted = [qml.expval(qml.Z(i)) for i in range(5)] + [qml.expval(qml.Z(int(i)) @ qml.Z(int(j))) for i, j in pairs]
    (means,) = qml.execute([qml.tape.QuantumScript(ops, wanted)], qml.device("default.qubit", wires=5))
    found = correlators(problem, gamma, beta)
    np.testing.assert_allclose(np.concatenate((found.spin, found.pair)), np.array(means, float), atol=1e-12)


@pytest.mark.parametrize(("d", "graph"), [(3, nx.petersen_graph()), (3, nx.heawood_graph()), (4, nx.hypercube_graph(4))])
def test_max_cut_without_triangles_reaches_the_published_ratio(d: int, graph: nx.Graph) -> None:
    couplings = np.triu(nx.to_numpy_array(graph), 1) / 2
    edges = graph.number_of_edges()
    _, _, energy = best_angles(IsingProblem(len(graph), couplings))
    # <C>/|E| = 1/2 + ((d-1)/d)^((d-1)/2) / (2 sqrt d), and the cut is (|E| - sum s s) / 2 = |E|/2 - E; .69245 at d = 3.
    expected = 0.5 + ((d - 1) / d) ** ((d - 1) / 2) / (2 * math.sqrt(d))
    assert 0.5 - energy / edges == pytest.approx(expected, abs=2e-5)


def test_dense_random_problems_come_close_to_the_limit_of_many_spins() -> None:
    rng = np.random.default_rng(0)
    problem = IsingProblem(128, np.triu(rng.normal(size=(128, 128)), 1))
    gamma, beta, energy = best_angles(problem)
    assert gamma * problem.sigma() == pytest.approx(0.5, abs=0.04)
    assert beta == pytest.approx(-math.pi / 8, abs=0.02)
    assert -energy / 128 / problem.sigma() == pytest.approx(math.exp(-0.5) / 2, abs=0.02)


def test_best_angles_are_as_good_as_a_dense_search() -> None:
    for seed in range(5):
        problem = random_ising(seed, 6)
        _, _, energy = best_angles(problem)
        gammas, betas = np.linspace(0, 2, 161) / problem.sigma(), np.linspace(-math.pi / 2, math.pi / 2, 181)
        searched = min(profile(problem, gamma).energies(problem, betas).min() for gamma in gammas)
        spread = problem.diagonal().std()
        assert energy <= searched + 0.005 * spread


def test_angles_scale_against_the_energies() -> None:
    problem = random_ising(9, 6)
    larger = IsingProblem(6, 10 * problem.J, 10 * problem.h, 10 * problem.offset)
    gamma, beta, energy = best_angles(problem)
    assert best_angles(larger) == pytest.approx((gamma / 10, beta, 10 * energy), rel=1e-9)


def test_without_energies_every_angle_is_best() -> None:
    assert best_angles(IsingProblem(3, np.zeros((3, 3)), offset=2.0)) == (0.0, 0.0, 2.0)
