"""Pruned channels: predicted where the others tell them, left alone where they do not; HHL checks the system that predicts."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.compression import BlockError, CompressionOptions, RestoreOptions, compress, influence_by_dropout, restore
from qstream.compression.header import Prune, write
from qstream.compression.prune import influence, pruned

RNG = np.random.default_rng(6)
RATE = CompressionOptions(mode="rate", target_bits=3.0, dropout=True, table=False, spectral=False)


def alike(rows: int = 512, columns: int = 80) -> np.ndarray:
    """Rows of few directions, with means of their own."""
    rng = np.random.default_rng(6)
    mixed = rng.standard_normal((rows, 3)) @ rng.standard_normal((3, columns))
    return (mixed + 0.05 * rng.standard_normal((rows, columns)) + 0.1 * np.arange(columns)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_channels_that_the_others_tell_are_left_out_and_predicted(dtype: str) -> None:
    x = alike().astype(dtype)
    done = compress(x, RATE)
    assert [op["op"] for op in done.ops][:2] == ["prune", "quantise"]
    assert done.ops[0]["kept"] == 40
    back, plain = restore(done.data).array, compress(x, RATE.changed({"dropout": False}))
    assert np.linalg.norm(back.astype(float) - x) == pytest.approx(
        done.quality.rel_l2 * np.linalg.norm(x.astype(float)), rel=1e-2
    )
    assert done.quality.rel_l2 < 0.8 * plain.quality.rel_l2
    assert abs(done.bits_per_value - plain.bits_per_value) < 0.1


def test_noise_keeps_all_its_channels_with_a_reason() -> None:
    x = RNG.standard_normal((512, 64)).astype(np.float32)
    done = compress(x, RATE)
    assert done.fallback_reason == "gain_below_gate"
    assert done.header.parts == compress(x, RATE.changed({"dropout": False})).header.parts
    assert compress(x[:40], RATE).fallback_reason == "too_few_rows"


def test_the_influence_of_uncorrelated_channels_is_in_the_order_of_their_variance() -> None:
    variance = np.array([1.0, 9.0, 0.1, 4.0, 25.0, 2.0])
    found = influence(np.diag(variance), 4000, np.random.default_rng(1))
    assert np.array_equal(np.argsort(found), np.argsort(variance))
    x = RNG.standard_normal((200, 6)) * np.sqrt(variance)
    dropped = influence_by_dropout(lambda y: float(np.square(x - y).sum()), x)
    assert np.allclose(dropped, np.square(x).sum(axis=0))


def test_the_better_of_dropout_and_greedy_choice_stays() -> None:
    x = alike(400, 16)
    kept = pruned(x, 0.5, samples=64, seed=0).kept
    assert kept.sum() == 8
    assert np.array_equal(kept, pruned(x, 0.5, samples=64, seed=0).kept)


def test_a_circuit_solves_the_system_of_pruned_channels_as_cholesky_does() -> None:
    done = compress(alike(512, 16), RATE)
    options = RestoreOptions(hhl=True, clock=10)
    found = {each.name: each for each in restore(done, options).refined}["hhl"]
    assert (found.execution, found.reason) == ("simulated-spectral", None)
    assert found.difference is not None
    assert found.difference < 0.02
    assert found.detail["condition"] > 1
    assert found.detail["label"] == "simulated"
    short = {each.name: each for each in restore(done, options.changed({"clock": 2})).refined}["hhl"]
    assert (short.reason, short.difference) == ("clock_too_small", None)
    ill = {each.name: each for each in restore(done, options.changed({"max_condition": 1.0})).refined}["hhl"]
    assert ill.reason == "ill_conditioned"
    plain = compress(alike(512, 16), RATE.changed({"dropout": False}))
    assert restore(plain, options).refined[-1].reason == "not_needed"
    assert np.array_equal(restore(done, options).array, restore(done).array)


def test_lying_parts_of_pruned_channels_are_refused() -> None:
    done = compress(alike(512, 16), RATE)
    header = done.header.model_copy(update={"ops": (Prune(op="prune", kept=9), *done.header.ops[1:])})
    payload = done.data[-done.payload_bytes :]
    with pytest.raises(BlockError, match="bad_frame: pruned columns must be 9 kept, with correlations"):
        restore(write([header], [payload]))
