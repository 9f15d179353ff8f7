"""What the routing module promises, on the recording of real traffic that is shipped with it, and so wherever tests run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array

from qstream.routing.capacity import assign_capacity, even_capacity
from qstream.routing.colocate import coactivation, colocate
from qstream.routing.eplb import rebalance_experts
from qstream.routing.forecast import forecast
from qstream.routing.formats.bundled import BUNDLED
from qstream.routing.formats.read import read_recording
from qstream.routing.joint import place_and_route
from qstream.routing.pack import place_window
from qstream.routing.placement import PlaceOptions, place
from qstream.routing.problem import contiguous
from qstream.routing.scenarios import anneal
from qstream.routing.score import balancedness, cross_node_copies, moved_experts, nodes_per_token, violations
from qstream.routing.shares import dispatch_shares
from schemas.experts import ExpertTopology

EXPERTS, LAYERS, GPUS, SLOTS, WINDOW = 64, 4, 8, 72, 1024
TOPOLOGY = ExpertTopology(num_layers=LAYERS, num_logical_experts=EXPERTS, num_gpus=GPUS, slots_per_gpu=SLOTS // GPUS, top_k=6)


@dataclass(frozen=True)
class Traffic:
    """T tokens in their order: their experts int32 [T, L, 6], task [T] and request [T], and counts by window [W, L, E]."""

    ids: NDArray[np.int32]
    label: NDArray[np.int32]
    request: NDArray[np.int32]
    gate: NDArray[np.float32]
    windows: NDArray[np.int64]

    def counts(self, tokens: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.stack([np.bincount(self.ids[tokens, n].ravel(), minlength=EXPERTS) for n in range(LAYERS)]).astype(float)


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    with np.load(BUNDLED) as arrays:
        ids = np.ascontiguousarray(arrays["topk_ids_of_layer"].transpose(1, 0, 2), np.int32)
        label, request = arrays["label"].astype(np.int32), arrays["request"].astype(np.int32)
        gate = arrays["topk_weights_of_layer_8"].astype(np.float32)
    return Traffic(ids, label, request, gate, read_recording(BUNDLED).history)


def test_the_recording_is_as_its_readme_says(traffic: Traffic) -> None:
    assert traffic.windows.shape == (12, LAYERS, EXPERTS)
    assert (traffic.windows.sum(2) == WINDOW * 6).all()
    assert traffic.ids.shape == (12288, LAYERS, 6)
    assert np.bincount(traffic.label).min() > 3900
    assert traffic.gate.shape == (3072, 6)
    assert BUNDLED.stat().st_size < 300_000
    assert "MIT licence" in (BUNDLED.parent / "README.md").read_text()


def test_the_next_window_is_better_balanced_than_by_eplb_or_by_the_fixed_placement(traffic: Traffic) -> None:
    scores: dict[str, list[float]] = {"fixed": [], "eplb": [], "qstream": []}
    for seen in range(3, len(traffic.windows)):
        history, ahead = traffic.windows[:seen], traffic.windows[seen].astype(float)
        plan = place(history, TOPOLOGY, options=PlaceOptions(steps=3000)).physical_to_logical_map
        eplb = rebalance_experts(history.sum(0), SLOTS, 1, 1, GPUS, "eplb")[0].astype(np.int32)
        assert violations(plan, EXPERTS, GPUS) == 0
        for name, placed in (("fixed", contiguous(TOPOLOGY)), ("eplb", eplb), ("qstream", plan)):
            scores[name].append(balancedness(placed, ahead, GPUS))
    mean = {name: float(np.mean(values)) for name, values in scores.items()}
    assert mean["fixed"] < 0.70
    assert mean["qstream"] > 0.93
    assert mean["qstream"] > mean["eplb"] + 0.04


def test_a_price_on_moves_keeps_nearly_the_balance_with_far_fewer_moves(traffic: Traffic) -> None:
    scores: dict[float, list[float]] = {0.0: [], 0.001: []}
    moves: dict[float, list[float]] = {0.0: [], 0.001: []}
    for price in scores:
        in_force = None
        for seen in range(3, len(traffic.windows)):
            options = PlaceOptions(steps=3000)
            plan = place(
                traffic.windows[:seen], TOPOLOGY, previous=in_force, move_cost=price, options=options
            ).physical_to_logical_map
            scores[price].append(balancedness(plan, traffic.windows[seen].astype(float), GPUS))
            if in_force is not None:
                moves[price].append(moved_experts(in_force, plan, GPUS))
            in_force = plan
    assert np.mean(scores[0.001]) > np.mean(scores[0.0]) - 0.02
    assert np.mean(moves[0.001]) < 0.5 * np.mean(moves[0.0])


def test_labels_of_queued_requests_make_plans_for_the_next_window_better(traffic: Traffic) -> None:
    scores: list[list[float]] = []
    for seen in range(3, len(traffic.windows)):
        history, now = traffic.windows[:seen], seen * WINDOW
        past = np.arange(len(traffic.label)) < now
        labels = np.stack([traffic.counts(past & (traffic.label == task)) for task in range(2)])
        queued = np.bincount(traffic.label[now : now + WINDOW], minlength=2)
        plans = [place_window(history[-1].astype(float), GPUS, SLOTS)]
        for known in ({}, {"labels": labels, "queued": queued}):
            look = forecast(history, **known)
            start = place_window(look.load(), GPUS, SLOTS)
            plans.append(anneal(start, look.scenarios, GPUS, steps=2000, weights=look.weights))
        scores.append([balancedness(plan, traffic.windows[seen].astype(float), GPUS) for plan in plans])
    last, history_only, with_labels = np.mean(scores, axis=0)
    assert last < history_only < with_labels


def test_shares_from_live_counts_balance_a_switch_of_the_task(traffic: Traffic) -> None:
    plan = place_window(traffic.counts(traffic.label >= 0), GPUS, 80)
    topology = ExpertTopology(num_layers=LAYERS, num_logical_experts=EXPERTS, num_gpus=GPUS, slots_per_gpu=10)
    for task in range(2):
        live = traffic.counts(traffic.label == task)
        assert balancedness(plan, live, GPUS) < 0.90
        assert balancedness(plan, live, GPUS, dispatch_shares(live, plan, topology)) >= 0.95


def test_tokens_of_unseen_requests_touch_fewer_nodes_once_experts_are_colocated(traffic: Traffic) -> None:
    first, second = np.array_split(traffic.ids, 2)
    together = coactivation(first, EXPERTS)
    touched = []
    for steps in (0, 40_000):
        node = colocate(together, np.full(4, 16), steps=steps)
        touched.append(np.mean([nodes_per_token(second[:, layer], node[layer]) for layer in range(LAYERS)]))
    assert touched[0] > 3.2
    assert touched[1] < 2.75


def test_requests_next_to_their_experts_send_fewer_copies_between_nodes(traffic: Traffic) -> None:
    tasks = np.array([traffic.label[traffic.request == n][0] for n in range(traffic.request.max() + 1)], np.int32)
    sizes = np.full(4, 16)
    plan = place_and_route(
        traffic.ids, traffic.request, tasks, EXPERTS, 4, lambda t, _: colocate(coactivation(t, EXPERTS), sizes)
    )
    in_order = np.tile(np.arange(EXPERTS, dtype=np.int32) // 16, (LAYERS, 1))
    anywhere = np.random.default_rng(0).integers(0, 4, len(traffic.ids), dtype=np.int32)
    assert cross_node_copies(traffic.ids, in_order, anywhere) > 2.4
    assert plan.remote_copies < 1.83


def test_capacity_routing_keeps_the_gate_mass_of_the_linear_program(traffic: Traffic) -> None:
    tokens = len(traffic.gate)
    gate = np.zeros((tokens, EXPERTS), np.float32)
    np.put_along_axis(gate, traffic.ids[:tokens, 1], traffic.gate, 1)
    capacity = even_capacity(tokens, EXPERTS, 1.05)
    plan = assign_capacity(gate, capacity)
    token, expert = np.nonzero(gate)
    one = np.ones(len(token))
    column = np.arange(len(token))
    best = linprog(
        -gate[token, expert],
        A_ub=csr_array(
            (np.concatenate([one, one]), (np.concatenate([token, tokens + expert]), np.concatenate([column, column])))
        ),
        b_ub=np.concatenate([np.ones(tokens), capacity]),
        bounds=(0, 1),
    )
    assert plan.max_over_mean <= 1.07
    assert plan.gate_mass >= 0.995 * -best.fun / gate.sum()
