"""Whole placements: promises kept for every topology, slow and dead GPUs, nodes, hot experts, deadlines, and real routing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.routing.colocate import coactivation
from qstream.routing.pack import pack, place_window, swap
from qstream.routing.placement import COLOCATION, PlaceOptions, place
from qstream.routing.replicate import replica_counts
from qstream.routing.scenarios import anneal
from qstream.routing.score import balancedness, gpu_loads, holds, moved_experts, violations
from schemas.experts import ExpertTopology
from schemas.placement import PlacementPlan

QUICK = PlaceOptions(steps=300, node_steps=1000)


def topology(layers: int, experts: int, gpus: int, room: int, **more: Any) -> ExpertTopology:
    return ExpertTopology(num_layers=layers, num_logical_experts=experts, num_gpus=gpus, slots_per_gpu=room, **more)


def tokens(rng: np.random.Generator, count: int, layers: int, experts: int, k: int) -> np.ndarray:
    return rng.random((count, layers, experts)).argsort(2)[:, :, :k].astype(np.int32)


def maps(plan: PlacementPlan) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    whole, slots_of = plan.physical_to_logical_map, plan.logical_to_physical_map
    counts, shares = plan.logical_replica_count, plan.replica_shares
    assert whole is not None
    assert slots_of is not None
    assert counts is not None
    assert shares is not None
    return whole, slots_of, counts, shares


def check(plan: PlacementPlan, topo: ExpertTopology, previous: np.ndarray) -> None:
    """Every promise of a plan, by set arithmetic."""
    whole, slots_of, counts, shares = maps(plan)
    capacity = np.ones(topo.num_gpus) if topo.gpu_capacity is None else topo.gpu_capacity
    live = np.repeat(capacity > 0, topo.slots_per_gpu)
    assert (shares[:, ~live] == 0).all()
    np.testing.assert_array_equal(whole[:, ~live], previous[:, ~live])
    assert violations(whole[:, live], topo.num_logical_experts, int((capacity > 0).sum())) == 0
    for layer in range(topo.num_layers):
        for e in range(topo.num_logical_experts):
            slots = np.flatnonzero((whole[layer] == e) & live)
            assert slots_of[layer, e][slots_of[layer, e] >= 0].tolist() == slots.tolist()
            assert counts[layer, e] == len(slots)
            assert shares[layer, slots].sum() == pytest.approx(1.0)
    columns = plan.move_layer, plan.move_expert, plan.move_dst_gpu
    moved = {(int(a), int(b), int(c)) for a, b, c in zip(*columns, strict=True)}  # type: ignore[arg-type]
    rows = (np.where(live, plan, -1).reshape(topo.num_layers, topo.num_gpus, -1) for plan in (previous, whole))
    old, new = ({(x, e, g) for x, g, e in held(row)} for row in rows)
    assert moved == {step for step in new - old if step[1] >= 0}


def held(rows: np.ndarray) -> Iterator[tuple[int, int, int]]:
    for layer, gpus in enumerate(rows.tolist()):
        for g, slots in enumerate(gpus):
            for e in slots:
                yield layer, g, e


@settings(max_examples=120)
@given(data=st.data(), seed=st.integers(0, 999), colocated=st.booleans(), cost=st.sampled_from([0.0, 0.001, 10.0]))
def test_every_topology_gets_a_plan_that_keeps_every_promise(data: Any, seed: int, colocated: bool, cost: float) -> None:
    rng = np.random.default_rng(seed)
    gpus, layers = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 5))
    nodes = data.draw(st.integers(1, gpus))
    capacity = rng.choice(data.draw(st.sampled_from([[1.0], [0.0, 1.0], [0.0, 0.5, 1.0]])), gpus).astype(np.float32)
    capacity[0] = 1.0
    live = int((capacity > 0).sum())
    experts = data.draw(st.integers(1, 12))
    room = data.draw(st.integers(-(-experts // live), experts))
    topo = topology(layers, experts, gpus, room, num_nodes=nodes, gpu_capacity=capacity)
    hot = data.draw(st.integers(0, min(experts, live * room - experts))) if live > 1 else 0
    history = rng.integers(0, 50, (3, layers, experts)) * data.draw(st.sampled_from([0, 1]))
    previous = rng.integers(0, experts, (layers, gpus * room)).astype(np.int32)
    together = coactivation(tokens(rng, 40, layers, experts, min(2, experts)), experts) if colocated else None
    options = PlaceOptions(steps=100, node_steps=200, hot_experts=hot)
    plan, again = (
        place(history, topo, coactivation=together, previous=previous, move_cost=cost, options=options, seed=seed)
        for _ in range(2)
    )
    check(plan, topo, previous)
    assert (maps(plan)[2] >= 2).sum(1).min() >= hot
    assert plan.encode() == again.encode()
    if plan.solver.variant == COLOCATION:
        node = np.repeat(topo.nodes(), room)
        slots_of = maps(plan)[1]
        for slots in slots_of.reshape(-1, slots_of.shape[2]):
            assert len(set(node[slots[slots >= 0]])) == 1


def test_a_topology_and_a_history_are_enough() -> None:
    topo = topology(26, 64, 8, 9, top_k=6, num_nodes=1)
    history = np.random.default_rng(0).integers(1, 500, (4, 26, 64))
    plan = place(history, topo, options=QUICK)
    check(plan, topo, np.tile(np.arange(72, dtype=np.int32) % 64, (26, 1)))
    assert plan.expected.balancedness > plan.expected.balancedness_before
    assert plan.solver.objective is not None
    assert plan.solver.bound is not None
    assert plan.solver.objective >= plan.solver.bound * (1 - 1e-9)
    whole = maps(plan)[0]
    want = balancedness(whole, history[0].astype(np.float64), 8)
    alone = place(history[:1], topo, options=QUICK)
    assert alone.expected.balancedness >= want


def test_a_dead_gpu_serves_no_expert_and_its_own_are_loaded_elsewhere() -> None:
    capacity = np.array([1, 0, 1, 1], np.float32)
    topo = topology(2, 8, 4, 3, gpu_capacity=capacity)
    previous = place_window(np.ones((2, 8)), 4, 12)
    plan = place(np.ones((1, 2, 8)), topo, previous=previous, move_cost=0.01, options=QUICK)
    check(plan, topo, previous)
    assert plan.move_dst_gpu is not None
    assert plan.move_src_gpu is not None
    assert 1 not in plan.move_dst_gpu
    assert 1 not in plan.move_src_gpu


def test_a_slow_gpu_gets_load_by_its_speed() -> None:
    capacity = np.array([1, 1, 0.5, 1], np.float32)
    topo = topology(6, 64, 4, 20, gpu_capacity=capacity)
    history = np.random.default_rng(0).lognormal(5, 1, (1, 6, 64)).astype(np.int64)
    whole = maps(place(history, topo))[0]
    loads = gpu_loads(whole, history[0].astype(np.float64), 4).sum(0)
    np.testing.assert_allclose(loads / loads.sum(), capacity / capacity.sum(), rtol=0.01)


def test_hot_experts_are_on_two_gpus_when_asked() -> None:
    history = np.tile(np.array([9, 8, 7, 6, 5, 4, 3, 2]), (2, 1, 1))
    history[:, :, 0] = 100
    topo = topology(1, 8, 4, 3)
    counts = maps(place(history, topo, options=QUICK))[2]
    assert counts[0, 0] == 4
    safe = maps(place(history, topo, options=PlaceOptions(steps=100, hot_experts=4)))[2]
    assert (safe[0, :4] >= 2).all()
    with pytest.raises(ProblemError, match="hot_experts"):
        place(history, topo, options=PlaceOptions(hot_experts=5))


def test_experts_of_one_token_share_nodes_and_keep_them_while_nothing_changes() -> None:
    rng = np.random.default_rng(0)
    block = rng.permutation(32) % 2
    score = rng.gumbel(size=(4000, 2, 32)) + 2.0 * (block == rng.integers(0, 2, (4000, 2, 1)))
    ids = np.argsort(-score, axis=2)[:, :, :4].astype(np.int32)
    together = coactivation(ids, 32)
    topo = topology(2, 32, 4, 9, num_nodes=2, top_k=4)
    history = np.stack([np.stack([np.bincount(half[:, x].ravel(), minlength=32) for x in range(2)]) for half in np.split(ids, 4)])
    plan = place(history, topo, coactivation=together)
    assert (plan.solver.solver, plan.solver.variant) == ("swap-annealing", COLOCATION)
    whole = maps(plan)[0]
    for row in whole.reshape(2, 2, -1):
        assert {frozenset(block[node].tolist()) for node in row} == {frozenset({0}), frozenset({1})}
    later = place(history[::-1], topo, coactivation=together, previous=whole, move_cost=0.01, seed=1)
    assert later.expected.moved_experts <= 4


def test_where_nodes_cannot_fill_their_gpus_alone_experts_are_placed_on_all() -> None:
    topo = topology(1, 4, 4, 3, num_nodes=4)
    together = coactivation(tokens(np.random.default_rng(0), 9, 1, 4, 2), 4)
    plan = place(np.ones((1, 1, 4)), topo, coactivation=together, options=QUICK)
    assert (plan.solver.solver, plan.solver.variant) == ("swap-annealing", None)
    assert violations(maps(plan)[0], 4, 4) == 0


def test_a_passed_deadline_leaves_the_fast_plan_and_a_late_one_the_whole() -> None:
    topo = topology(8, 16, 4, 5)
    history = np.random.default_rng(0).integers(0, 99, (4, 8, 16))

    def ticking() -> Callable[[], float]:
        now = iter(range(1000))
        return lambda: float(next(now))

    names = [place(history, topo, options=QUICK, deadline_s=s, clock=ticking()).solver for s in (0.5, 1.5, 99.0)]
    assert [(solver.solver, solver.tried) for solver in names] == [
        ("lpt-swap", None),
        ("swap-annealing", 4),
        ("swap-annealing", None),
    ]
    assert all(solver.wall_ms for solver in names)
    unhurried = place(history, topo, options=QUICK)
    hurried = place(history, topo, options=QUICK, deadline_s=99.0, clock=ticking())
    np.testing.assert_array_equal(maps(unhurried)[0], maps(hurried)[0])


def test_a_price_on_moves_keeps_experts_where_they_are() -> None:
    topo = topology(4, 32, 4, 9)
    history = np.random.default_rng(0).lognormal(3, 1, (4, 4, 32)).astype(np.int64)
    previous = place_window(np.ones((4, 32)), 4, 36)
    plans = [place(history, topo, previous=previous, move_cost=c, options=QUICK) for c in (0.0, 0.01, 10.0)]
    moved = [plan.expected.moved_experts for plan in plans]
    assert moved[0] > moved[1] > moved[2] == 0
    assert plans[2].expected.balancedness == plans[2].expected.balancedness_before


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("history", {"history": np.ones((2, 1, 5))}),
        ("history", {"history": np.ones((0, 1, 6))}),
        ("history", {"history": -np.ones((1, 1, 6))}),
        ("history", {"history": np.full((1, 1, 6), np.nan)}),
        ("history", {"history": np.full((1, 1, 6), "x")}),
        ("previous", {"previous": np.zeros((1, 4), np.int32)}),
        ("previous", {"previous": np.full((1, 8), 6, np.int32)}),
        ("labels", {"labels": np.ones((1, 1, 5)), "queued": np.ones(1)}),
        ("labels and queued", {"queued": np.ones(1)}),
        ("move_cost", {"move_cost": -1.0}),
        ("steps", {"options": PlaceOptions(steps=-1)}),
        ("steps", {"options": PlaceOptions(steps=-1), "coactivation": np.ones((1, 6, 6))}),
        ("windows", {"options": PlaceOptions(windows=0)}),
        ("seed", {"seed": -1}),
        ("seed", {"seed": 2**32}),
        ("hot_experts", {"options": PlaceOptions(hot_experts=-1)}),
        ("coactivation", {"coactivation": np.ones((1, 5, 5))}),
        ("together", {"coactivation": np.triu(np.ones((1, 6, 6)))}),
        ("gpu_capacity", {"capacity": [1, 0, 1, 0]}),
        ("gpu_capacity", {"capacity": [0, 0, 0, 0]}),
    ],
)
def test_bad_input_is_named(field: str, change: dict[str, Any]) -> None:
    capacity = np.array(change.pop("capacity", [1, 1, 1, 1]), np.float32)
    topo = topology(1, 6, 4, 2, num_nodes=2, gpu_capacity=capacity)
    with pytest.raises(ProblemError, match=f"^{field} must be "):
        place(**{"history": np.ones((2, 1, 6)), "topology": topo} | change)


def test_a_seed_may_be_a_numpy_integer_and_the_largest_is_as_good_as_any() -> None:
    topo, history = topology(2, 12, 4, 4), np.random.default_rng(1).integers(0, 99, (3, 2, 12))
    plans = [place(history, topo, seed=seed, options=QUICK) for seed in (2**32 - 1, np.int64(2**32 - 1), np.uint32(2**32 - 1))]
    assert len({plan.plan_id for plan in plans}) == 1
    assert violations(plans[0].physical_to_logical_map, 12, 4) == 0


def test_solvers_fill_gpus_by_their_speed_and_name_bad_speeds_weights_and_replicas() -> None:
    load = np.random.default_rng(0).lognormal(0, 0.3, (3, 60))
    speed = np.array([1.0, 2.0, 3.0])
    counts = replica_counts(load, 90, 3)
    packed = pack(load, counts, 3, speed)
    full = [(gpu_loads(p, load, 3) / speed).max(1) for p in (packed, swap(packed, load, 3, speed))]
    assert (full[1] <= full[0]).all()
    start, history = place_window(load, 3, 90), load[None]
    for call, field in (
        (lambda: pack(load, counts, 3, speed[:2]), "capacity"),
        (lambda: swap(packed, load, 3, speed * 0), "capacity"),
        (lambda: anneal(start, history, 3, steps=1, capacity=-speed), "capacity"),
        (lambda: anneal(start, history, 3, steps=1, weights=np.zeros(1)), "weights"),
        (lambda: anneal(start, history, 3, steps=1, weights=np.ones(2)), "weights"),
        (lambda: replica_counts(load, 90, 3, np.full((3, 60), 4, np.int32)), "least"),
        (lambda: replica_counts(load, 90, 3, np.full((3, 60), 2, np.int32)), "least"),
        (lambda: replica_counts(load, 90, 3, np.ones((3, 59), np.int32)), "least"),
    ):
        with pytest.raises(ProblemError, match=f"^{field} must be "):
            call()


def test_a_scenario_without_weight_is_as_if_not_there() -> None:
    history = np.random.default_rng(0).lognormal(0, 1, (2, 10, 24))
    start = place_window(history.mean(0), 4, 24)
    weighed = anneal(start, history, 4, steps=4000, weights=np.array([0.0, 7.0]))
    alone = anneal(start, history[1:], 4, steps=4000)
    fullest = [gpu_loads(plan, history[1], 4).max(1).mean() for plan in (start, weighed, alone)]
    assert fullest[1] < fullest[2] + 0.1 * (fullest[0] - fullest[2])


@pytest.mark.parametrize("slots", [72, 96])
def test_figures_on_real_routing(stick: ModuleType, slots: int) -> None:
    trace = stick.stream(stick.load(), seed=0)
    windows = stick.window_counts(trace.ids)
    topo = topology(26, 64, 8, slots // 8, top_k=6)
    free, cheap, moved, in_force = [], [], [], None
    for i in range(3, len(windows) - 1):
        history = windows[: i + 1]
        plan = maps(place(history, topo, options=PlaceOptions(steps=3000)))[0]
        assert stick.violations(plan, 8) == 0
        free.append(stick.balancedness(plan, windows[i + 1], 8))
        before, in_force = in_force, maps(place(history, topo, previous=in_force, move_cost=0.001))[0]
        cheap.append(stick.balancedness(in_force, windows[i + 1], 8))
        if before is not None:
            moved.append(moved_experts(before, in_force, 8))
    assert np.mean(free) > 0.93
    assert np.mean(cheap) > 0.92
    assert np.mean(moved) <= 6


def test_an_empty_slot_of_the_placement_in_force_is_a_move_and_serves_nothing():
    topo = topology(2, 8, 4, 3)
    history = np.random.default_rng(3).integers(1, 99, (4, 2, 8))
    previous = np.full((2, 12), -1, np.int32)
    previous[:, [0, 1, 3, 4, 6, 7, 9, 10]] = np.arange(8)
    plan = place(history, topo, previous=previous, move_cost=10.0, options=QUICK)
    whole = maps(plan)[0]
    assert (holds(whole, 8, 4) >= holds(previous, 8, 4)).all()
    assert violations(whole, 8, 4) == 0
    full = place(history, topology(2, 8, 4, 2), options=QUICK)  # the same map without the empty slots
    assert plan.expected is not None
    assert full.expected is not None
    assert plan.expected.moved_experts == 8
    assert plan.expected.balancedness_before == pytest.approx(full.expected.balancedness_before)


def test_a_dead_gpu_with_empty_slots_leaves_a_whole_plan():
    topo = topology(1, 6, 4, 2, gpu_capacity=np.array([1.0, 1.0, 1.0, 0.0], np.float32))
    previous = np.array([[0, 1, 2, 3, 4, 5, -1, -1]], np.int32)
    whole = maps(place(np.ones((1, 1, 6)), topo, previous=previous, options=QUICK))[0]
    assert violations(whole[:, :6], 6, 3) == 0
    assert whole.min() >= 0
