"""QAOA inside one-hot subspaces, against full circuits and dense matrix functions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg

from qstream.errors import ProblemError
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.qaoa import subspace


def random_onehot(seed: int, sizes: tuple[int, ...]) -> OneHotProblem:
    rng = np.random.default_rng(seed)
    pairs = list(itertools.combinations(range(len(sizes)), 2))
    return OneHotProblem(
        sizes, tuple(rng.normal(size=k) for k in sizes), {(i, j): rng.normal(size=(sizes[i], sizes[j])) for i, j in pairs}
    )


def random_ising(seed: int, n: int) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n), rng.normal())


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_complete_mixer_is_the_exponential_of_all_transitions(k: int) -> None:
    expected = scipy.linalg.expm(-0.7j * (np.ones((k, k)) - np.eye(k)))
    np.testing.assert_allclose(subspace.complete_mixer(0.7, np.full(k, k**-0.5)), expected, atol=1e-14)


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_the_ring_mixer_is_the_exponential_of_the_transitions_between_neighbours(k: int) -> None:
    near = np.array([[abs(a - b) in (1, k - 1) and a != b for b in range(k)] for a in range(k)], float)
    np.testing.assert_allclose(subspace.ring_mixer(0.7, k), scipy.linalg.expm(-0.7j * near), atol=1e-14)


@pytest.mark.parametrize("mixer", ["complete", "ring"])
def test_three_variables_of_three_levels_equal_the_full_circuit_on_nine_qubits(mixer: subspace.OneHotMixer) -> None:
    qml = pytest.importorskip("pennylane")
    problem = random_onehot(1, (3, 3, 3))
    gammas, betas = (0.4, 0.9), (-0.6, -0.3)
    # With three levels every pair of levels is a pair of neighbours, and the XY gates of a triple do not commute: the
    # exponential of their sum is one gate on three qubits.
    transitions = sum(
        (qml.X(a) @ qml.X(b) + qml.Y(a) @ qml.Y(b) for a, b in itertools.combinations(range(3), 2)), start=qml.I(0) * 0
    )
    hamiltonian = qml.matrix(transitions, wire_order=range(3)) / 2
    start = np.zeros(8, complex)
    start[[4, 2, 1]] = 3**-0.5

    ops = [qml.StatePrep(start, wires=range(3 * i, 3 * i + 3)) for i in range(3)]
    for gamma, beta in zip(gammas, betas, strict=True):
        for i, costs in enumerate(problem.unary):
            ops += [qml.PhaseShift(-gamma * cost, wires=3 * i + a) for a, cost in enumerate(costs)]
        for (i, j), costs in problem.pair.items():
            ops += [
                qml.ControlledPhaseShift(-gamma * costs[a, b], wires=[3 * i + a, 3 * j + b])
                for a, b in itertools.product(range(3), repeat=2)
            ]
        ops += [qml.QubitUnitary(scipy.linalg.expm(-1j * beta * hamiltonian), wires=range(3 * i, 3 * i + 3)) for i in range(3)]
    (full,) = qml.execute([qml.tape.QuantumScript(ops, [qml.probs(wires=range(9))])], qml.device("default.qubit", wires=9))

    ours = np.abs(subspace.onehot_state(problem.diagonal(), gammas, betas, mixer=mixer)) ** 2
    at = [sum(1 << (8 - 3 * i - level) for i, level in enumerate(levels)) for levels in itertools.product(range(3), repeat=3)]
    np.testing.assert_allclose(ours.reshape(-1), full[at], atol=1e-12)
    assert abs(1 - full[at].sum()) < 1e-12


def test_two_levels_are_spins_under_the_transverse_field() -> None:
    problem = random_ising(2, 4)
    pairs = {(i, j): problem.J[i, j] * np.array([[1, -1], [-1, 1.0]]) for i, j in itertools.combinations(range(4), 2)}
    levels = OneHotProblem((2,) * 4, tuple(h * np.array([1, -1.0]) for h in problem.h), pairs, problem.offset)
    x = np.array([[0, 1], [1, 0.0]])
    field = sum(np.kron(np.kron(np.eye(1 << i), x), np.eye(1 << (3 - i))) for i in range(4))
    expected = scipy.linalg.expm(0.5j * field) @ (np.exp(-0.8j * problem.diagonal()) / 4)
    np.testing.assert_allclose(subspace.onehot_state(levels.diagonal(), [0.8], [-0.5]).reshape(-1), expected, atol=1e-13)
    assert subspace.local_scale(levels) == pytest.approx(problem.sigma(), rel=1e-12)


def test_the_local_scale_is_the_mean_variance_along_one_variable() -> None:
    problem = random_onehot(3, (2, 4, 3))
    variance = np.mean([problem.diagonal().var(axis=i).mean() for i in range(3)])
    assert subspace.local_scale(problem) == pytest.approx(np.sqrt(variance), rel=1e-12)


def test_no_layers_or_zero_betas_leave_every_level_equally_likely() -> None:
    energies = random_onehot(4, (3, 4)).diagonal()
    for gammas, betas in (([], []), ([0.7, 0.2], [0.0, 0.0])):
        np.testing.assert_allclose(np.abs(subspace.onehot_state(energies, gammas, betas)) ** 2, 1 / 12, atol=1e-15)


def test_a_start_of_its_own_is_where_the_complete_mixer_leaves_the_state() -> None:
    energies = random_onehot(5, (3, 3)).diagonal()
    around = [np.array([0.9, 0.1, 0.1]) ** 0.5 / 1.1**0.5, np.array([0.2, 0.2, 0.6]) ** 0.5]
    still = np.abs(subspace.onehot_state(energies, [0.0], [0.8], around=around)) ** 2
    np.testing.assert_allclose(still, np.outer(around[0] ** 2, around[1] ** 2), atol=1e-14)
    with pytest.raises(ProblemError, match="ring"):
        subspace.onehot_state(energies, [0.1], [0.1], mixer="ring", around=around)
