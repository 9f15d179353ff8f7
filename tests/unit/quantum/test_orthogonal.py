"""Circuits of RY and CNOT: the matrix is that of PennyLane, the gradient that of autograd and of the parameter shift."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qstream.errors import ProblemError
from qstream.quantum.variational.gates import default_ranges
from qstream.quantum.variational.layer import circuit_unitary, cnot_rings
from qstream.quantum.variational.orthogonal import lost_energy, orthogonal

RNG = np.random.default_rng(3)
ANGLES = RNG.uniform(0, 2 * np.pi, (5, 4))
ROWS = RNG.standard_normal((40, 16))
MOMENT = ROWS.T @ ROWS / 40


@pytest.mark.parametrize("n", [3, 4])
def test_the_matrix_is_that_of_pennylane(n: int) -> None:
    qml = pytest.importorskip("pennylane")
    given = ANGLES[:, :n]

    @qml.qnode(qml.device("default.qubit", wires=n))
    def circuit(state: np.ndarray) -> object:
        qml.StatePrep(state, wires=range(n))
        for angles, reach in zip(given, default_ranges(n, 5), strict=True):
            for wire in range(n):
                qml.RY(angles[wire], wires=wire)
            for wire in range(n if n > 3 else 2):  # three qubits in an open ring
                qml.CNOT([wire, (wire + reach) % n])
        return qml.state()

    theirs = np.stack([np.real(circuit(state)) for state in np.eye(1 << n)], axis=1)
    assert np.abs(orthogonal(given) - theirs).max() < 1e-6


def test_the_gradient_is_that_of_autograd_and_of_the_parameter_shift() -> None:
    angles = torch.tensor(ANGLES, requires_grad=True)
    still = torch.zeros_like(angles)
    rows = circuit_unitary(torch.stack([still, angles, still], -1), cnot_rings(4, 5)).real[:2]
    expected = torch.tensor(MOMENT).trace() - ((rows @ torch.tensor(MOMENT)) * rows).sum()
    expected.backward()
    energy, gradient = lost_energy(ANGLES, MOMENT, 2)
    assert energy == pytest.approx(expected.item(), rel=1e-12)
    assert np.abs(gradient - angles.grad.numpy()).max() < 1e-12
    for layer, qubit in np.ndindex(ANGLES.shape):
        shift = np.zeros_like(ANGLES)
        shift[layer, qubit] = np.pi / 2
        ends = [lost_energy(ANGLES + sign * shift, MOMENT, 2)[0] for sign in (1, -1)]
        assert (ends[0] - ends[1]) / 2 == pytest.approx(gradient[layer, qubit], abs=1e-12)


def test_one_qubit_and_bad_shapes() -> None:
    assert np.allclose(orthogonal([[0.6]]), [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    with pytest.raises(ProblemError, match=r"angles must be \[layers, qubits\], got shape \(3,\)"):
        orthogonal([1.0, 2.0, 3.0])
    with pytest.raises(ProblemError, match=r"moment must be \[16, 16\] with 1 to 16 kept"):
        lost_energy(ANGLES, MOMENT, 17)
