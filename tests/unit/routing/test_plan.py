"""Decisions: published when they win enough, valid, honest about what they win; routes serve every choice from a replica."""

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.routing.memory import contiguous
from qstream.routing.options import RoutingOptions
from qstream.routing.plan import plan_placement, plan_route
from qstream.routing.score import balancedness, violations
from schemas import ExpertTopology, TokenBatch

TOPOLOGY = ExpertTopology(num_layers=3, num_logical_experts=16, top_k=2, num_nodes=2, num_gpus=4, slots_per_gpu=5, expert_bytes=7)


def skewed(windows: int = 4, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(200 * rng.lognormal(0, 1, (1, 3, 16)), (windows, 3, 16)).astype(np.int64)


@pytest.mark.parametrize("placement", ["fast", "scenario"])
@pytest.mark.parametrize("move_cost", [0.0, 0.0005])
def test_a_plan_beats_the_placement_in_force_and_breaks_no_invariant(placement, move_cost):
    options = RoutingOptions(placement=placement, move_cost=move_cost, steps=500)
    decision = plan_placement(skewed(), contiguous(TOPOLOGY), TOPOLOGY, options)
    assert decision.skip_reason is None
    assert violations(decision.physical_to_logical, 16, 4) == 0
    newest = skewed()[-1].astype(float)
    assert balancedness(decision.physical_to_logical, newest, 4) > balancedness(contiguous(TOPOLOGY), newest, 4)
    assert decision.score.balancedness - decision.score.balancedness_before >= options.min_gain
    assert decision.score.moved_experts == len(decision.moves.layer)
    assert decision.solver.bound <= decision.solver.objective


def test_a_gain_below_the_minimum_is_skipped_with_its_size():
    decision = plan_placement(skewed(), contiguous(TOPOLOGY), TOPOLOGY, RoutingOptions(min_gain=1.0, steps=100))
    assert decision.skip_reason.endswith("is below min_gain 1")


def test_an_even_load_is_not_worth_a_move():
    even = ExpertTopology(num_layers=1, num_logical_experts=8, num_gpus=4, slots_per_gpu=2)
    decision = plan_placement(np.full((2, 1, 8), 100), contiguous(even), even, RoutingOptions(steps=200))
    assert decision.skip_reason is not None
    assert decision.score.balancedness_before == pytest.approx(1.0)


def test_no_load_at_all_is_planned_without_a_fault():
    decision = plan_placement(np.zeros((1, 3, 16), np.int64), contiguous(TOPOLOGY), TOPOLOGY, RoutingOptions(steps=10))
    assert decision.score.balancedness == 1.0
    assert decision.skip_reason is not None


def test_a_price_on_moves_moves_fewer_experts():
    before = plan_placement(skewed(), contiguous(TOPOLOGY), TOPOLOGY, RoutingOptions(move_cost=0)).physical_to_logical
    drifted = skewed() + skewed(seed=1) // 4
    free, priced = (
        plan_placement(drifted, before, TOPOLOGY, RoutingOptions(move_cost=cost, min_gain=0)) for cost in (0.0, 0.002)
    )
    assert 0 < len(priced.moves.layer) < len(free.moves.layer)


def test_the_same_input_gives_the_same_plan():
    first, second = (plan_placement(skewed(), contiguous(TOPOLOGY), TOPOLOGY, RoutingOptions()) for _ in range(2))
    assert first.physical_to_logical.tobytes() == second.physical_to_logical.tobytes()


def gated(tokens: int = 400, **columns) -> TokenBatch:
    rng = np.random.default_rng(3)
    return TokenBatch(
        batch_id="b", ts_ns=1, model="m", layer=1, token_id=np.arange(tokens, dtype=np.uint64),
        topk_ids=rng.integers(0, 16, (tokens, 2)).astype(np.int32), **columns,
    )  # fmt: skip


def test_each_choice_is_served_by_a_slot_that_holds_its_expert():
    placement = plan_placement(skewed(), contiguous(TOPOLOGY), TOPOLOGY, RoutingOptions()).physical_to_logical
    batch = gated()
    route = plan_route(batch, placement, TOPOLOGY, RoutingOptions())
    assert placement[1][route.slot_ids].tolist() == batch.topk_ids.tolist()
    load = np.bincount(route.slot_ids.ravel() // 5, minlength=4)
    assert route.metrics.max_over_mean == pytest.approx(load.max() / load.mean())


def test_copies_to_other_nodes_are_counted_once_a_node():
    batch = gated(src_rank=np.arange(400, dtype=np.int32) % 4)
    placement = contiguous(TOPOLOGY)
    route = plan_route(batch, placement, TOPOLOGY, RoutingOptions())
    node = np.array([0, 0, 1, 1])
    expected = np.mean([
        len({node[slot // 5] for slot in row} - {node[source]})
        for row, source in zip(route.slot_ids, batch.src_rank, strict=True)
    ])  # fmt: skip
    assert route.metrics.cross_node_copies_per_token == pytest.approx(expected)


def test_an_unknown_source_is_taken_to_be_on_one_of_the_token_s_nodes():
    route = plan_route(gated(), contiguous(TOPOLOGY), TOPOLOGY, RoutingOptions())
    expected = np.mean([len({slot // 10 for slot in row}) - 1 for row in route.slot_ids])
    assert route.metrics.cross_node_copies_per_token == pytest.approx(expected)


def test_a_source_outside_the_topology_is_refused():
    with pytest.raises(ProblemError, match=r"src_rank has 9, allowed are -1 to 3"):
        plan_route(gated(src_rank=np.full(400, 9, np.int32)), contiguous(TOPOLOGY), TOPOLOGY, RoutingOptions())


def test_tokens_without_gate_are_spread_within_the_bound():
    batch = TokenBatch(batch_id="b", ts_ns=1, model="m", token_id=np.arange(1600, dtype=np.uint64))
    route = plan_route(batch, contiguous(TOPOLOGY), TOPOLOGY, RoutingOptions(slack=0.05))
    load = np.bincount(route.assignment, minlength=16)
    assert load.sum() == 1600
    assert load.max() <= 105
    assert route.slot_ids is None
