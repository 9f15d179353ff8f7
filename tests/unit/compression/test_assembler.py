"""Blocks in any order become whole tensors; what is lost is named, and memory is bounded."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from qstream.compression import BlockError, Incomplete, TensorAssembler, TensorPart, Whole


def parts_of(x: np.ndarray, blocks: int, name: str = "m/w", step: int = 0) -> list[TensorPart]:
    raw, dtype = x.reshape(-1), str(x.dtype)
    cuts = np.linspace(0, raw.size, blocks + 1).astype(int)
    return [
        TensorPart(name, step, dtype, x.shape, n, blocks, int(a), raw[a:b].view(np.uint8))
        for n, (a, b) in enumerate(itertools.pairwise(cuts))
    ]


def test_blocks_in_any_order_and_repeated_become_the_tensor_once() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((30, 7)).astype(np.float32)
    for _ in range(20):
        assembler = TensorAssembler()
        parts = parts_of(x, 9)
        order = rng.permutation([*range(9), *range(9)])
        ended = [each for n in order for each in assembler.add(parts[n], 0.0)]
        assert [type(each) for each in ended] == [Whole]
        assert np.array_equal(ended[0].array, x)
        assert assembler.held_bytes == 0


def test_a_newer_step_or_time_closes_an_incomplete_one_and_names_what_is_missing() -> None:
    x, assembler = np.arange(12.0), TensorAssembler(timeout_s=5.0)
    for part in parts_of(x, 4)[1:3]:
        assert assembler.add(part, 0.0) == []
    assert assembler.add(parts_of(x, 4, step=1)[0], 1.0) == [Incomplete("m/w", 0, (0, 3))]
    assert assembler.add(parts_of(x, 4)[0], 1.0) == []  # late
    assert assembler.expire(5.9) == []
    assert assembler.expire(6.0) == [Incomplete("m/w", 1, (1, 2, 3))]


def test_the_oldest_is_closed_where_memory_or_count_would_be_exceeded() -> None:
    x = np.zeros(1000, np.float64)
    assembler = TensorAssembler(max_bytes=20_000, max_open=3)
    ended = []
    for n in range(50):
        ended += assembler.add(parts_of(x, 2, name=f"t{n}")[0], 0.0)
        assert assembler.held_bytes <= 20_000
    assert [each.tensor_id for each in ended] == [f"t{n}" for n in range(48)]
    with pytest.raises(BlockError, match=r"^limit: tensor 'big' must be at most 20000 bytes, got 8000000"):
        assembler.add(parts_of(np.zeros(1_000_000), 2, name="big")[0], 0.0)


def test_blocks_that_do_not_fit_are_refused() -> None:
    x, assembler = np.arange(12.0), TensorAssembler()
    first, second = parts_of(x, 2)
    assembler.add(first, 0.0)
    lies = (
        TensorPart("m/w", 0, "float64", (13,), 1, 2, 6, second.data),
        TensorPart("m/w", 0, "float64", (12,), 1, 2, 3, second.data),
        TensorPart("m/w", 0, "float64", (12,), 1, 2, 7, second.data),
        TensorPart("m/w", 0, "float64", (12,), 2, 2, 6, second.data),
        TensorPart("m/w", 0, "object", (12,), 1, 2, 6, second.data),
    )
    for lie in lies:
        with pytest.raises(BlockError):
            assembler.add(lie, 0.0)
    assert isinstance(assembler.add(second, 0.0)[0], Whole)
