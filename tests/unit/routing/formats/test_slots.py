"""Counts and choices of slots: with the map they are those of experts, and without it they are refused, never a false plan."""

from __future__ import annotations

import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from qstream.errors import ProblemError
from qstream.routing.formats.read import from_tree, read_recording

EXPERTS = 6
SLOTS = np.array([[0, 1, 2, 3, 4, 5, 0, 1], [5, 4, 3, 2, 1, 0, 5, 2]])
COUNTS = np.random.default_rng(5).integers(0, 50, (3, 2, 8))
BY_EXPERT = [[np.bincount(SLOTS[layer], window[layer], EXPERTS).tolist() for layer in range(2)] for window in COUNTS]
STATISTICS = {f"{step}_{3 + layer}": COUNTS[step, layer].astype(np.int32) for step in range(3) for layer in range(2)}
COUNTED = {
    "TensorRT-LLM": STATISTICS,
    "expert_load_window": {"expert_load_window": COUNTS},
    "global_physical_count": {"records": [{"forward_pass_id": n, "global_physical_count": c} for n, c in enumerate(COUNTS)]},
}


@pytest.mark.parametrize(("field", "tree"), COUNTED.items(), ids=COUNTED)
def test_counts_of_slots_are_read_by_the_placement_in_force(field, tree):
    assert from_tree(tree, None, SLOTS).history.tolist() == BY_EXPERT
    assert from_tree(tree, 7, SLOTS).history.shape == (3, 2, 7), "the last expert has no slot"
    with pytest.raises(ProblemError, match=rf"the map of {field} must be experts 0 to 3, got 5"):
        from_tree(tree, 4, SLOTS)


@pytest.mark.parametrize(("field", "tree"), COUNTED.items(), ids=COUNTED)
def test_counts_of_slots_without_a_map_are_of_experts_only_if_that_is_said(field, tree):
    assert from_tree(tree, 8).history.tolist() == COUNTS.tolist()
    for experts in (None, 6):
        message = (
            f"experts must be 8 where slots of {field} are experts; with replicas the number of experts, and --previous with"
        )
        with pytest.raises(ProblemError, match=re.escape(message) + rf".*, got {experts}"):
            from_tree(tree, experts)


@pytest.mark.parametrize(("field", "tree"), COUNTED.items(), ids=COUNTED)
def test_counts_of_experts_stay_as_they_are_though_a_placement_with_replicas_is_in_force(field, tree):
    wide = np.arange(20)[None].repeat(2, 0) % 8
    assert from_tree(tree, None, wide).history.tolist() == COUNTS.tolist()
    with pytest.raises(ProblemError, match=f"{field} must be of the 20 slots of the placement in force, or of the 10 experts"):
        from_tree(tree, 10, wide)


def test_co_occurrences_of_slots_are_read_by_the_placement_in_force(tmp_path):
    pairs = np.random.default_rng(0).integers(0, 9, (2, 8, 8))
    pairs += pairs.transpose(0, 2, 1)
    save_file(STATISTICS, tmp_path / "rank0.safetensors")
    named = {f"0_{3 + layer}": pairs[layer].astype(np.int32) for layer in range(2)}
    save_file(named, tmp_path / "cooccurrence_rank0.safetensors")
    (tmp_path / "meta_info.json").write_text('{"num_experts": 8, "num_experts_per_token": 2}')
    found = read_recording(tmp_path, None, SLOTS)
    expected = np.zeros((2, EXPERTS, EXPERTS), int)
    for layer, a, b in np.ndindex(pairs.shape):
        expected[layer, SLOTS[layer, a], SLOTS[layer, b]] += pairs[layer, a, b]
    assert found.history.tolist() == BY_EXPERT
    assert found.coactivation is not None
    assert found.coactivation.tolist() == expected.tolist()


def with_shared(routed: np.ndarray, shared: int, kinds: int = 1) -> np.ndarray:
    """Gate choices [L, T, K] with one more choice, of one of the fused shared experts; then padding."""
    last = shared + np.random.default_rng(1).integers(0, kinds, (*routed.shape[:2], 1))
    return np.concatenate([routed, last, np.full_like(last, -1)], axis=2)


@pytest.mark.parametrize("kinds", [1, 3])
def test_fused_shared_experts_are_left_out_and_told_where_the_number_of_experts_is_not_given(kinds):
    routed = np.random.default_rng(2).permuted(np.broadcast_to(np.arange(4), (2, 40, 4)), axis=2)[:, :, :2]
    for name in ("topk_ids_of_layer", "records"):
        choices = with_shared(routed, 4, kinds)
        tree = {name: choices} if name != "records" else {"records": [{"topk_ids_of_layer": choices}]}
        found = from_tree(tree, 4)
        assert found.history.tolist() == from_tree({"topk_ids_of_layer": routed}, 4).history.tolist()
        assert from_tree(tree, 4 + kinds).history.shape == (1, 2, 4 + kinds)
        message = rf"experts must be given: .* fused shared experts, .*; 4 leaves them out, {4 + kinds} counts them, got None"
        with pytest.raises(ProblemError, match=message):
            from_tree(tree)


def test_fused_shared_experts_behind_the_slots_of_a_map_are_left_out():
    slots = np.array([[0, 1, 2, 3, 1, 0]])
    routed = np.random.default_rng(3).integers(0, 6, (1, 30, 1))
    tree = {"topk_ids_of_layer": with_shared(routed, 6), "last_physical_to_logical_map": slots}
    found = from_tree(tree)
    assert found.history[0, 0].tolist() == np.bincount(slots[0][routed.ravel()], minlength=4).tolist()
    with pytest.raises(ProblemError, match="slots 0 to 5"):
        from_tree(tree | {"topk_ids_of_layer": np.array([[[6, 1]]])})


def test_an_expert_beyond_those_given_is_no_shared_one_where_some_last_choice_is_routed():
    with pytest.raises(ProblemError, match="must be experts 0 to 3, got 4"):
        from_tree({"topk_ids_of_layer": [[[0, 4], [1, 2]]]}, 4)
