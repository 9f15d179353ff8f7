"""The quantum autoencoder: as good as PCA where it has the angles for it, and what it made needs no circuit to be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qstream.compression import CompressionOptions, compress, learn_basis
from qstream.compression.basis import basis_of
from qstream.compression.qae import diagonal_within, train, wires
from qstream.errors import OptionError, ProblemError

QAE = CompressionOptions(mode="bounded", bound_kind="l2", bound=0.05, qae=True)


def rows(columns: int, count: int = 600) -> np.ndarray:
    rng = np.random.default_rng(1)
    mixing = rng.standard_normal((columns, columns)) * 0.5 ** np.arange(columns)[:, None].clip(max=10)
    return (rng.standard_normal((count, columns)) @ mixing).astype(np.float32)


def decaying(width: int) -> np.ndarray:
    """A second moment whose eigenvalues fall, in directions of its own."""
    axes = np.linalg.qr(np.random.default_rng(3).standard_normal((width, width)))[0]
    return np.asarray((axes * np.exp(-5 / width * np.arange(width))) @ axes.T)


@pytest.mark.parametrize(("width", "kept", "layers", "steps"), [(4, 1, 16, 100), (16, 4, None, 200)])
def test_a_circuit_with_k_times_n_less_k_angles_finds_the_subspace_of_pca(
    width: int, kept: int, layers: int | None, steps: int
) -> None:
    found = train(decaying(width), kept, layers=layers, steps=steps)
    assert found.parameters >= kept * (width - kept)
    assert 1 - 1e-6 < found.relative < 1.002
    assert found.control > 1.4
    basis = diagonal_within(found.unitary, decaying(width), kept)
    assert np.allclose(basis.T @ basis, np.eye(width), atol=1e-9)


def test_a_width_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ProblemError, match="columns must be a power of two up to 128, got 6"):
        train(np.eye(6), 2)


def test_wires_that_dropout_finds_harmless_are_left_out() -> None:
    few = np.concatenate([np.ones(16), np.full(48, 1e-5)])
    assert [wires(each, samples=64, seed=0) for each in (few, np.ones(64), np.ones(40), np.ones(1))] == [4, 6, 6, 1]
    rng = np.random.default_rng(5)
    x = 1e-3 * rng.standard_normal((500, 32))
    x[:, 3::4] += rng.standard_normal((500, 3)) @ rng.standard_normal((3, 8))
    all_of_them, fewer = learn_basis(x, kind="qae"), learn_basis(x, kind="qae", dropout=64)
    assert (all_of_them.record["n"], fewer.record["n"], fewer.record["wires_left_out"]) == (5, 3, 2)
    assert fewer.kind == "qae"
    assert fewer.record["bits"] <= 1.01 * fewer.record["twin_bits"]


def test_the_record_says_what_was_simulated_and_what_its_twin_gave() -> None:
    ticks = iter((1.0, 3.5))
    record = learn_basis(rows(4), kind="qae", seed=2, clock=lambda: next(ticks)).record
    assert record["seconds"] == 2.5
    shown = {key: record[key] for key in ("label", "execution", "n", "layers", "shots", "seed", "twin")}
    assert shown == {
        "label": "simulated",
        "execution": "simulated-statevector",
        "n": 2,
        "layers": 16,
        "shots": 0,
        "seed": 2,
        "twin": "klt",
    }
    assert record["bits"] == pytest.approx(record["twin_bits"], rel=1e-3)
    assert "seconds" not in learn_basis(rows(4), kind="qae").record


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
    assert learn_basis(np.ones((9, 1)), kind="qae").record["fallback_reason"] == "not_needed"
    nothing = basis_of(-np.full((1, 4, 4), 1e-60), np.zeros(4), {"kind": "qae", "seed": 0})
    assert nothing.record["fallback_reason"] == "not_needed"
    odd = learn_basis(rows(7), kind="qae")
    assert (odd.kind, odd.record["fallback_reason"], odd.record["n"]) == ("klt", "twin_smaller", 2)
    noise = np.random.default_rng(2).standard_normal((200, 7)).astype(np.float32)
    done, plain = compress(noise, QAE), compress(noise, QAE.changed({"qae": False}))
    assert done.fallback_reason in ("twin_smaller", "gain_below_gate")
    assert done.header.parts == plain.header.parts
    with pytest.raises(OptionError, match="option qae must be false with mode lossless"):
        CompressionOptions(qae=True)
