"""QAOA inside one-hot and fixed-weight subspaces, against full circuits, dense matrix functions and enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg

from qstream.errors import ProblemError
from qstream.quantum.ising import IsingProblem, basis_spins
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.qaoa import subspace
from qstream.quantum.record import Refused
from schemas.solver import Reason


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


@pytest.mark.parametrize(("n", "weight"), [(1, 0), (4, 4), (5, 2), (6, 3), (7, 5)])
def test_the_swap_mixer_is_the_exponential_of_all_exchanges_of_two_spins(n: int, weight: int) -> None:
    x, y = np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]])

    def two(gate: np.ndarray, i: int, j: int) -> np.ndarray:
        result = np.eye(1)
        for qubit in range(n):
            result = np.kron(result, gate if qubit in (i, j) else np.eye(2))
        return result

    full = np.zeros((1 << n, 1 << n), complex)
    for i, j in itertools.combinations(range(n), 2):
        full += (two(x, i, j) + two(y, i, j)) / 2
    at = [s for s in range(1 << n) if s.bit_count() == weight]
    rng = np.random.default_rng(6)
    psi = rng.normal(size=len(at)) + 1j * rng.normal(size=len(at))
    expected = scipy.linalg.expm(-0.37j * full)[np.ix_(at, at)] @ psi
    np.testing.assert_allclose(subspace.swap_mixer(psi, 0.37, n, weight), expected, atol=1e-12)


def test_the_swap_mixer_stays_unitary_on_fourteen_spins() -> None:
    psi = np.zeros(3432, complex)
    psi[100] = 1
    turned = subspace.swap_mixer(psi, 0.9, 14, 7)
    assert np.linalg.norm(turned) == pytest.approx(1, abs=1e-11)
    np.testing.assert_allclose(subspace.swap_mixer(turned, -0.9, 14, 7), psi, atol=1e-10)


def test_the_states_of_a_weight_are_the_basis_states_with_that_many_spins_down() -> None:
    spins = basis_spins(6)
    np.testing.assert_array_equal(subspace.weight_spins(6, 2), spins[(spins < 0).sum(1) == 2])


def test_a_fixed_weight_answer_is_feasible_and_knows_its_optimum() -> None:
    problem = random_ising(7, 10)
    answer = subspace.solve_fixed_weight(problem, 4, p=3, shots=64, seed=5)
    everything = [s for s in itertools.product((1, -1), repeat=10) if sum(s) == 2]
    energies = problem.energies(np.array(everything))
    assert answer.samples is not None
    assert answer.counts is not None
    assert (answer.samples.sum(1) == 2).all()
    assert answer.counts.sum() == 64
    np.testing.assert_allclose(answer.energies, problem.energies(answer.samples), atol=1e-12)
    assert answer.optimum == pytest.approx(energies.min(), abs=1e-12)
    assert answer.energy == pytest.approx(problem.energy(answer.solution), abs=1e-12)
    assert answer.control is not None
    assert answer.control.mean_energy == pytest.approx(energies.mean(), abs=1e-12)
    assert answer.control.p_opt == pytest.approx(1 / 210)
    assert answer.expectation is not None
    assert answer.expectation < energies.mean() - energies.std()


def test_a_fixed_weight_answer_repeats_to_the_byte() -> None:
    problem = random_ising(8, 8)
    warm = np.array([1, -1] * 4, np.int8)
    first, second = (subspace.solve_fixed_weight(problem, 4, p=2, shots=32, seed=9, warm_start=warm) for _ in range(2))
    np.testing.assert_array_equal(first.samples, second.samples)
    assert first.expectation == second.expectation


def test_a_warm_start_samples_around_its_solution() -> None:
    warm = np.array([1, -1, 1, -1, 1, -1, 1, -1], np.int8)
    start = subspace.weight_start(8, 4, warm, falloff=1.0)
    spins = subspace.weight_spins(8, 4)
    swaps = (spins != warm).sum(1) // 2
    np.testing.assert_allclose(start / start.max(), np.exp(-swaps), atol=1e-12)
    with pytest.raises(ProblemError, match="warm_start"):
        subspace.weight_start(8, 3, warm)


@pytest.mark.parametrize(("n", "floor"), [(8, 0.97), (10, 0.95), (12, 0.85)])
def test_thirty_two_shots_capture_the_gain_of_a_window_far_better_than_the_start_alone(n: int, floor: float) -> None:
    gains, controls = [], []
    for seed in range(30):
        problem = random_ising(100 + seed, n)
        warm = np.random.default_rng(seed).permutation(np.repeat([1, -1], n // 2)).astype(np.int8)
        answer = subspace.solve_fixed_weight(problem, n // 2, p=2, shots=32, seed=seed, warm_start=warm)
        assert answer.optimum is not None
        assert answer.control is not None
        before = problem.energy(warm)
        gains.append(max(0.0, before - answer.energy) / (before - answer.optimum))
        controls.append(max(0.0, before - answer.control.best_energy) / (before - answer.optimum))
    assert np.mean(gains) >= floor
    assert np.mean(gains) > np.mean(controls) + 0.1


def test_a_flat_problem_is_answered() -> None:
    answer = subspace.solve_fixed_weight(IsingProblem(4, np.zeros((4, 4)), offset=2.0), 2, p=1, shots=8, seed=0)
    assert answer.energy == answer.optimum == 2.0
    assert answer.p_opt == pytest.approx(1)


def test_what_does_not_fit_is_named() -> None:
    problem = random_ising(9, 6)
    for changed, name in (({"p": 0}, "p is 0"), ({"shots": 0}, "shots is 0"), ({"weight": 7}, "weight is 7")):
        given = {"weight": 3, "p": 1, "shots": 8, "seed": 0} | changed
        with pytest.raises(ProblemError, match=name):
            subspace.solve_fixed_weight(problem, **given)
    with pytest.raises(ProblemError, match="15"):
        subspace.solve_fixed_weight(random_ising(1, 15), 7, p=1, shots=8, seed=0)


def test_no_layer_begins_after_the_deadline() -> None:
    left = iter([1.0, 1.0, 0.0])
    with pytest.raises(Refused) as refused:
        subspace.solve_fixed_weight(random_ising(10, 8), 4, p=4, shots=8, seed=0, remaining_s=lambda: next(left))
    assert refused.value.reason is Reason.TIMEOUT
