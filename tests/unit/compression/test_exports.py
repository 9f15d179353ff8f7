"""Feedback, influence, patches and files for engines."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from qstream.compression import (
    BlockError,
    CompressionOptions,
    Feedback,
    compress,
    influence_by_dropout,
    restore,
    sparse_patch,
)
from qstream.compression.formats.export import compressed_tensors_int8, vllm_patch
from tests.unit.compression.values import drawn, stepped

DELTA = CompressionOptions(mode="delta")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_feedback_sends_in_the_end_what_each_step_lost(dtype: str) -> None:
    rng = np.random.default_rng(1)
    gradients = [drawn(rng, "laplace", dtype, (48, 64)) for _ in range(30)]
    feedback, alone = Feedback(), CompressionOptions(mode="gradient")
    total = sum(g.astype(np.float64) for g in gradients)
    sent = sum(restore(feedback.code(g)).array.astype(np.float64) for g in gradients)
    plain = sum(restore(compress(g, alone)).array.astype(np.float64) for g in gradients)
    assert np.linalg.norm(total - sent) < 0.5 * np.linalg.norm(total - plain)
    with pytest.raises(BlockError, match=r"^shape: gradient must be of shape \(48, 64\)"):
        feedback.code(gradients[0][:3])


def test_influence_orders_channels_by_variance_for_a_squared_error() -> None:
    x = np.random.default_rng(2).standard_normal((200, 40)) * np.geomspace(0.1, 10, 40)
    found = influence_by_dropout(lambda y: float(((x - y) ** 2).sum()), x, samples=200, seed=3)
    assert np.array_equal(np.argsort(found), np.argsort((x**2).sum(axis=0)))
    assert found == pytest.approx((x**2).sum(axis=0))


def test_a_patch_writes_a_delta_into_place() -> None:
    rng = np.random.default_rng(4)
    base = drawn(rng, "normal", "bfloat16", (40, 50)).view(np.uint16)
    new = stepped(rng, base, 0.05)
    patch = sparse_patch(compress(new, DELTA, base=base, dtype="bfloat16", name="w").data, base)
    flat = base.copy().reshape(-1)
    flat[patch.indices] = patch.values.view(np.uint16)
    assert np.array_equal(flat.reshape(patch.full_shape), new)
    assert (patch.name, patch.indices.dtype) == ("w", np.int32)
    with pytest.raises(BlockError, match="coded in mode delta"):
        sparse_patch(compress(new).data, base)


def test_engines_can_read_the_exports() -> None:
    rng = np.random.default_rng(5)
    base = {"a.weight": drawn(rng, "normal", "float32", (8, 16)), "b": np.ones(4, np.float32)}
    new = {"a.weight": base["a.weight"].copy(), "b": base["b"]}
    new["a.weight"][2, 3] += 1
    data, changed = vllm_patch(new, base)
    found = safetensors.numpy.load(data)
    assert (changed, found["a.weight.indices"].tolist(), sorted(found)) == (1, [35], ["a.weight.indices", "a.weight.values"])
    assert found["a.weight.values"] == new["a.weight"][2, 3]
    data, count = compressed_tensors_int8(base | {"norm.weight": np.ones((2, 2), np.float32)}, {"format": "pt"})
    found = safetensors.numpy.load(data)
    assert count == 1
    assert (found["a.weight"].dtype, found["a.weight_scale"].shape) == (np.int8, (8, 1))
    assert np.abs(found["a.weight"] * found["a.weight_scale"] - base["a.weight"]).max() < 0.02
    assert found["norm.weight"].dtype == np.float32
    assert json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"] == {"format": "pt"}
    with pytest.raises(BlockError, match="in the base file"):
        vllm_patch({"new": np.ones(2, ml_dtypes.bfloat16)}, base)
