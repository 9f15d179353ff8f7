"""The Fourier transform against its definition and against PennyLane."""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest

from qstream.errors import ProblemError
from qstream.quantum.spectral.qft import inverse_gates, inverse_qft, qft, qft_gates, run_gates


def definition(n: int) -> np.ndarray:
    j = np.arange(2**n)
    return np.exp(2j * np.pi * np.outer(j, j) / 2**n) / 2 ** (n / 2)


def random_state(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    state = rng.normal(size=2**n) + 1j * rng.normal(size=2**n)
    return state / np.linalg.norm(state)


@pytest.mark.parametrize("n", [1, 3, 6])
def test_it_is_the_unitary_fourier_matrix_with_a_plus_sign(n):
    columns = qft(np.eye(2**n)).T
    assert np.abs(columns - definition(n)).max() < 1e-13
    assert np.abs(columns @ columns.conj().T - np.eye(2**n)).max() < 1e-13


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_circuit_and_pennylane_s_own_transform_make_the_same_state(n):
    state = random_state(n)
    wires = list(range(n))
    prepare = qml.StatePrep(state, wires=wires)
    assert np.abs(run_gates([prepare, *qft_gates(wires)], n) - qft(state)).max() < 1e-14
    assert np.abs(run_gates([prepare, qml.QFT(wires)], n) - qft(state)).max() < 1e-14
    assert np.abs(run_gates([prepare, *inverse_gates(qft_gates(wires))], n) - inverse_qft(state)).max() < 1e-14


def test_the_circuit_has_n_hadamards_and_a_phase_for_each_pair():
    names = [gate.name for gate in qft_gates(range(6))]
    assert names.count("Hadamard") == 6
    assert names.count("ControlledPhaseShift") == 15
    assert names.count("SWAP") == 3


def test_the_inverse_undoes_it_on_a_batch():
    batch = np.stack([random_state(4, seed) for seed in range(3)])
    assert np.abs(inverse_qft(qft(batch)) - batch).max() < 1e-14


def test_a_period_becomes_a_comb():
    state = np.zeros(16)
    state[::4] = 0.5
    assert np.flatnonzero(np.abs(qft(state)) > 1e-12).tolist() == [0, 4, 8, 12]


@pytest.mark.parametrize("state", [[], [1.0], [1.0, 0, 0], 1.0, [np.nan, 1], [np.inf, 1], ["a", "b"], [[1, 2], [3]]])
def test_what_is_no_state_is_refused_by_name(state):
    with pytest.raises(ProblemError, match="state"):
        qft(state)
    with pytest.raises(ProblemError, match="state"):
        inverse_qft(state)
