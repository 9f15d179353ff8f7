"""Scores: by hand on a small plan, and equal to independent code on real routing."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.routing.score import balancedness, cross_node_copies, gpu_loads, moved_experts, nodes_per_token, violations

PLAN = np.array([[0, 1, 0, 2]], np.int32)
LOAD = np.array([[8.0, 1.0, 3.0]])


def test_loads_split_evenly_over_replicas_or_by_shares() -> None:
    assert gpu_loads(PLAN, LOAD, 2).tolist() == [[5.0, 7.0]]
    assert gpu_loads(PLAN, LOAD, 2, np.array([[0.625, 1.0, 0.375, 1.0]])).tolist() == [[6.0, 6.0]]


def test_balancedness_sums_layers_before_it_divides() -> None:
    plan, load = np.repeat(PLAN, 2, 0), np.array([[8.0, 1.0, 3.0], [0.0, 4.0, 0.0]])
    assert balancedness(plan, load, 2) == (6 + 2) / (7 + 4)
    assert balancedness(plan, load * 0, 2) == 1.0


def test_moved_experts_counts_what_a_gpu_must_load() -> None:
    after = np.array([[1, 0, 1, 2]], np.int32)
    assert moved_experts(PLAN, after, 2) == 1.0
    assert moved_experts(PLAN, PLAN[:, [2, 3, 0, 1]], 2) == 2.0


def test_violations_counts_missing_experts_and_replicas_that_share_a_gpu() -> None:
    assert violations(PLAN, 3, 2) == 0
    assert violations(np.array([[0, 0, 1, 1]], np.int32), 3, 2) == 3


def test_traffic_counts_each_node_once() -> None:
    ids = np.array([[0, 1, 2], [0, 1, 1]])
    node = np.array([0, 0, 1])
    assert nodes_per_token(ids, node) == 1.5
    assert cross_node_copies(ids[:, None], node[None], np.array([0, 1])) == 1.0


def test_traffic_is_that_of_tokens_with_a_choice() -> None:
    ids, node, source = np.array([[[0, 1]], [[0, 2]]], np.int32), np.array([[0, 0, 1]]), np.array([0, 0])
    padded = np.array([[[0, 1, -1]], [[-1, 0, 2]], [[-1, -1, -1]]], np.int32)
    assert cross_node_copies(padded, node, np.array([0, 0, 0])) == cross_node_copies(ids, node, source) == 0.5
    assert nodes_per_token(padded[:, 0], node[0]) == 1.5
    assert nodes_per_token(padded[2:, 0], node[0]) == 0.0


def test_scores_refuse_shapes_and_values_out_of_range() -> None:
    for call, field in (
        (lambda: gpu_loads(PLAN, LOAD, 3), "num_gpus"),
        (lambda: gpu_loads(PLAN, LOAD[:, :2], 2), "physical_to_logical"),
        (lambda: gpu_loads(PLAN, LOAD, 2, np.ones((1, 3))), "shares"),
        (lambda: moved_experts(PLAN, np.repeat(PLAN, 2, 0), 2), "after"),
        (lambda: nodes_per_token(np.array([[3]]), np.zeros(3, np.int64)), "topk_ids"),
        (lambda: nodes_per_token(np.array([[0]]), np.array([63])), "node_of_expert"),
        (lambda: nodes_per_token(np.zeros((0, 1), np.int64), np.array([0])), "topk_ids"),
    ):
        with pytest.raises(ProblemError, match=f"^{field} must be "):
            call()


def test_scores_agree_with_independent_code_on_real_routing(stick: ModuleType) -> None:
    rng = np.random.default_rng(0)
    trace = stick.stream(stick.load())
    ids = trace.ids[:2000]
    load = stick.counts(ids)
    layers, experts = load.shape
    for slots in (72, 96):
        plan = np.stack([np.concatenate([rng.permutation(64), rng.integers(0, 64, slots - 64)]) for _ in range(layers)])
        other = np.stack([rng.permutation(row) for row in plan])
        shares = rng.random(plan.shape)
        np.testing.assert_allclose(gpu_loads(plan, load, 8), stick.gpu_loads(plan, load, 8), rtol=1e-12)
        np.testing.assert_allclose(gpu_loads(plan, load, 8, shares), stick.gpu_loads(plan, load, 8, shares), rtol=1e-12)
        assert balancedness(plan, load, 8) == pytest.approx(stick.balancedness(plan, load, 8), rel=1e-12)
        assert moved_experts(plan, other, 8) == pytest.approx(stick.moved_experts(plan, other, 8))
        assert violations(plan, experts, 8) == stick.violations(plan, 8)
    node = rng.integers(0, 4, (layers, experts), dtype=np.int32)
    source = rng.integers(0, 4, len(ids), dtype=np.int32)
    assert nodes_per_token(ids[:, 3], node[3]) == pytest.approx(stick.nodes_per_token(ids[:, 3], node[3]))
    assert cross_node_copies(ids, node, source) == pytest.approx(stick.remote_copies(ids, node, source))
