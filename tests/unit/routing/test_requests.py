"""Request routing: bounded loads, near the best assignment, and what batch, topology and placement say of a request."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.routing.requests import RequestPlan, assign_requests, expected_copies, route_requests
from schemas.experts import ExpertTopology
from schemas.tokens import TokenBatch


@settings(max_examples=100)
@given(st.integers(1, 40), st.integers(1, 6), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_no_worker_is_fuller_than_its_bound_by_more_than_one_request(
    requests: int, workers: int, slack: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    work, queue = rng.lognormal(0, 1, requests), rng.random(workers)
    overlap = np.zeros((requests, workers))
    overlap[:, 0] = rng.random(requests) * 1e-6  # all want worker 0
    chosen = assign_requests(work, overlap, queue=queue, slack=slack)
    load = queue + np.bincount(chosen, work, minlength=workers)
    mean = (queue.sum() + work.sum()) / workers
    assert ((load <= (1 + slack) * mean + work.max()) | (load == queue)).all()
    assert chosen.tobytes() == assign_requests(work, overlap, queue=queue, slack=slack).tobytes()


def test_small_windows_are_close_to_the_best_assignment_within_the_same_loads() -> None:
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(40):
        work = rng.uniform(1, 2, 6)
        overlap = rng.random((6, 3)) * work[:, None] * (rng.random((6, 3)) < 0.5)
        copies = rng.random((6, 3))
        left = work[:, None] - overlap
        cost = left + 0.5 * copies
        chosen = assign_requests(work, overlap, copies=copies, copy_cost=0.5, slack=1.0)
        limit = max(2 * left.min(1).sum() / 3, max(loads(left, chosen)))
        best = min(cost[np.arange(6), plan].sum() for plan in all_plans() if max(loads(left, plan)) <= limit)
        ratios.append(cost[np.arange(6), chosen].sum() / best)
    assert np.mean(ratios) <= 1.05
    assert max(ratios) <= 1.25


def all_plans() -> list[np.ndarray]:
    return [np.array(plan) for plan in product(range(3), repeat=6)]


def loads(left: np.ndarray, plan: np.ndarray) -> list[float]:
    return [float(left[plan == worker, worker].sum()) for worker in range(left.shape[1])]


def test_a_request_goes_to_its_prefix_unless_that_worker_is_full() -> None:
    work, overlap = np.array([10.0]), np.array([[8.0, 0.0]])
    assert assign_requests(work, overlap, queue=np.array([3.0, 3.0])).tolist() == [0]
    assert assign_requests(work, overlap, queue=np.array([90.0, 3.0])).tolist() == [1]


def test_a_request_goes_where_its_experts_are() -> None:
    copies = expected_copies(np.array([[[4.0, 0.0]], [[0.0, 4.0]]]), np.array([[1, 0]], np.int32), 2)
    assert copies.tolist() == [[4.0, 0.0], [0.0, 4.0]]
    routed = assign_requests(np.ones(2), np.zeros((2, 2)), copies=copies, copy_cost=1.0)
    assert routed.tolist() == [1, 0]


@settings(max_examples=50)
@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_workers_of_unequal_capacity_get_work_in_proportion_and_one_without_gets_none(
    requests: int, workers: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    work, capacity = rng.uniform(1, 2, requests), rng.uniform(0.5, 4, workers)
    capacity[0] = 0.0
    chosen = assign_requests(work, np.zeros((requests, workers)), capacity=capacity, slack=0.0)
    load = np.bincount(chosen, work, minlength=workers)
    assert load[0] == 0.0
    assert (load <= work.sum() * capacity / capacity.sum() + work.max()).all()


# 2 layers, 4 experts, 2 nodes of 2 GPUs with 2 slots: experts 0, 1 on node 0 and 2, 3 on node 1, each twice on its node.
TOPOLOGY = ExpertTopology(num_layers=2, num_logical_experts=4, top_k=2, num_nodes=2, num_gpus=4, slots_per_gpu=2)
PLACEMENT = np.array([[0, 1, 0, 1, 2, 3, 2, 3]] * 2, np.int32)


def batch_of(requests: list[int], **columns: Any) -> TokenBatch:
    columns.setdefault("token_id", np.arange(len(requests), dtype=np.uint64))
    return TokenBatch(batch_id="b", ts_ns=1, model="m", request_id=np.array(requests, np.uint64), **columns)


def nodes_of(plan: RequestPlan) -> dict[int, int]:
    return dict(zip(plan.request_id.tolist(), plan.node.tolist(), strict=True))


def test_requests_are_in_the_order_of_first_appearance_and_their_work_is_the_cost_of_their_tokens() -> None:
    plan = route_requests(batch_of([9, 5, 9, 7], cost=np.array([1, 4, 2, 1], np.float32)), TOPOLOGY, PLACEMENT, copy_cost=0.0)
    assert plan.request_id.tolist() == [9, 5, 7]
    assert plan.load.tolist() == [4.0, 4.0]
    assert plan.node[0] == plan.node[2] != plan.node[1]
    assert plan.max_over_mean == 1.0


def test_a_request_goes_to_the_node_of_its_own_choices() -> None:
    batch = batch_of([1, 2, 1, 2], layer=1, topk_ids=np.array([[2, 3], [0, 1], [3, 2], [1, 0]], np.int32))
    plan = route_requests(batch, TOPOLOGY, PLACEMENT)
    assert nodes_of(plan) == {1: 1, 2: 0}
    assert plan.remote_copies == pytest.approx((0 + 2 * 0.5) / 2)  # own choices stay, those of the other layer are unknown


def test_a_request_without_choices_goes_to_the_node_of_its_label() -> None:
    batch = batch_of([1, 2, 3, 3], label_names=("law", "code"), label=np.array([0, 1, -1, 1], np.int32))
    counts = {"law": np.array([[0, 0, 5, 5], [0, 0, 1, 9]]), "code": np.array([[6, 2, 0, 0], [1, 1, 0, 0]])}
    plan = route_requests(batch, TOPOLOGY, PLACEMENT, label_counts=counts, slack=1.0)
    assert nodes_of(plan) == {1: 1, 2: 0, 3: 0}
    assert plan.remote_copies == pytest.approx(0.0)
    unknown = route_requests(batch, TOPOLOGY, PLACEMENT, label_counts={"law": counts["law"] * 0}, slack=1.0)
    assert unknown.remote_copies == pytest.approx(1.0)  # one of two choices, as experts are even over the nodes


def test_own_choices_count_before_the_label_in_their_layer() -> None:
    batch = batch_of([1], layer=0, topk_ids=np.array([[0, 1]], np.int32), label_names=("law",), label=np.zeros(1, np.int32))
    counts = {"law": np.array([[0, 0, 1, 1], [0, 1, 1, 2]])}
    plan = route_requests(batch, TOPOLOGY, PLACEMENT, label_counts=counts)
    assert nodes_of(plan) == {1: 0}  # 1 + 1/4 of the choices of a layer, against 0 + 3/4
    assert plan.remote_copies == pytest.approx(2 * (0 + 3 / 4) / 2)


def test_an_expert_with_replicas_on_both_nodes_is_local_on_both_or_in_the_part_of_their_shares() -> None:
    placement = np.array([[0, 1, 2, 3, 0, 1, 2, 3]] * 2, np.int32)
    shares = np.array([[0.75] * 4 + [0.25] * 4] * 2, np.float32)
    assert route_requests(batch_of([1]), TOPOLOGY, placement).remote_copies == 0.0
    plan = route_requests(batch_of([1]), TOPOLOGY, placement, shares=shares)
    assert nodes_of(plan) == {1: 0}
    assert plan.remote_copies == pytest.approx(2 * 0.25)


def test_a_gpu_without_capacity_holds_nothing_and_a_node_without_capacity_gets_no_request() -> None:
    placement = np.array([[0, 1, 2, 3, 2, 3, 0, 1]] * 2, np.int32)
    batch = batch_of(list(range(8)), layer=0, topk_ids=np.tile(np.array([[0, 1]], np.int32), (8, 1)))
    dead = {"gpu_capacity": np.array([0, 1, 1, 1], np.float32)}
    one_gpu = route_requests(batch, ExpertTopology(**(TOPOLOGY.model_dump(exclude_none=True) | dead)), placement, slack=9.0)
    assert set(one_gpu.node.tolist()) == {1}
    dead = {"gpu_capacity": np.array([1, 1, 0, 0], np.float32)}
    node = route_requests(batch, ExpertTopology(**(TOPOLOGY.model_dump(exclude_none=True) | dead)), placement)
    assert set(node.node.tolist()) == {0}
    assert node.max_over_mean == 1.0


def test_nodes_of_unequal_capacity_get_load_in_proportion() -> None:
    fast = ExpertTopology(**(TOPOLOGY.model_dump(exclude_none=True) | {"gpu_capacity": np.array([3, 3, 1, 1], np.float32)}))
    plan = route_requests(batch_of(list(range(400))), fast, PLACEMENT, copy_cost=0.0)
    assert plan.load.tolist() == [300.0, 100.0]
    assert plan.max_over_mean == pytest.approx(1.0)


def test_a_cached_prefix_draws_a_request_and_a_queue_sends_it_away() -> None:
    batch, overlap = batch_of([1], cost=np.array([10], np.float32)), np.array([[0.0, 8.0]])
    assert route_requests(batch, TOPOLOGY, PLACEMENT, overlap=overlap).node.tolist() == [1]
    queued = route_requests(batch, TOPOLOGY, PLACEMENT, overlap=overlap, queue=np.array([0.0, 90.0]))
    assert queued.node.tolist() == [0]
    assert queued.load.tolist() == [10.0, 90.0]


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_remote_copies_and_loads_are_those_of_a_count_token_by_token(seed: int, own: bool, shared: bool) -> None:
    rng = np.random.default_rng(seed)
    layers, experts, gpus, tokens = 3, 6, 5, 20
    graph = ExpertTopology(
        num_layers=layers,
        num_logical_experts=experts,
        top_k=2,
        num_nodes=3,
        num_gpus=gpus,
        slots_per_gpu=3,
        node_of_gpu=np.array([0, 2, 1, 0, 2], np.int32),
        gpu_capacity=np.array([1, 0, 1, 2, 1], np.float32),
    )
    placement = rng.integers(0, experts, (layers, 3 * gpus)).astype(np.int32)
    shares = rng.random((layers, 3 * gpus)).astype(np.float32) / 15 if shared else None
    ids = rng.integers(0, experts, (tokens, 2)).astype(np.int32)
    counts = {"a": rng.integers(1, 9, (layers, experts)), "b": np.eye(layers, experts)}
    label = rng.integers(-1, 3, tokens).astype(np.int32)
    request = rng.integers(0, 4, tokens)
    cost = rng.random(tokens).astype(np.float32) + 1
    gate = {"layer": 1, "topk_ids": ids} if own else {}
    batch = batch_of(request.tolist(), cost=cost, label=label, label_names=("a", "b", "c"), **gate)
    plan = route_requests(batch, graph, placement, label_counts=counts, shares=shares)
    node_of, load, remote = nodes_of(plan), np.zeros(3), 0.0
    for t in range(tokens):
        at, mine = node_of[request[t]], np.flatnonzero(request == request[t])
        load[at] += cost[t]
        known = [label[i] for i in mine if label[i] >= 0]
        for layer in range(layers):
            seen = counts.get("abc"[known[0]], np.ones((layers, experts)))[layer] if known else np.ones(experts)
            if own and layer == 1:
                seen = np.bincount(ids[mine].ravel(), minlength=experts)
            for expert in range(experts):
                slots = [p for p in range(3 * gpus) if placement[layer, p] == expert and p // 3 in ((0, 3), (2,), (4,))[at]]
                near = min(1.0, float(shares[layer, slots].sum()) if shares is not None else len(slots))
                remote += cost[t] * 2 * seen[expert] / max(seen.sum(), 1) * (1 - near)
    assert load == pytest.approx(plan.load, rel=1e-6)
    assert remote / layers / cost.sum() == pytest.approx(plan.remote_copies, rel=1e-5)


def test_bad_batches_topologies_and_placements_are_named() -> None:
    good = batch_of([1, 2], label_names=("law",), label=np.zeros(2, np.int32))
    without = TokenBatch(batch_id="b", ts_ns=1, model="m", token_id=np.zeros(1, np.uint64))
    off = ExpertTopology(**(TOPOLOGY.model_dump(exclude_none=True) | {"gpu_capacity": np.zeros(4, np.float32)}))
    wide = batch_of([1], layer=0, topk_ids=np.full((1, 2), 4, np.int32))
    deep = batch_of([1], layer=2, topk_ids=np.zeros((1, 2), np.int32))

    def route(batch: TokenBatch = good, topology: ExpertTopology = TOPOLOGY, placement: Any = PLACEMENT, **more: Any) -> object:
        return route_requests(batch, topology, placement, **more)

    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: route(without), "request_id"),
        (lambda: route(topology=off), "gpu_capacity"),
        (lambda: route(placement=PLACEMENT[:1]), "placement"),
        (lambda: route(placement=PLACEMENT + 4), "placement"),
        (lambda: route(wide), "topk_ids"),
        (lambda: route(deep), "layer"),
        (lambda: route(shares=np.ones((2, 4), np.float32)), "shares"),
        (lambda: route(shares=-np.ones((2, 8), np.float32)), "shares"),
        (lambda: route(label_counts={"law": np.ones((2, 3))}), "label_counts of 'law'"),
        (lambda: route(label_counts={"law": -np.ones((2, 4))}), "label_counts of 'law'"),
        (lambda: route(overlap=np.ones((1, 2))), "overlap"),
        (lambda: route(overlap=-np.ones((2, 2))), "overlap"),
        (lambda: route(queue=np.ones(3)), "queue"),
        (lambda: route(copy_cost=-1.0), "copy_cost"),
        (lambda: route(slack=np.nan), "slack"),
    ]
    for call, field in cases:
        with pytest.raises(ProblemError, match=f"^{field} must be "):
            call()


def test_bad_arrays_are_named() -> None:
    work, overlap, node = np.ones(2), np.zeros((2, 3)), np.zeros((1, 2), np.int32)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: assign_requests(-work, overlap), "work"),
        (lambda: assign_requests(work, overlap * np.nan), "overlap"),
        (lambda: assign_requests(work, overlap[:1]), "overlap"),
        (lambda: assign_requests(work, overlap[:, :0]), "overlap"),
        (lambda: assign_requests(work, overlap, copies=overlap[:1]), "copies"),
        (lambda: assign_requests(work, overlap, queue=work), "queue"),
        (lambda: assign_requests(work, overlap, capacity=work), "capacity"),
        (lambda: assign_requests(work, overlap, capacity=np.zeros(3)), "capacity"),
        (lambda: assign_requests(work, overlap, slack=-1.0), "slack"),
        (lambda: assign_requests(work, overlap, copy_cost=np.inf), "copy_cost"),
        (lambda: expected_copies(np.ones((1, 1, 3)), node, 1), "node_of_expert"),
        (lambda: expected_copies(np.ones((1, 1, 2)), node + 1, 1), "node_of_expert"),
    ]
    for call, field in cases:
        with pytest.raises(ProblemError, match=f"^{field} must be "):
            call()
