"""Routes: every choice is served by a slot of its expert, capacities are kept with the most gate mass, queues tell both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from qstream.errors import ProblemError
from qstream.routing.adjacency import expert_queues
from qstream.routing.options import RoutingOptions
from qstream.routing.placement import place
from qstream.routing.problem import contiguous
from qstream.routing.tokens import route_tokens
from schemas import ExpertTopology, RoutingPlan, TokenBatch

TOPOLOGY = ExpertTopology(num_layers=3, num_logical_experts=16, top_k=2, num_nodes=2, num_gpus=4, slots_per_gpu=5, expert_bytes=7)


def gated(tokens: int = 400, **columns: Any) -> TokenBatch:
    rng = np.random.default_rng(3)
    fields = {
        "layer": 1,
        "token_id": np.arange(tokens, dtype=np.uint64),
        "topk_ids": rng.integers(0, 16, (tokens, 2)).astype(np.int32),
    }
    return TokenBatch(batch_id="b", ts_ns=1, model="m", **fields | columns)


def skewed(tokens: int, k: int, seed: int = 0) -> TokenBatch:
    """Distinct gate choices that prefer the low experts, with weights."""
    rng = np.random.default_rng(seed)
    score = rng.gumbel(size=(tokens, 16)) + np.linspace(2, 0, 16)
    ids = np.argsort(-score, axis=1)[:, :k].astype(np.int32)
    return gated(tokens, topk_ids=ids, topk_weights=rng.dirichlet(np.ones(k), tokens).astype(np.float32))


def gate_of(batch: TokenBatch) -> np.ndarray:
    gate: np.ndarray = np.zeros((len(batch.token_id), 16))
    assert batch.topk_ids is not None
    gate[np.arange(len(gate))[:, None], batch.topk_ids] = 1.0 if batch.topk_weights is None else batch.topk_weights
    return gate


def queued(plan: RoutingPlan) -> list[list[int]]:
    assert plan.queue_token is not None
    assert plan.queue_end is not None
    return [part.tolist() for part in np.split(plan.queue_token, plan.queue_end[:-1])]


def test_each_choice_is_served_by_a_slot_that_holds_its_expert() -> None:
    placement = place(np.random.default_rng(0).poisson(99, (2, 3, 16)), TOPOLOGY).physical_to_logical_map
    assert placement is not None
    batch = gated()
    plan = route_tokens(batch, TOPOLOGY, placement=placement, plan_id="p", placement_version=7)
    assert placement[1][plan.slot_ids].tolist() == batch.topk_ids.tolist()
    load = np.bincount(plan.slot_ids.ravel() // 5, minlength=4)
    assert plan.metrics.max_over_mean == pytest.approx(load.max() / load.mean())
    assert (plan.plan_id, plan.batch_id, plan.placement_version, plan.layer) == ("p", "b", 7, 1)
    assert plan.solver.solver == "hash"
    assert plan.assignment is plan.expert_ids is plan.queue_token is plan.queue_end is plan.metrics.gate_kept is None


def test_without_a_placement_the_slots_are_those_of_the_contiguous_one() -> None:
    batch = gated()
    given = route_tokens(batch, TOPOLOGY, placement=contiguous(TOPOLOGY))
    assert given == route_tokens(batch, TOPOLOGY)
    assert (given.plan_id, given.ttl_s) == ("b", None)
    assert route_tokens(gated(deadline_ms=50), TOPOLOGY).ttl_s == 0.05


def test_tokens_without_gate_are_spread_within_the_bound() -> None:
    batch = TokenBatch(batch_id="b", ts_ns=1, model="m", token_id=np.arange(1600, dtype=np.uint64))
    plan = route_tokens(batch, TOPOLOGY, RoutingOptions(slack=0.05, capacity_factor=2, queues=True))
    load = np.bincount(plan.assignment, minlength=16)
    assert load.sum() == 1600
    assert load.max() <= 105
    assert plan.slot_ids is plan.expert_ids is None
    assert queued(plan) == list(expert_queues(plan.assignment, batch.token_id, 16).values())


@pytest.mark.parametrize(("tokens", "k", "factor"), [(1, 2, 1.0), (7, 2, 1.0), (400, 1, 1.05), (400, 3, 1.25), (333, 6, 1.0)])
def test_no_expert_takes_more_than_its_share_and_slots_serve_the_experts_told(tokens: int, k: int, factor: float) -> None:
    batch = skewed(tokens, k)
    plan = route_tokens(batch, TOPOLOGY, RoutingOptions(capacity_factor=factor))
    experts = plan.expert_ids
    assert experts is not None
    assert np.bincount(experts.ravel(), minlength=16).max() <= np.ceil(factor * k * tokens / 16)
    assert (np.diff(np.sort(experts, 1), axis=1) > 0).all()
    assert contiguous(TOPOLOGY)[1][plan.slot_ids].tolist() == experts.tolist()
    kept = np.take_along_axis(gate_of(batch), experts, 1)
    assert plan.metrics.gate_kept == pytest.approx(kept.sum() / gate_of(batch).sum(), rel=1e-5)
    assert plan.metrics.off_candidate == pytest.approx((kept == 0).mean())
    assert plan.solver.solver == "auction"
    assert plan.solver.objective == pytest.approx(kept.sum(), rel=1e-5)
    assert plan.solver.objective <= plan.solver.bound * (1 + 1e-6)
    assert route_tokens(batch, TOPOLOGY, RoutingOptions(capacity_factor=factor)) == plan


@pytest.mark.parametrize("weighted", [True, False])
def test_one_choice_a_token_keeps_what_the_best_assignment_keeps(weighted: bool) -> None:
    """Each expert stands in the assignment problem as often as it has room. Without weights all choices count alike."""
    batch = skewed(160, 1)
    batch = batch.model_copy(update={"topk_weights": np.linspace(0.1, 1, 160, dtype=np.float32)[:, None] if weighted else None})
    plan = route_tokens(batch, TOPOLOGY, RoutingOptions(capacity_factor=1.2))
    seats = np.repeat(gate_of(batch), 12, axis=1)
    best = seats[linear_sum_assignment(-seats)].sum()
    assert plan.expert_ids is not None
    kept = np.take_along_axis(gate_of(batch), plan.expert_ids, 1).sum()
    assert 0.99 * best <= kept <= best * (1 + 1e-6)


def test_with_room_for_all_the_gate_is_obeyed() -> None:
    batch = skewed(200, 3)
    plan = route_tokens(batch, TOPOLOGY, RoutingOptions(capacity_factor=16))
    assert np.sort(plan.expert_ids, 1).tolist() == np.sort(batch.topk_ids, 1).tolist()
    assert (plan.metrics.gate_kept, plan.metrics.off_candidate) == (1.0, 0.0)


@pytest.mark.parametrize("factor", [None, 1.0])
def test_the_queue_of_an_expert_holds_its_tokens_in_order(factor: float | None) -> None:
    batch = skewed(50, 2)
    plan = route_tokens(batch, TOPOLOGY, RoutingOptions(capacity_factor=factor, queues=True))
    experts = batch.topk_ids if factor is None else plan.expert_ids
    assert queued(plan) == [[t for t in range(50) if e in experts[t]] for e in range(16)]


def test_a_gate_that_names_an_expert_twice_gets_distinct_ones_under_a_capacity() -> None:
    batch = gated(64, topk_ids=np.full((64, 2), 3, np.int32))
    experts = route_tokens(batch, TOPOLOGY, RoutingOptions(capacity_factor=1)).expert_ids
    assert experts is not None
    assert (experts[:, 0] != experts[:, 1]).all()
    assert np.bincount(experts.ravel(), minlength=16).tolist() == [8] * 16


def test_more_choices_than_experts_have_no_distinct_ones_under_a_capacity() -> None:
    batch = gated(8, topk_ids=np.tile(np.arange(16, dtype=np.int32), (8, 2)))
    with pytest.raises(ProblemError, match=r"topk_ids must be at most 16 choices a token under a capacity, .* got 32"):
        route_tokens(batch, TOPOLOGY, RoutingOptions(capacity_factor=1))


def test_a_gate_without_any_mass_is_spread_evenly() -> None:
    batch = gated(64, topk_weights=np.zeros((64, 2), np.float32))
    plan = route_tokens(batch, TOPOLOGY, RoutingOptions(capacity_factor=1))
    assert np.bincount(plan.expert_ids.ravel(), minlength=16).tolist() == [8] * 16
    assert (plan.metrics.gate_kept, plan.metrics.off_candidate) == (1.0, 1.0)


def test_tokens_are_routed_past_a_dead_gpu_unless_it_alone_has_the_expert() -> None:
    topology = TOPOLOGY.model_copy(update={"gpu_capacity": np.array([1, 0, 1, 1], np.float32)})
    placement = contiguous(TOPOLOGY)  # GPU 1 has experts 5 to 9, and slots 16 to 19 the experts 0 to 3 once more
    batch = gated()
    plan = route_tokens(batch, topology, placement=placement)
    assert placement[1][plan.slot_ids].tolist() == batch.topk_ids.tolist()
    on_dead = plan.slot_ids // 5 == 1
    assert set(batch.topk_ids[on_dead].tolist()) == {5, 6, 7, 8, 9}
    whole = np.concatenate([np.arange(10), np.arange(6, 16), np.arange(10)])[None].repeat(3, 0).astype(np.int32)
    roomy = topology.model_copy(update={"num_gpus": 6, "gpu_capacity": np.array([1, 0, 1, 1, 1, 1], np.float32)})
    slots = route_tokens(batch, roomy, placement=whole).slot_ids
    assert 1 not in slots // 5
    assert whole[1][slots].tolist() == batch.topk_ids.tolist()


def test_the_record_of_a_route_counts_load_over_speed() -> None:
    topology = TOPOLOGY.model_copy(update={"gpu_capacity": np.array([1, 0, 2, 1], np.float32), "slots_per_gpu": 16})
    placement = np.tile(np.arange(16, dtype=np.int32), (3, 4))
    plan = route_tokens(gated(), topology, placement=placement)
    load = np.bincount(plan.slot_ids.ravel() // 16, minlength=4)
    level = max(load[0], load[2] / 2, load[3])
    assert load[1] == 0
    assert plan.metrics.max_over_mean == pytest.approx(level / (load.sum() / 4))


def test_copies_to_other_nodes_are_counted_once_a_node() -> None:
    batch = gated(src_rank=np.arange(400, dtype=np.int32) % 4)
    plan = route_tokens(batch, TOPOLOGY)
    node = np.array([0, 0, 1, 1])
    expected = np.mean(
        [
            len({node[slot // 5] for slot in row} - {node[source]})
            for row, source in zip(plan.slot_ids, batch.src_rank, strict=True)
        ]
    )
    assert plan.metrics.cross_node_copies_per_token == pytest.approx(expected)


def test_an_unknown_source_is_taken_to_be_on_one_of_the_token_s_nodes() -> None:
    plan = route_tokens(gated(), TOPOLOGY)
    expected = np.mean([len({slot // 10 for slot in row}) - 1 for row in plan.slot_ids])
    assert plan.metrics.cross_node_copies_per_token == pytest.approx(expected)


@pytest.mark.parametrize("factor", [None, 1.25])
@pytest.mark.parametrize(
    ("columns", "placement", "said"),
    [
        ({"layer": 3, "topk_ids": None}, None, r"^layer must be 0 to 2, as in the topology, got 3"),
        ({"layer": 3}, None, r"^layer must be 0 to 2, as in the topology, got 3"),
        ({"topk_ids": np.full((400, 2), 16, np.int32)}, None, r"^topk_ids must be experts 0 to 15, as in the topology, got 16"),
        ({"src_rank": np.full(400, 9, np.int32)}, None, r"^src_rank must be -1 to 3, the GPUs of the topology, got 9"),
        ({}, np.zeros((2, 20), np.int32), r"^placement must be \[3 layers, 20 slots\], as in the topology, got shape \[2, 20\]"),
        ({}, np.full((3, 20), 16, np.int32), r"must be 0 to 15, got values from 16 to 16"),
        ({}, np.zeros((3, 20), np.int32), r"^replica_count must be 1 to 20, got 0 for expert"),
    ],
)
def test_what_contradicts_the_topology_is_named(
    columns: dict[str, Any], placement: np.ndarray | None, said: str, factor: float | None
) -> None:
    with pytest.raises(ProblemError, match=said):
        route_tokens(gated(**columns), TOPOLOGY, RoutingOptions(capacity_factor=factor), placement=placement)


def test_choices_without_weight_are_kept_where_there_is_room() -> None:
    weights = np.random.default_rng(3).random((64, 2)).astype(np.float32)
    weights[::2], weights[1::4, 1] = 0, 0
    chosen = np.arange(128, dtype=np.int32).reshape(64, 2) % 16
    plan = route_tokens(gated(64, topk_weights=weights, topk_ids=chosen), TOPOLOGY, RoutingOptions(capacity_factor=1000))
    assert plan.expert_ids is not None
    assert np.sort(plan.expert_ids, 1).tolist() == chosen.tolist()
    assert (plan.metrics.gate_kept, plan.metrics.off_candidate) == (1.0, 0.0)


def padded(batch: TokenBatch) -> TokenBatch:
    """The batch with rows of padding between its tokens, and a third choice that no token has."""
    assert batch.topk_ids is not None
    ids = np.full((2 * len(batch.token_id), 3), -1, np.int32)
    ids[::2, :2] = batch.topk_ids
    token = np.repeat(batch.token_id, 2)
    rank = None if batch.src_rank is None else np.repeat(batch.src_rank, 2)
    return batch.model_copy(update={"topk_ids": ids, "token_id": token, "src_rank": rank})


@pytest.mark.parametrize("rank", [None, np.arange(400, dtype=np.int32) % 4])
def test_padding_is_served_by_no_slot_and_changes_nothing_for_the_others(rank: np.ndarray | None) -> None:
    batch = gated(src_rank=rank)
    found, plain = (route_tokens(given, TOPOLOGY, RoutingOptions(queues=True)) for given in (padded(batch), batch))
    assert found.slot_ids is not None
    assert plain.slot_ids is not None
    assert found.slot_ids[::2, :2].tolist() == plain.slot_ids.tolist()
    assert (found.slot_ids[1::2] == -1).all()
    assert (found.slot_ids[:, 2] == -1).all()
    assert found.metrics == plain.metrics
    assert queued(found) == queued(plain)


def test_padding_takes_no_room_of_experts_with_a_capacity() -> None:
    plan = route_tokens(padded(gated()), TOPOLOGY, RoutingOptions(capacity_factor=1.0, queues=True))
    assert plan.expert_ids is not None
    assert (plan.expert_ids[1::2] == -1).all()
    assert (plan.expert_ids[::2] >= 0).sum(1).tolist() == [2] * 400
    assert max(map(len, queued(plan))) <= np.ceil(3 * 400 / 16)


def test_a_batch_of_padding_alone_has_a_plan() -> None:
    plan = route_tokens(gated(topk_ids=np.full((400, 2), -1, np.int32)), TOPOLOGY, RoutingOptions(capacity_factor=1.0))
    assert plan.slot_ids is not None
    assert (plan.slot_ids == -1).all()
