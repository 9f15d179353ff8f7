"""Nearest dispatch: shares as the engine's rule gives them, plans that are served as they were planned."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import OptionError, ProblemError
from qstream.routing.nearest import nearest_shares
from qstream.routing.options import RoutingOptions
from qstream.routing.pack import place_window
from qstream.routing.placement import PlaceOptions, place
from qstream.routing.plan import plan_placement
from qstream.routing.problem import contiguous
from qstream.routing.score import balancedness, violations
from schemas.experts import ExpertTopology, even_nodes


def by_the_rule(row: np.ndarray, experts: int, gpus: int, nodes: int, draws: int) -> np.ndarray:
    """Part of its expert's tokens that each slot serves, GPU by GPU as SGLang's rule says, mean over random choices."""
    rng, width = random.Random(0), len(row) // gpus
    shares = np.zeros(len(row))
    for expert in range(experts):
        slots = np.flatnonzero(row == expert).tolist()
        for gpu in range(gpus):
            own = [slot for slot in slots if slot // width == gpu]
            near = [slot for slot in slots if slot // width // (gpus // nodes) == gpu // (gpus // nodes)]
            if own or 0 < len(near) < len(slots):
                shares[(own or near)[0]] += 1.0 / gpus
            else:
                for _ in range(draws):
                    shares[rng.choice(slots)] += 1.0 / gpus / draws
    return shares


@pytest.mark.parametrize(("gpus", "nodes", "slots"), [(8, 1, 24), (8, 2, 24), (8, 4, 32), (6, 3, 30)])
def test_the_shares_are_those_of_the_engines_rule(gpus: int, nodes: int, slots: int) -> None:
    load = np.random.default_rng(0).lognormal(0, 1.5, (2, 16))
    plan = place_window(load, gpus, slots)
    shares = nearest_shares(plan, 16, even_nodes(gpus, nodes))
    for row, found in zip(plan, shares, strict=True):
        np.testing.assert_allclose(found, by_the_rule(row, 16, gpus, nodes, 4000), atol=0.03)


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 4), st.integers(2, 12))
@settings(deadline=None)
def test_the_shares_of_an_expert_sum_to_one(seed: int, gpus: int, nodes: int, experts: int) -> None:
    rng = np.random.default_rng(seed)
    node = rng.integers(0, nodes, gpus).astype(np.int32)
    width = -(-experts // gpus)
    plan = np.stack([rng.permutation(np.resize(np.arange(experts), gpus * width)) for _ in range(2)]).astype(np.int32)
    for row, share in zip(plan, nearest_shares(plan, experts, node), strict=True):
        np.testing.assert_allclose(np.bincount(row, share, minlength=experts), 1.0)
        assert (share > 0).all(), "a GPU at least asks its own replica"


@pytest.mark.parametrize(("gpus", "nodes", "width"), [(16, 2, 5), (16, 4, 5), (8, 2, 9)])
def test_a_plan_for_nearest_replicas_is_served_better_and_as_it_says(gpus: int, nodes: int, width: int) -> None:
    rng = np.random.default_rng(0)
    rate = rng.lognormal(0, 1, (4, 64))
    rate *= 60_000 / rate.sum(1, keepdims=True)
    history = rng.poisson(rate, (16, 4, 64))
    topology = ExpertTopology(num_layers=4, num_logical_experts=64, num_gpus=gpus, num_nodes=nodes, slots_per_gpu=width)
    served = {}
    for dispatch in ("even", "nearest"):
        plan = place(history, topology, dispatch=dispatch)
        slots = plan.physical_to_logical_map
        assert slots is not None
        assert plan.expected is not None
        assert plan.replica_shares is not None
        assert violations(slots, 64, gpus) == 0
        shares = nearest_shares(slots, 64, topology.nodes())
        served[dispatch] = np.mean([balancedness(slots, window, gpus, shares) for window in history])
        if dispatch == "nearest":
            np.testing.assert_allclose(plan.replica_shares, shares, rtol=1e-6)
            assert plan.expected.balancedness == pytest.approx(served["nearest"], abs=0.01)
        again = place(history, topology, dispatch=dispatch)
        assert again.encode() == plan.encode()
    assert served["nearest"] > served["even"] + 0.05


def test_on_one_node_nearest_replicas_serve_evenly_and_plans_are_the_same() -> None:
    history = np.random.default_rng(0).integers(0, 900, (5, 2, 16))
    topology = ExpertTopology(num_layers=2, num_logical_experts=16, num_gpus=4, slots_per_gpu=6)
    even, nearest = (place(history, topology, dispatch=way, options=PlaceOptions(steps=500)) for way in ("even", "nearest"))
    np.testing.assert_array_equal(even.physical_to_logical_map, nearest.physical_to_logical_map)
    np.testing.assert_allclose(even.replica_shares, nearest.replica_shares, rtol=1e-6)


def test_few_experts_move_where_moves_have_a_price_and_idle_gpus_serve_nothing() -> None:
    history = np.random.default_rng(0).integers(0, 900, (5, 2, 16))
    topology = ExpertTopology(
        num_layers=2, num_logical_experts=16, num_gpus=8, num_nodes=2, slots_per_gpu=4, gpu_capacity=np.array([1.0] * 7 + [0.0])
    )
    first = place(history, topology, dispatch="nearest")
    assert first.replica_shares is not None
    assert not first.replica_shares[:, -4:].any()
    same = place(history, topology, dispatch="nearest", previous=first.physical_to_logical_map, move_cost=0.1)
    assert same.expected is not None
    assert same.expected.moved_experts <= 2


def test_the_agent_plans_for_the_dispatch_of_its_options() -> None:
    rng = np.random.default_rng(0)
    history = rng.poisson(rng.lognormal(5, 1, (2, 32)), (4, 2, 32))
    topology = ExpertTopology(num_layers=2, num_logical_experts=32, num_gpus=8, num_nodes=2, slots_per_gpu=6)
    options = RoutingOptions(dispatch="nearest", move_cost=0.0)
    found = plan_placement(history, contiguous(topology), topology, options)
    assert found.dispatch == "nearest"
    shares = nearest_shares(found.physical_to_logical, 32, topology.nodes())
    served = np.mean([balancedness(found.physical_to_logical, window, 8, shares) for window in history])
    assert found.score.balancedness == pytest.approx(served, abs=0.01)
    assert found.score.balancedness > found.score.balancedness_before
    for circuits in ("qaoa", "hqc"):
        with pytest.raises(OptionError, match="nearest"):
            RoutingOptions(dispatch="nearest", **{circuits: True})
    with pytest.raises(ProblemError, match="dispatch"):
        place(history, topology, dispatch="dynamic")  # type: ignore[arg-type]
