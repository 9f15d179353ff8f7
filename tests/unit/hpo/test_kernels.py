"""Quantum kernels of the Gaussian process equal PennyLane's circuits; gradients and rows are tested with those of all kernels."""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest

from qstream.hpo import kernels
from qstream.quantum.variational.gates import default_ranges

NUMERIC = np.arange(3)
THETA = np.array([-0.3, 0.2, 0.1, 0.4, -5.0])


def circuit(name: str, entangled: bool, row: np.ndarray) -> None:
    wires = range(len(row))
    if name == "reupload":
        for reach in default_ranges(len(row), kernels.UPLOADS):
            qml.AngleEmbedding(row, wires, rotation="Y")
            for wire in wires if entangled else ():
                qml.CNOT([wire, (wire + reach) % len(row)])
    elif entangled:
        qml.IQPEmbedding(row, wires)
    else:
        for wire in wires:
            qml.Hadamard(wire)
            qml.RZ(row[wire], wire)


def by_pairs(name: str, entangled: bool, x: np.ndarray) -> np.ndarray:
    wires = list(range(x.shape[1]))
    device = qml.device("default.qubit", wires=wires)

    @qml.qnode(device)
    def overlap(a: np.ndarray, b: np.ndarray) -> object:
        circuit(name, entangled, a)
        qml.adjoint(lambda row: circuit(name, entangled, row))(b)
        return qml.probs(wires=wires)

    @qml.qnode(device)
    def bloch(row: np.ndarray) -> object:
        circuit(name, entangled, row)
        return [qml.expval(pauli(wire)) for wire in wires for pauli in (qml.PauliX, qml.PauliY, qml.PauliZ)]

    if name == "projected":
        vectors = np.array([bloch(row) for row in x])
        return np.exp(-((vectors[:, None] - vectors) ** 2).sum(-1) / 2)
    return np.array([[overlap(a, b)[0] for b in x] for a in x])


@pytest.mark.parametrize("entangled", [True, False])
@pytest.mark.parametrize("name", sorted(kernels.KERNELS))
def test_the_gram_matrix_is_that_of_pairs_of_circuits(name, entangled):
    x = np.random.default_rng(0).random((4, 3))
    covariance = kernels.covariance(name, NUMERIC, entangled)
    angles = (x - 0.5) / np.exp(THETA[:3])
    expected = np.exp(THETA[3]) * by_pairs(name, entangled, angles)
    assert covariance.gram(THETA, x) == pytest.approx(expected, abs=1e-12)
    assert covariance.against(THETA, x)(x[:2])[0] == pytest.approx(expected[:2], abs=1e-12)


def test_a_choice_is_a_factor_by_its_length_scale():
    covariance = kernels.covariance("iqp", np.array([0, 1, 1, 1]))
    theta = np.array([0.0, np.log(2.0), 0.0, -5.0])
    one_hot = np.sqrt(0.5) * np.eye(3)
    x = np.column_stack([np.full(3, 0.2), one_hot])
    assert covariance.gram(theta, x) == pytest.approx(np.where(np.eye(3), 1.0, np.exp(-0.5)), abs=1e-12)


def test_more_parameters_than_qubits_have_several_registers():
    x = np.random.default_rng(0).random((5, 13))
    groups = np.arange(13)
    covariance = kernels.covariance("reupload", groups)
    theta = covariance.start()
    halves = [kernels.covariance("reupload", np.arange(size)) for size in (7, 6)]
    parts = [half.gram(half.start(), columns) for half, columns in zip(halves, (x[:, :7], x[:, 7:]), strict=True)]
    assert covariance.gram(theta, x) == pytest.approx(parts[0] * parts[1], abs=1e-12)


def test_choices_alone_need_no_qubit():
    covariance = kernels.covariance("projected", np.array([0, 0, 0]))
    x = np.sqrt(0.5) * np.eye(3)
    assert covariance.gram(np.zeros(3), x)[0] == pytest.approx([1.0, np.exp(-1.0), np.exp(-1.0)])
