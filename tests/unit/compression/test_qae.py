"""The quantum autoencoder: as good as PCA where it has the angles for it, and what it made needs no circuit to be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from qstream.compression import CompressionOptions, compress, learn_basis
from qstream.compression.qae import diagonal_within, train
from qstream.errors import OptionError, ProblemError

QAE = CompressionOptions(mode="bounded", bound_kind="l2", bound=0.05, qae=True)


def rows(columns: int, count: int = 600) -> np.ndarray:
    rng = np.random.default_rng(1)
    mixing = rng.standard_normal((columns, columns)) * 0.5 ** np.arange(columns)[:, None].clip(max=10)
    return (rng.standard_normal((count, columns)) @ mixing).astype(np.float32)


def test_a_circuit_finds_the_subspace_of_pca() -> None:
    x = rows(4).astype(np.float64)
    moment = x.T @ x / len(x)
    found = train(moment, 1, steps=100)
    assert (found.qubits, found.parameters) == (2, 32)
    assert found.relative < 1.002
    assert found.control > 2
    basis = diagonal_within(found.unitary, moment, 1)
    assert np.allclose(basis.T @ basis, np.eye(4), atol=1e-9)
    with pytest.raises(ProblemError, match="columns must be a power of two up to 128, got 6"):
        train(np.eye(6), 2)


def test_the_matrix_of_the_circuit_is_pennylane_s() -> None:
    qml = pytest.importorskip("pennylane")
    found = train(np.diag([4.0, 2.0, 1.0, 0.5]), 1, steps=2, seed=5)
    angles = 2 * np.pi * torch.rand(16, 2, generator=torch.Generator().manual_seed(5))
    assert found.layers == 16

    @qml.qnode(qml.device("default.qubit", wires=2))
    def circuit(state: np.ndarray) -> object:
        qml.StatePrep(state, wires=[0, 1])
        for layer in angles.numpy():
            for wire in (0, 1):
                qml.RY(layer[wire], wires=wire)
            qml.CNOT([0, 1])
            qml.CNOT([1, 0])
        return qml.state()

    untrained = train(np.diag([4.0, 2.0, 1.0, 0.5]), 1, steps=0, seed=5).unitary
    theirs = np.stack([np.real(circuit(state)) for state in np.eye(4)], axis=1)
    assert np.allclose(untrained, theirs, atol=1e-6)


def test_a_block_made_with_circuits_is_read_without_torch_and_pennylane(tmp_path: Path) -> None:
    x = rows(4, 2000)
    done = compress(x, QAE)
    kinds = [op["kind"] for op in done.ops if op["op"] == "transform"]
    assert kinds == ["qae"]
    (tmp_path / "block").write_bytes(done.data)
    script = (
        "import sys; sys.modules.update(torch=None, pennylane=None)\n"
        "import numpy as np; from pathlib import Path; from qstream.compression import restore\n"
        f"np.save({str(tmp_path / 'x.npy')!r}, restore(Path({str(tmp_path / 'block')!r}).read_bytes()).array)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3])
    back = np.load(tmp_path / "x.npy")
    assert np.linalg.norm(back - x) <= 0.05 * np.linalg.norm(x)


def test_the_twin_answers_with_a_reason_where_the_circuit_does_not_pay() -> None:
    wide = learn_basis(rows(384, 400), kind="qae")
    assert (wide.kind, wide.record["fallback_reason"]) == ("klt", "deadline")
    noise = np.random.default_rng(2).standard_normal((200, 7)).astype(np.float32)
    assert learn_basis(noise, kind="qae").record["fallback_reason"] == "not_needed"
    assert compress(noise, QAE).fallback_reason in ("not_needed", "gain_below_gate")
    with pytest.raises(OptionError, match="option qae must be false with mode lossless"):
        CompressionOptions(qae=True)
