"""The diagonal engine against PennyLane, a dense reference, the closed form at p = 1, and the symmetries of the circuit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.quantum.ising import IsingProblem, basis_spins
from qstream.quantum.qaoa.measure import distributions
from qstream.quantum.qaoa.schedule import ramp
from qstream.quantum.qaoa.statevector import Statevector
from qstream.quantum.record import Refused
from schemas.solver import Reason

GAMMAS = np.array([0.31, -0.87, 0.52])
BETAS = np.array([-0.44, 1.9, -0.21])


def dense(n: int, seed: int, fields: bool = True) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n) * fields, 1.7)


def regular(n: int, seed: int) -> IsingProblem:
    return IsingProblem(n, np.triu(nx.to_numpy_array(nx.random_regular_graph(3, n, seed=seed)), 1))


def run(problem: IsingProblem, gammas: Any, betas: Any, dtype: type[Any] = np.float64) -> NDArray[np.float64]:
    circuit = Statevector([problem], dtype)
    circuit.evolve(gammas, betas)
    return distributions(circuit)[0].full()


def pennylane_probabilities(problem: IsingProblem, device: str) -> NDArray[np.float64]:
    """The same circuit of gates: H, IsingZZ(2 gamma J), RZ(2 gamma h), RX(2 beta)."""
    qml = pytest.importorskip("pennylane")
    gates = [qml.Hadamard(i) for i in range(problem.n)]
    for gamma, beta in zip(GAMMAS, BETAS, strict=True):
        gates += [qml.IsingZZ(2 * gamma * problem.J[i, j], [i, j]) for i, j in np.argwhere(problem.J).tolist()]
        gates += [qml.RZ(2 * gamma * problem.h[i], i) for i in range(problem.n)]
        gates += [qml.RX(2 * beta, i) for i in range(problem.n)]
    script = qml.tape.QuantumScript(gates, [qml.probs(wires=range(problem.n))])
    return np.asarray(qml.execute([script], qml.device(device, wires=problem.n))[0])


@pytest.mark.parametrize("device", ["default.qubit", "lightning.qubit"])
@pytest.mark.parametrize(
    "problem",
    [dense(1, 0), dense(2, 1, fields=False), dense(5, 2), dense(6, 3, fields=False), dense(7, 4, fields=False), regular(10, 5)],
    ids=["one spin", "one bond", "fields", "mirrored, odd rest", "mirrored, even rest", "integer levels"],
)
def test_its_probabilities_are_those_of_pennylane(problem: IsingProblem, device: str) -> None:
    expected = pennylane_probabilities(problem, device)
    np.testing.assert_allclose(run(problem, GAMMAS, BETAS), expected, atol=1e-12)
    np.testing.assert_allclose(run(problem, GAMMAS, BETAS, np.float32), expected, atol=1e-5)


@pytest.mark.parametrize("fields", [True, False])
def test_every_number_of_qubits_is_split_into_groups_that_make_the_whole_mixer(fields: bool) -> None:
    for n in range(1, 10):
        problem = dense(n, n, fields)
        np.testing.assert_allclose(run(problem, GAMMAS, BETAS), reference(problem, None, 0.5), atol=1e-13)


@pytest.mark.parametrize("epsilon", [0.05, 0.25, 0.5])
def test_a_warm_start_has_its_product_state_and_the_mixer_that_keeps_it(epsilon: float) -> None:
    problem = dense(6, 8)
    start = np.array([1, -1, -1, 1, 1, -1], np.int8)
    circuit = Statevector([problem], np.float64, start, epsilon)
    for layer in (slice(0, 1), slice(1, 3)):
        circuit.evolve(GAMMAS[layer], BETAS[layer])
    np.testing.assert_allclose(circuit.probabilities()[0], reference(problem, start, epsilon), atol=1e-13)
    circuit.reset()
    before = circuit.probabilities()[0]
    circuit.evolve([0.0], [0.9])
    np.testing.assert_allclose(circuit.probabilities()[0], before, atol=1e-13)


def reference(problem: IsingProblem, start: NDArray[np.int8] | None, epsilon: float) -> NDArray[np.float64]:
    """Dense matrices of 2^n rows; the mixer of a qubit is sin t X + s cos t Z, of which the start is an eigenstate."""
    x, z = np.array([[0, 1], [1, 0]]), np.diag([1, -1])
    signs = np.ones(problem.n) if start is None else start
    tilt = 0.0 if start is None else 1 - 2 * epsilon
    state = np.ones(1, complex)
    for sign in signs:
        same, other = math.sqrt((1 + tilt) / 2), math.sqrt((1 - tilt) / 2)
        state = np.kron(state, [same, other] if sign > 0 else [other, same])
    for gamma, beta in zip(GAMMAS, BETAS, strict=True):
        mixer = np.ones((1, 1))
        for sign in signs:
            generator = math.sqrt(1 - tilt * tilt) * x + tilt * sign * z
            mixer = np.kron(mixer, math.cos(beta) * np.eye(2) - 1j * math.sin(beta) * generator)
        state = mixer @ (np.exp(-1j * gamma * problem.diagonal()) * state)
    return np.abs(state) ** 2


def test_one_layer_has_the_correlations_of_the_closed_form_with_fields() -> None:
    problem, gamma, beta = dense(6, 9), 0.37, -0.55
    p, spins = run(problem, [gamma], [beta]), basis_spins(6)
    J, h, n = problem.symmetric(), problem.h, 6  # noqa: N806
    for i in range(n):
        others = [k for k in range(n) if k != i]
        single = math.sin(2 * beta) * math.sin(2 * gamma * h[i]) * math.prod(math.cos(2 * gamma * J[i, k]) for k in others)
        assert p @ spins[:, i] == pytest.approx(single, abs=1e-14)
    for i, j in [(0, 1), (2, 5), (3, 4)]:
        rest = [k for k in range(n) if k not in (i, j)]
        one = math.cos(2 * gamma * h[i]) * math.prod(math.cos(2 * gamma * J[i, k]) for k in rest)
        two = math.cos(2 * gamma * h[j]) * math.prod(math.cos(2 * gamma * J[j, k]) for k in rest)
        plus = math.cos(2 * gamma * (h[i] + h[j])) * math.prod(math.cos(2 * gamma * (J[i, k] + J[j, k])) for k in rest)
        minus = math.cos(2 * gamma * (h[i] - h[j])) * math.prod(math.cos(2 * gamma * (J[i, k] - J[j, k])) for k in rest)
        pair = 0.5 * math.sin(4 * beta) * math.sin(2 * gamma * J[i, j]) * (one + two)
        pair -= 0.5 * math.sin(2 * beta) ** 2 * (plus - minus)
        assert p @ (spins[:, i] * spins[:, j]) == pytest.approx(pair, abs=1e-14)


@settings(max_examples=25)
@given(st.integers(1, 7), st.integers(0, 10**6), st.booleans(), st.lists(st.floats(-4, 4), min_size=2, max_size=8))
def test_the_circuit_is_unitary_and_blind_to_the_sign_of_all_angles(n: int, seed: int, fields: bool, angles: list[float]) -> None:
    half = len(angles) // 2
    gammas, betas = np.array(angles[:half]), np.array(angles[half : 2 * half])
    problem = dense(n, seed, fields)
    circuit = Statevector([problem], np.float64)
    circuit.evolve(gammas, betas)
    assert np.sum(circuit.state**2) == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(run(problem, -gammas, -betas), circuit_probabilities(circuit), atol=1e-12)


def circuit_probabilities(circuit: Statevector) -> NDArray[np.float64]:
    return distributions(circuit)[0].full()


def test_without_phase_or_without_mixer_all_states_are_equally_likely() -> None:
    problem = dense(5, 11)
    for gammas, betas in (([0.0, 0.0], [0.7, -0.2]), ([0.4, 0.3], [0.0, 0.0])):
        np.testing.assert_allclose(run(problem, gammas, betas), 1 / 32, atol=1e-15)


def test_minimisation_needs_positive_gammas_with_negative_betas() -> None:
    problem = dense(8, 12)
    good, bad = (float(run(problem, [g], [-0.4]) @ problem.diagonal()) for g in (0.2, -0.2))
    assert good < problem.diagonal().mean() < bad


def test_relabelled_spins_give_relabelled_probabilities() -> None:
    problem, order = dense(5, 13), [3, 0, 4, 1, 2]
    J = problem.symmetric()[np.ix_(order, order)]  # noqa: N806
    moved = IsingProblem(5, np.triu(J, 1), problem.h[order])
    expected = run(problem, GAMMAS, BETAS).reshape((2,) * 5).transpose(order).reshape(-1)
    np.testing.assert_allclose(run(moved, GAMMAS, BETAS), expected, atol=1e-13)


def test_turned_spins_give_turned_probabilities() -> None:
    problem, turn = dense(5, 14), np.array([1, -1, 1, -1, -1])
    turned = replace(problem, J=problem.J * np.outer(turn, turn), h=problem.h * turn)
    expected = np.flip(run(problem, GAMMAS, BETAS).reshape((2,) * 5), axis=(1, 3, 4)).reshape(-1)
    np.testing.assert_allclose(run(turned, GAMMAS, BETAS), expected, atol=1e-13)


def test_an_offset_however_large_changes_no_probability() -> None:
    problem = dense(5, 15)
    np.testing.assert_array_equal(run(replace(problem, offset=1e15), GAMMAS, BETAS), run(problem, GAMMAS, BETAS))


@pytest.mark.parametrize("size", [1e-60, 1e60])
def test_single_precision_serves_energies_of_any_size(size: float) -> None:
    problem = dense(6, 18)
    scaled = IsingProblem(6, size * problem.J, size * problem.h)
    np.testing.assert_allclose(run(scaled, GAMMAS / size, BETAS, np.float32), run(problem, GAMMAS, BETAS), atol=1e-5)


def test_a_field_on_spin_0_favours_states_whose_highest_bit_opposes_it() -> None:
    problem = IsingProblem(3, np.zeros((3, 3)), np.array([1.0, 0.0, 0.0]))
    p = run(problem, [math.pi / 4], [-math.pi / 4])
    np.testing.assert_allclose(p, [0, 0, 0, 0, 0.25, 0.25, 0.25, 0.25], atol=1e-15)


def test_single_precision_keeps_probabilities_through_32_layers() -> None:
    for problem in (dense(10, 16), dense(10, 16, fields=False), regular(10, 17)):
        angles = ramp(32, problem.sigma())
        np.testing.assert_allclose(run(problem, *angles, np.float32), run(problem, *angles), atol=1e-5)


def test_problems_together_have_the_states_that_they_have_alone() -> None:
    problems = [dense(6, seed) for seed in range(4)]
    gammas = np.outer([1.0, 0.5, -0.3, 2.0], GAMMAS)
    together = Statevector(problems, np.float64)
    together.evolve(gammas, BETAS)
    for row, problem, own in zip(together.probabilities(), problems, gammas, strict=True):
        np.testing.assert_allclose(row, run(problem, own, BETAS), atol=1e-14)


def test_it_stops_before_the_layer_for_which_no_time_remains() -> None:
    left = iter([1.0, 0.5, 0.0])
    with pytest.raises(Refused, match="before layer 3") as refused:
        Statevector([dense(4, 0)]).evolve(GAMMAS, BETAS, lambda: next(left))
    assert refused.value.reason is Reason.TIMEOUT


def test_it_refuses_unequal_sizes_too_many_qubits_and_no_problem() -> None:
    with pytest.raises(ProblemError, match=r"problems must be .*got \[3, 4\] spins"):
        Statevector([dense(3, 0), dense(4, 0)])
    with pytest.raises(ProblemError, match=r"n must be .*got 23"):
        Statevector([dense(23, 0)])
    with pytest.raises(ProblemError, match=r"problems must be .*got \[\] spins"):
        Statevector([])
    with pytest.raises(ProblemError, match=r"epsilon must be .*got 0"):
        Statevector([dense(3, 0)], start=np.ones(3, np.int8), epsilon=0)
