"""Alignment by exhaustive search over renamings, and the list of moves by set arithmetic."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.routing.migrate import align, moves
from qstream.routing.pack import place_window
from qstream.routing.score import gpu_loads, moved_experts


def by_gpu(plan: np.ndarray, gpus: int) -> list[list[list[int]]]:
    return [sorted(sorted(map(int, slots)) for slots in row.reshape(gpus, -1)) for row in plan]


@pytest.mark.parametrize(("gpus", "slots", "experts"), [(1, 3, 3), (3, 2, 5), (4, 3, 9), (5, 2, 6), (6, 2, 12)])
def test_no_renaming_of_gpus_moves_fewer_experts(gpus: int, slots: int, experts: int) -> None:
    rng = np.random.default_rng(0)
    previous, plan = (place_window(rng.random((10, experts)), gpus, gpus * slots) for _ in range(2))
    aligned = align(previous, plan, gpus)
    assert by_gpu(aligned, gpus) == by_gpu(plan, gpus)
    for layer in range(10):
        old, new = previous[layer : layer + 1], plan[layer].reshape(gpus, slots)
        least = min(moved_experts(old, new[list(p)].reshape(1, -1), gpus) for p in permutations(range(gpus)))
        assert moved_experts(old, aligned[layer : layer + 1], gpus) == least


def test_experts_that_stay_on_a_gpu_stay_in_their_slot() -> None:
    previous = np.array([[5, 4, 3, 2, 1, 0]], np.int32)
    plan = np.array([[0, 1, 2, 3, 4, 6]], np.int32)
    assert align(previous, plan, 2).tolist() == [[6, 4, 3, 2, 1, 0]]


def test_a_renamed_plan_aligns_back_to_itself() -> None:
    plan = place_window(np.random.default_rng(0).lognormal(0, 1, (6, 32)), 8, 40)
    renamed = plan.reshape(6, 8, 5)[:, ::-1, ::-1].reshape(6, -1)
    np.testing.assert_array_equal(align(plan, renamed, 8), plan)


def test_moves_are_what_each_gpu_must_load_best_layer_first() -> None:
    rng = np.random.default_rng(0)
    old_load, load = rng.lognormal(0, 1, (2, 5, 16))
    previous, plan = place_window(old_load, 4, 20), place_window(load, 4, 20)
    got = moves(previous, plan, load, 4, expert_bytes=1000)
    want = set()
    for layer in range(5):
        old, new = previous[layer].reshape(4, 5).tolist(), plan[layer].reshape(4, 5).tolist()
        want |= {(layer, e, g) for g in range(4) for e in set(new[g]) - set(old[g])}
        for e, src in zip(got.expert[got.layer == layer], got.src_gpu[got.layer == layer], strict=True):
            assert e in old[src]
    assert set(zip(got.layer.tolist(), got.expert.tolist(), got.dst_gpu.tolist(), strict=True)) == want
    assert len(got.layer) == len(want)
    assert (np.diff(got.gain_per_byte) <= 0).all()
    saved = gpu_loads(previous, load, 4).max(1) - gpu_loads(plan, load, 4).max(1)
    np.testing.assert_allclose(np.bincount(got.layer, got.gain_per_byte * 1000, minlength=5), saved)


def test_a_source_on_the_same_node_is_preferred_and_an_expert_nobody_held_has_none() -> None:
    previous = np.array([[0, 1, 2, 0, 3, 3, 0, 4]], np.int32)
    plan = np.array([[0, 1, 2, 0, 0, 5, 3, 4]], np.int32)
    load = np.ones((1, 6))
    got = moves(previous, plan, load, 4, 1, node_of_gpu=np.array([0, 0, 1, 1], np.int32))
    found = dict(zip(zip(got.expert.tolist(), got.dst_gpu.tolist(), strict=True), got.src_gpu.tolist(), strict=True))
    assert found == {(0, 2): 3, (5, 2): -1, (3, 3): 2}
    far = moves(previous, plan, load, 4, 1)
    assert far.src_gpu[(far.expert == 0) & (far.dst_gpu == 2)].tolist() == [0]


def test_equal_plans_need_no_moves() -> None:
    plan = place_window(np.ones((2, 4)), 2, 4)
    assert len(moves(plan, plan, np.ones((2, 4)), 2, 1).layer) == 0


def test_sources_found_in_parts_are_those_found_at_once(monkeypatch) -> None:
    rng = np.random.default_rng(1)
    previous, plan = (place_window(rng.random((3, 8)), 4, 12) for _ in range(2))
    nodes = np.array([0, 0, 1, 1], np.int32)
    whole = moves(previous, plan, np.ones((3, 8)), 4, 1, nodes)
    monkeypatch.setattr("qstream.routing.migrate._CELLS_AT_ONCE", 8)
    parts = moves(previous, plan, np.ones((3, 8)), 4, 1, nodes)
    assert len(whole.layer) > 4
    assert parts.src_gpu.tolist() == whole.src_gpu.tolist()


def test_bad_input_is_named() -> None:
    plan, load = place_window(np.ones((1, 4)), 2, 4), np.ones((1, 4))
    for call, field in (
        (lambda: align(plan, np.repeat(plan, 2, 0), 2), "plan"),
        (lambda: align(plan - 1, plan, 2), "previous"),
        (lambda: align(plan, plan, 3), "num_gpus"),
        (lambda: moves(plan, plan, load, 2, 0), "expert_bytes"),
        (lambda: moves(plan, plan, load, 2, 1, np.zeros(3, np.int32)), "node_of_gpu"),
    ):
        with pytest.raises(ProblemError, match=f"^{field} must be "):
            call()
