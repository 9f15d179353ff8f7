"""Coding next to a trainer and restoring next to an engine: every mode, on bases from elsewhere, and bounded archives."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from qstream.compression.cutting import blocks_of
from qstream.compression.dtypes import canonical
from qstream.compression.local import LocalDecoder, LocalEncoder, archive, opened
from qstream.compression.options import CompressionOptions
from qstream.errors import BlockError
from schemas.tensors import RestoredBlock, TensorBlock, TensorPolicy, TensorSkip

NAME = "m/up"


def blocks(array: NDArray[Any], step: int, policy: TensorPolicy | None = None) -> list[TensorBlock]:
    cut = blocks_of(canonical(array), "up", model="m", role="weight", step=step, ts_ns=step, block_bytes=4096, policy=policy)
    return list(cut)


def values(step: int) -> NDArray[Any]:
    rng = np.random.default_rng(1)
    array = rng.standard_normal((64, 64)).astype(np.float32)
    array[step] += 0.01
    return array.astype(ml_dtypes.bfloat16)


def joined(restored: list[RestoredBlock]) -> NDArray[Any]:
    assert all(block.data is not None for block in restored)
    return np.concatenate([block.data for block in restored]).view(ml_dtypes.bfloat16).reshape(64, 64)


@pytest.mark.parametrize(
    ("policy", "rel_l2"),
    [
        (TensorPolicy(mode="lossless"), 0.0),
        (TensorPolicy(mode="delta"), 0.0),
        (TensorPolicy(mode="bounded", bound_kind="l2", bound=0.05), 0.05),
        (TensorPolicy(mode="rate", target_bits=6.0), 0.2),
        (TensorPolicy(mode="int8"), 0.02),
    ],
    ids=lambda given: getattr(given, "mode", ""),
)
def test_every_mode_is_restored_from_its_own_blocks_as_promised(policy: TensorPolicy, rel_l2: float):
    encoder, decoder = LocalEncoder(CompressionOptions(level="small")), LocalDecoder({}, 1 << 20)
    for step in range(6):
        coded = [encoder.code(block) for block in blocks(values(step), step, policy)]
        found = joined([decoder.restore(block) for block in coded]).astype(np.float32)
        wanted = values(step).astype(np.float32)
        assert np.linalg.norm(found - wanted) <= rel_l2 * np.linalg.norm(wanted)
    assert encoder.anchor_step([NAME]) == (0 if policy.mode == "delta" else 5)


def test_what_gradients_lose_is_sent_with_the_next():
    encoder, decoder, policy = LocalEncoder(), LocalDecoder({}, 1 << 20), TensorPolicy(mode="gradient", target_bits=3.0)
    sent, came = np.zeros((64, 64)), np.zeros((64, 64))
    for step in range(30):
        sent += values(step % 64).astype(np.float64)
        coded = [encoder.code(block) for block in blocks(values(step % 64), step, policy)]
        came += joined([decoder.restore(block) for block in coded]).astype(np.float64)
    assert np.linalg.norm(sent - came) < 0.1 * np.linalg.norm(sent)


@pytest.mark.parametrize("as_bits", [False, True])
def test_deltas_begin_on_the_base_that_a_reader_has_and_wait_where_it_has_another(as_bits: bool):
    encoder, policy = LocalEncoder(), TensorPolicy(mode="delta")
    for block in blocks(values(0), 0, policy):
        encoder.hold(block)
    base = values(0).view(np.uint16) if as_bits else values(0)
    right, wrong, other = LocalDecoder({NAME: base}, 1 << 20), LocalDecoder({NAME: values(7)}, 1 << 20), LocalDecoder({}, 1 << 20)
    for step in (1, 2):
        coded = [encoder.code(block) for block in blocks(values(step), step, policy)]
        assert all(block.base_step == step - 1 for block in coded)
        assert joined([right.restore(block) for block in coded]).tobytes() == values(step).tobytes()
        assert {other.restore(block).skip_reason for block in coded} == {TensorSkip.NO_BASE}
        assert TensorSkip.NO_BASE in {wrong.restore(block).skip_reason for block in coded}
    assert encoder.anchor_step([NAME]) == 0


def test_an_archive_needs_no_earlier_step_and_opens_within_its_bound():
    forms = {"up": canonical(values(0)), "down": canonical(values(1))}
    data = archive(forms, CompressionOptions(), TensorPolicy(mode="delta"), 3)
    found = opened(data, 4 * 64 * 64)
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: form.array.tobytes() for name, form in forms.items()
    }
    with pytest.raises(BlockError, match="tensors of the archive must be at most 16383 bytes") as refused:
        opened(data, 4 * 64 * 64 - 1)
    assert refused.value.code == "limit"
