"""Nets: read without torch as torch reads them, kept where they beat a table, skipped with a reason without their codebook."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qstream.compression import (
    BlockError,
    CompressionOptions,
    RestoreOptions,
    codebook_bytes,
    compress,
    read_codebook,
    restore,
    train_codebook,
)
from qstream.compression.codebook import Codebook
from qstream.compression.nets import SHAPES, Net, _convolved, _recurrent
from qstream.compression.train_nets import Pair, _Convolution, _Recurrence, train_net

RATE = CompressionOptions(mode="rate", target_bits=2.0, denoiser=True, spectral=False)


def smooth_rows(seed: int) -> np.ndarray:
    """Rows whose neighbours tell much of a value, which a table cannot know."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((40, 80))
    return np.stack([np.convolve(row, np.ones(6) / 6, "same") for row in noise]).astype(np.float32)


@pytest.mark.parametrize("kind", ["denoiser", "lstm"])
def test_numpy_computes_what_torch_does(kind: str) -> None:
    torch.manual_seed(1)
    model = _Convolution() if kind == "denoiser" else _Recurrence()
    for tensor in model.arrays():
        torch.nn.init.normal_(tensor, std=0.3)
    parameters = {name: tensor.detach().numpy() for name, tensor in zip(SHAPES[kind], model.arrays(), strict=True)}
    assert {name: values.shape for name, values in parameters.items()} == SHAPES[kind]
    seen = np.random.default_rng(2).standard_normal((7, 30, 2)).astype(np.float32)
    ours = (_convolved if kind == "denoiser" else _recurrent)(seen, parameters)
    assert np.allclose(ours, model(torch.from_numpy(seen)).detach().numpy(), atol=1e-5)


def test_a_trained_denoiser_corrects_other_rows_and_travels_in_a_codebook() -> None:
    book = read_codebook(codebook_bytes(train_codebook([("h", smooth_rows(1))], kind="denoiser", bits=2.0, steps=120)))
    assert book.nets["h"].record["left"] < 0.9 * book.nets["h"].record["peer"]
    x = smooth_rows(2)
    done = compress(x, RATE, codebook=book, name="h")
    plain = compress(x, RATE.changed({"denoiser": False}))
    assert [op["op"] for op in done.ops][-1] == "net"
    back = restore(done.data, codebook=book)
    assert np.square(back.array - x).sum() < 0.9 * np.square(restore(plain).array - x).sum()
    assert (back.refined[0].name, back.refined[0].reason) == ("denoiser", None)
    assert restore(done.data).refined[0].reason == "library_missing"
    assert restore(done.data, RestoreOptions(denoiser=False), codebook=book).refined[0].reason == "not_needed"
    noise = np.random.default_rng(3).standard_normal((40, 80)).astype(np.float32)
    parts = compress(noise, RATE, codebook=book, name="h").header.parts
    assert parts == compress(noise, RATE.changed({"denoiser": False})).header.parts
    assert compress(noise, RATE).fallback_reason == "not_trained"


def with_outliers(seed: int) -> np.ndarray:
    """Smooth rows next to one large value each, which makes the scale of a row coarse."""
    x = smooth_rows(seed)
    x[:, 0] = 100
    return x


def test_a_denoiser_corrects_whole_numbers_with_a_scale_a_row_where_that_pays() -> None:
    int8 = CompressionOptions.recommended("cpu_only")
    book = train_codebook([("h", with_outliers(1))], kind="denoiser", bits=None, steps=150)
    x = with_outliers(2)
    done, plain = compress(x, int8, codebook=book, name="h"), compress(x, int8.changed({"denoiser": False}))
    assert [op["op"] for op in done.ops] == ["int8", "net"]
    assert done.quality.rel_l2 < 0.95 * plain.quality.rel_l2
    back = restore(done.data, codebook=book).array
    assert np.linalg.norm(back - x) == pytest.approx(done.quality.rel_l2 * np.linalg.norm(x), rel=1e-3)
    assert np.array_equal(restore(done.data).array, restore(plain.data).array)
    noise = np.random.default_rng(3).standard_normal((40, 80)).astype(np.float32)
    harmed = compress(noise, int8, codebook=book, name="h")
    assert (harmed.fallback_reason, harmed.header.parts) == ("gain_below_gate", compress(noise, int8).header.parts)
    assert compress(x, int8).fallback_reason == "not_trained"


def test_a_net_that_is_no_better_than_a_table_is_left_out() -> None:
    noise = np.random.default_rng(4).standard_normal((60, 100)).astype(np.float32)
    assert train_codebook([("w", noise)], kind="lstm", steps=5).nets == {}


def test_an_lstm_learns_from_the_columns_before() -> None:
    x = np.sin(np.arange(3000, dtype=np.float32).reshape(60, 50) / 3)[:, :20].copy()
    y = np.rint(x * 2) / 2
    net = train_net([Pair(x, y, 0.5)], "lstm", steps=150)
    assert net.record["left"] < 0.8
    assert np.square(net.correct(y, 0.5) - x).sum() < 0.8 * np.square(y - x).sum()
    book = Codebook({}, nets={"s": net})
    done = compress(x, RATE, codebook=book, name="s")
    assert done.ops[-1]["op"] == "net"
    plain = restore(done, codebook=book)
    assert (plain.refined[0].name, plain.refined[0].reason) == ("lstm", "not_needed")
    fine = restore(done, RestoreOptions(lstm=True), codebook=book)
    assert np.square(fine.array - x).sum() < 0.9 * np.square(plain.array - x).sum()


def test_a_damaged_codebook_is_refused() -> None:
    net = Net("lstm", {name: np.zeros(shape, np.float32) for name, shape in SHAPES["lstm"].items()})
    data = codebook_bytes(Codebook({}, nets={"h": net}))
    assert read_codebook(data).nets["h"].digest == net.digest
    for wrong in (data[:50], data.replace(b'\\"lstm\\"', b'\\"mlst\\"'), data.replace(b"h.wo", b"h.ow")):
        with pytest.raises(BlockError, match=r"^bad_frame"):
            read_codebook(wrong)


def test_a_trained_table_serves_tensors_of_its_name_and_does_not_travel() -> None:
    rng = np.random.default_rng(7)
    options = CompressionOptions(mode="rate", target_bits=2.0, spectral=False)
    book = read_codebook(codebook_bytes(train_codebook([("g", rng.laplace(size=(64, 128)))], kind="table", bits=2.0)))
    assert book.nets["g"].record["left"] == pytest.approx(book.nets["g"].record["peer"], abs=0.02)
    x = rng.laplace(size=(64, 128)).astype(np.float32)
    done, own = compress(x, options, codebook=book, name="g"), compress(x, options)
    assert (done.ops[-1]["op"], done.ops[-1]["kind"], own.ops[-1]["op"]) == ("net", "table", "table")
    assert done.payload_bytes < own.payload_bytes
    assert done.quality.rel_l2 < 1.02 * own.quality.rel_l2
    back = restore(done, codebook=book)
    assert np.linalg.norm(back.array - x) == pytest.approx(done.quality.rel_l2 * np.linalg.norm(x), rel=1e-4)
    assert (back.refined[0].name, back.refined[0].reason) == ("table", None)
    assert restore(done).refined[0].reason == "library_missing"
    noise = rng.uniform(-1, 1, (64, 128)).astype(np.float32)
    assert train_codebook([("u", noise)], kind="table", bits=4.0).nets == {}
