"""Joint placement and request routing: names of nodes, separable requests, and the traffic of a real trace."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.routing.colocate import coactivation, colocate
from qstream.routing.joint import JointPlan, name_nodes, place_and_route
from qstream.routing.requests import assign_requests, route_requests
from tests.benchmarks.bench_requests import as_batch, requests_of
from tests.benchmarks.stick import TRACE


def test_names_of_nodes_keep_most_choices_local() -> None:
    rng = np.random.default_rng(0)
    ids, source = rng.integers(0, 6, (200, 2, 2)).astype(np.int32), rng.integers(0, 3, 200).astype(np.int32)
    node = np.array([[0, 0, 1, 1, 2, 2], [2, 1, 0, 2, 1, 0]], np.int32)
    named = name_nodes(ids, node, source, 3)
    for layer in range(2):
        hits = [(np.array(name)[node[layer]][ids[:, layer]] == source[:, None]).sum() for name in permutations(range(3))]
        assert (named[layer][ids[:, layer]] == source[:, None]).sum() >= 0.98 * max(hits)
        assert len(np.unique(named[layer] * 3 + node[layer])) == 3


def test_joint_placement_separates_two_kinds_of_requests_completely() -> None:
    rng = np.random.default_rng(0)
    label = np.arange(40, dtype=np.int32) % 2
    request = np.repeat(np.arange(40, dtype=np.int32), 10)
    half = np.where(label[request] == 1, 4, 0)[:, None, None]
    ids = (half + np.argsort(rng.random((400, 3, 4)), axis=2)[:, :, :2]).astype(np.int32)
    plan = place_and_route(ids, request, label, 8, 2, lambda tokens, _: colocate(coactivation(tokens, 8), np.full(2, 4)))
    assert plan.remote_copies == 0
    assert np.bincount(plan.worker).tolist() == [20, 20]


def test_padding_changes_no_joint_plan() -> None:
    rng = np.random.default_rng(0)
    label, request = np.arange(8, dtype=np.int32) % 2, np.repeat(np.arange(8, dtype=np.int32), 10)
    ids = (
        np.where(label[request] == 1, 4, 0)[:, None, None] + rng.permuted(np.tile(np.arange(4), (80, 2, 1)), axis=2)[:, :, :2]
    ).astype(np.int32)
    padded = np.insert(ids, 1, -1, axis=2)

    def plan(chosen: NDArray[np.int32]) -> JointPlan:
        return place_and_route(chosen, request, label, 8, 2, lambda given, _: colocate(coactivation(given, 8), np.full(2, 4)))

    want, got = plan(ids), plan(padded)
    assert got.remote_copies == want.remote_copies == 0
    assert (got.node_of_expert.tolist(), got.worker.tolist()) == (want.node_of_expert.tolist(), want.worker.tolist())


def test_joint_placement_and_routing_of_held_out_sequences_sends_few_copies(stick: ModuleType) -> None:
    traces = stick.load(TRACE)
    ids, request, label = requests_of(traces, 0)
    sizes = np.full(4, 16)
    plan = place_and_route(ids, request, label, 64, 4, lambda tokens, _: colocate(coactivation(tokens, 64), sizes))
    held_ids, held_request, held_label = requests_of(traces, 1)
    work = np.bincount(held_request).astype(np.float64)
    copies = plan.copies_per_token[held_label] * work[:, None]
    worker = assign_requests(work, np.zeros_like(copies), copies=copies, copy_cost=1.0, slack=0.05)
    assert stick.remote_copies(held_ids, plan.node_of_expert, worker[held_request]) <= 1.83
    batch, graph, placement, counts = as_batch(traces, plan.node_of_expert)
    routed = route_requests(batch, graph, placement, label_counts=counts, slack=0.05)
    assert routed.max_over_mean <= 1.06
    on_node = routed.node[np.argsort(routed.request_id)]
    assert stick.remote_copies(held_ids, plan.node_of_expert, on_node[held_request]) <= 1.83


def test_bad_input_is_named() -> None:
    ids, request, label = np.zeros((4, 1, 2), np.int32), np.array([0, 0, 1, 1], np.int32), np.zeros(2, np.int32)
    node = np.zeros((1, 2), np.int32)

    def joint(request: np.ndarray = request, label: np.ndarray = label, nodes: int = 1, rounds: int = 1) -> object:
        return place_and_route(ids, request, label, 2, nodes, lambda *_: node, rounds=rounds)

    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: name_nodes(ids, node, request, 1), "source"),
        (lambda: joint(request=request[:1]), "request"),
        (lambda: joint(request=request + 1), "request"),
        (lambda: joint(label=label - 1), "label"),
        (lambda: joint(rounds=0), "rounds"),
    ]
    for call, field in cases:
        with pytest.raises(ProblemError, match=f"^{field} must be "):
            call()
