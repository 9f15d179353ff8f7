"""Phase estimation against the sum that defines it and against PennyLane's template."""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.quantum.spectral.qft import run_gates
from qstream.quantum.spectral.qpe import clock_distribution, estimate, estimate_by_circuit


def random_unitary(size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.linalg.qr(rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size)))[0]


def by_definition(phase: float, clock: int) -> np.ndarray:
    size = 2**clock
    j, k = np.arange(size), np.arange(size)[:, np.newaxis]
    return np.abs(np.exp(2j * np.pi * j * (phase - k / size)).mean(axis=1)) ** 2


@pytest.mark.parametrize("clock", [1, 3, 6])
@pytest.mark.parametrize("phase", [0.0, 0.25, 0.3, 1 / 3, 0.999, -0.1, 7.3, 1e-9, 0.5 - 1e-13])
def test_the_closed_form_is_the_square_of_the_sum(phase, clock):
    assert np.abs(clock_distribution(phase, clock) - by_definition(phase, clock)).max() < 1e-12


@given(st.floats(-2, 2), st.integers(1, 10))
def test_it_is_a_distribution_and_the_nearest_value_has_four_ninths_of_pi_squared(phase, clock):
    probabilities = clock_distribution(phase, clock)
    assert abs(probabilities.sum() - 1) < 1e-9
    nearest = round(phase * 2**clock) % 2**clock
    assert probabilities[nearest] >= 4 / np.pi**2 - 1e-9


def test_a_phase_on_the_clock_is_read_with_certainty():
    assert clock_distribution([5 / 16, 21 / 16], 4)[:, 5] == pytest.approx([1, 1], abs=1e-15)


@pytest.mark.parametrize(("size", "clock"), [(2, 4), (4, 3)])
def test_closed_form_circuit_and_pennylane_s_template_agree(size, clock):
    unitary = random_unitary(size, seed=size)
    state = np.arange(1, size + 1) / np.linalg.norm(np.arange(1, size + 1))
    qubits = size.bit_length() - 1
    system = list(range(clock, clock + qubits))
    gates = [
        qml.StatePrep(state, wires=system),
        qml.QuantumPhaseEstimation(unitary, target_wires=system, estimation_wires=range(clock)),
    ]
    rival = (np.abs(run_gates(gates, clock + qubits)) ** 2).reshape(2**clock, -1).sum(1)
    assert np.abs(estimate(unitary, state, clock) - rival).max() < 1e-12
    assert np.abs(estimate_by_circuit(unitary, state, clock) - rival).max() < 1e-12


def test_coinciding_eigenvalues_do_no_harm():
    swap = np.eye(4)[[0, 2, 1, 3]]
    singlet, triplet = [0, 1, -1, 0], [1, 2, 2, 3]
    assert estimate(swap, singlet, 3)[4] == pytest.approx(1)  # eigenvalue -1 is half a turn
    assert estimate(swap, triplet, 3)[0] == pytest.approx(1)


@pytest.mark.parametrize("clock", [0, 17, -1, True, 2.0, "3"])
def test_a_clock_out_of_range_is_refused(clock):
    with pytest.raises(ProblemError, match="clock"):
        clock_distribution(0.5, clock)


def test_bad_phases_operators_and_states_are_refused_by_name():
    for phases in (np.nan, [0.1, np.inf], 1j, "x"):
        with pytest.raises(ProblemError, match="phases"):
            clock_distribution(phases, 3)
    for unitary in (np.ones((2, 2)), np.eye(3)[:2], [[np.nan, 0], [0, 1]], np.eye(2) * 1.001, [], [1.0]):
        with pytest.raises(ProblemError, match="unitary"):
            estimate(unitary, [1, 0], 3)
    for state in ([0, 0], [1, 0, 0], [np.inf, 0], [[1], [0]]):
        with pytest.raises(ProblemError, match="state"):
            estimate(np.eye(2), state, 3)
    with pytest.raises(ProblemError, match="circuit"):
        estimate_by_circuit(np.eye(8), np.ones(8), 12)
