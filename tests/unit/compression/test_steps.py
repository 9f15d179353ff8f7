"""Cutting and steps: blocks of whole rows, and tensors that come in any order joined to the steps of their manifests."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qstream.compression.assembler import Incomplete, TensorAssembler, Whole
from qstream.compression.cutting import blocks_of, cut, series_of
from qstream.compression.dtypes import canonical
from qstream.compression.steps import StepCollector, TensorStep
from qstream.errors import ProblemError
from schemas.tensors import TensorManifest


def manifest(step: int, *names: str, series: str = "m") -> TensorManifest:
    ids = tuple(f"{series}/{name}" for name in names)
    return TensorManifest(series=series, model="m", role="weight", step=step, ts_ns=0, tensors=ids, format="blocks")


def whole(name: str, step: int, size: int = 4) -> Whole:
    return Whole(f"m/{name}", step, np.full(size, step, np.uint8))


def summary(steps: list[TensorStep]) -> list[tuple[int, list[str], dict[str, tuple[int, ...]]]]:
    return [(step.step, list(step.tensors), dict(step.missing)) for step in steps]


@given(shape=st.lists(st.integers(0, 40), max_size=3), itemsize=st.sampled_from([1, 2, 8]), limit=st.integers(8, 200))
def test_blocks_cover_a_tensor_once_and_only_a_row_that_is_larger_is_cut(shape: list[int], itemsize: int, limit: int):
    parts = cut(shape, itemsize, limit)
    columns = shape[-1] if shape else 1
    assert [start for start, _ in parts] == [0, *itertools.accumulate(count for _, count in parts)][:-1]
    assert sum(count for _, count in parts) == int(np.prod(shape))
    for start, count in parts:
        assert count * itemsize <= limit
        if columns * itemsize <= limit and columns:
            assert start % columns == count % columns == 0


def test_frames_of_blocks_become_the_tensor_again_in_any_order():
    array = np.arange(3 * 1000, dtype=np.float32).reshape(3, 1000)[:, ::2]
    blocks = list(blocks_of(canonical(array), "up", model="m", role="gradient", worker="w0", step=3, ts_ns=0, block_bytes=4096))
    assert [block.tensor_id for block in blocks] == ["m/gradient/w0/up"] * 2
    assembler = TensorAssembler()
    ended = [found for block in (blocks[1], blocks[1], blocks[0]) for found in assembler.add(block, 0.0, digest=block.digest)]
    assert len(ended) == 1
    assert isinstance(ended[0], Whole)
    assert np.array_equal(ended[0].array, array)


def test_a_series_is_a_model_a_role_of_it_or_one_worker_of_that():
    assert series_of("m", "weight") == "m"
    assert series_of("m", "optimizer") == "m/optimizer"
    assert series_of("m", "gradient", "w1") == "m/gradient/w1"
    with pytest.raises(ProblemError, match=r"role must be one of weight, gradient, .* got 'gradients'"):
        series_of("m", "gradients")


@pytest.mark.parametrize(("name", "block_bytes"), [("x" * 200, 4096), ("", 4096), ("x", 4095), ("x", 960_001)])
def test_ids_and_sizes_of_blocks_are_bounded(name: str, block_bytes: int):
    with pytest.raises(ProblemError, match="must be"):
        list(blocks_of(canonical(np.zeros(3)), name, model="m", role="weight", step=1, ts_ns=0, block_bytes=block_bytes))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_step_is_there_with_its_last_tensor_or_manifest_whichever_comes_last(order: tuple[int, ...]):
    collector = StepCollector()
    what = [lambda: collector.add(whole("a", 1), 0.0), lambda: collector.add(whole("b", 1), 0.0)]
    calls = [*what, lambda: collector.announce(manifest(1, "b", "a"), 0.0)]
    ended = [list(calls[n]()) for n in order]
    assert [len(steps) for steps in ended] == [0, 0, 1]
    assert summary(ended[2]) == [(1, ["b", "a"], {})]
    assert collector.held_bytes == 0


def test_steps_that_are_under_way_together_do_not_end_each_other_and_a_lost_tensor_is_named():
    collector = StepCollector()
    assert not [*collector.announce(manifest(1, "a", "b"), 0.0), *collector.announce(manifest(2, "a", "b"), 0.0)]
    assert not [*collector.add(whole("a", 1), 0.0), *collector.add(whole("a", 2), 0.0)]
    assert summary([*collector.add(whole("b", 2), 0.0)]) == [(1, ["a"], {"b": ()}), (2, ["a", "b"], {})]
    assert not collector.announce(manifest(2, "a", "b"), 0.0), "a manifest that is repeated begins nothing"


def test_blocks_that_are_missing_are_named_by_the_step():
    collector = StepCollector()
    collector.announce(manifest(1, "a", "b"), 0.0)
    collector.add(Incomplete("m/a", 1, (3, 4)), 0.0)
    assert summary([*collector.add(whole("b", 1), 0.0)]) == [(1, ["b"], {"a": (3, 4)})]


def test_a_step_of_which_nothing_comes_any_more_is_given_up():
    collector = StepCollector(timeout_s=10.0)
    collector.announce(manifest(1, "a", "b"), 0.0)
    collector.add(whole("a", 1), 9.0)
    assert not collector.expire(18.0)
    assert summary([*collector.expire(19.0)]) == [(1, ["a"], {"b": ()})]


def test_tensors_that_wait_are_bounded_those_without_a_manifest_go_first():
    collector = StepCollector(max_bytes=10)
    collector.announce(manifest(1, "a", "b", "c"), 0.0)
    collector.add(whole("x", 1), 0.0)
    collector.add(whole("a", 1), 0.0)
    assert not collector.add(whole("b", 1), 0.0)
    assert collector.held_bytes == 8
    assert summary([*collector.add(whole("y", 1, 3), 0.0)]) == []
    assert collector.held_bytes == 8
    collector.announce(manifest(2, "a", "b", "c"), 0.0)
    assert summary([*collector.add(whole("a", 2), 0.0)]) == [(1, ["a", "b"], {"c": ()})]
