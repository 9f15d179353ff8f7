"""Decisions: published when they win enough, valid, honest about what they win."""

import numpy as np
import pytest

from qstream.routing.colocate import coactivation
from qstream.routing.options import RoutingOptions
from qstream.routing.plan import plan_placement
from qstream.routing.problem import contiguous
from qstream.routing.score import balancedness, gpu_loads, nodes_per_token, violations
from schemas import ExpertTopology

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
    assert decision.skip_reason == "gain_too_small"


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


def test_labels_that_wait_are_planned_for():
    """One window of each label so far, then the queue holds but one: its plan is better for that label than one without."""
    rng = np.random.default_rng(1)
    history = np.stack([rng.permutation(1.3 ** np.arange(16.0)) for _ in range(2)])[:, None].round().astype(np.int64)
    history = np.repeat(history, 3, axis=1) * 50
    options = RoutingOptions(min_gain=0, move_cost=0)
    start = contiguous(TOPOLOGY)
    blind = plan_placement(history, start, TOPOLOGY, options).physical_to_logical
    for label in range(2):
        queued = np.eye(2, dtype=np.int64)[label] * history[label, 0].sum()
        plan = plan_placement(history, start, TOPOLOGY, options, labels=history, queued=queued).physical_to_logical
        now = history[label].astype(float)
        assert balancedness(plan, now, 4) > balancedness(blind, now, 4)


def test_the_fast_tier_plans_for_the_newest_window_alone():
    options = RoutingOptions(placement="fast", min_gain=0)
    history = skewed()
    known = {"labels": history, "queued": np.ones(4, np.int64), "coactivation": np.ones((3, 16, 16), np.int64)}
    plan = plan_placement(history, contiguous(TOPOLOGY), TOPOLOGY, options, **known)
    alone = plan_placement(history[-1:], contiguous(TOPOLOGY), TOPOLOGY, options)
    assert plan.physical_to_logical.tolist() == alone.physical_to_logical.tolist()
    assert plan.solver.solver == "lpt-swap"


def test_experts_of_one_token_are_planned_onto_few_nodes():
    """Tokens choose within one of two blocks of experts, which are mixed over the slots of the contiguous placement."""
    rng = np.random.default_rng(0)
    topology = TOPOLOGY.model_copy(update={"num_layers": 1})
    block = rng.permutation(16) % 2
    members = np.stack([np.flatnonzero(block == b) for b in range(2)])
    ids = np.stack([rng.permutation(members[b])[:2] for b in rng.integers(0, 2, 3000)])[:, None].astype(np.int32)
    history = np.stack([np.bincount(part.ravel(), minlength=16)[None] for part in np.split(ids, 3)])
    options = RoutingOptions(min_gain=0)
    touched = []
    for pairs in (None, coactivation(ids, 16)):
        decision = plan_placement(history, contiguous(topology), topology, options, coactivation=pairs)
        node = np.zeros((16, 2), np.bool_)
        node[decision.physical_to_logical[0], np.repeat(topology.nodes(), 5)] = True
        # Where both nodes hold an expert the token stays on the one of its other expert.
        touched.append(nodes_per_token(ids[:, 0], np.where(node.all(1), block, node.argmax(1)).astype(np.int32)))
    assert (decision.solver.solver, decision.solver.variant) == ("swap-annealing", "colocation")
    assert touched[1] == pytest.approx(1.0)
    assert touched[0] > 1.2


@pytest.mark.parametrize("placement", ["fast", "scenario"])
def test_a_dead_gpu_serves_nothing_and_a_slow_one_less(placement):
    capacity = np.array([1, 0, 0.5, 1], np.float32)
    topology = TOPOLOGY.model_copy(update={"slots_per_gpu": 6, "gpu_capacity": capacity})
    history = np.random.default_rng(0).poisson(np.linspace(50, 400, 16), (2, 3, 16))
    start = contiguous(TOPOLOGY.model_copy(update={"slots_per_gpu": 6}))
    decision = plan_placement(history, start, topology, RoutingOptions(placement=placement, move_cost=0))
    plan = decision.physical_to_logical.reshape(3, 4, 6)
    assert (plan[:, 1] == start.reshape(3, 4, 6)[:, 1]).all()
    live = plan[:, [0, 2, 3]].reshape(3, 18)
    assert violations(live, 16, 3) == 0
    load = gpu_loads(live, history[-1].astype(float), 3).sum(0)
    assert load[1] < 0.8 * load[[0, 2]].min()
    assert 1 not in decision.moves.dst_gpu
    assert 1 not in decision.moves.src_gpu


def test_an_expert_that_only_a_dead_gpu_holds_is_worth_any_move():
    topology = TOPOLOGY.model_copy(update={"gpu_capacity": np.array([1, 0, 1, 1], np.float32), "slots_per_gpu": 6})
    start = np.tile(np.arange(24, dtype=np.int32) % 16, (3, 1))
    start[:, [0, 2, 3]] = 1  # expert 9 of GPU 1 has no other slot
    start[start == 9] = 10
    start[:, 9] = 9
    decision = plan_placement(skewed(), start, topology, RoutingOptions(min_gain=0.1, move_cost=10))
    assert decision.score.balancedness_before == 0.0
    assert decision.skip_reason is None
