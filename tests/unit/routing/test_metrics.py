"""Plans in the metrics: what dashboards and alerts read of them."""

import math
import time
from typing import Any

import pytest
from prometheus_client import REGISTRY

from qstream.contract import Event
from qstream.routing.metrics import observe
from schemas import DispatchShares, PlacementPlan, RoutingPlan
from schemas.topics import DISPATCH_SHARES, PLACEMENT_PLAN, ROUTING_PLAN


def see(topic: Any, frame: Any) -> None:
    observe(Event(topic, "m", "t/0/0/0", frame, None))


def value(name: str, **labels: str) -> Any:
    return REGISTRY.get_sample_value(f"qstream_routing_{name}", labels)


def placement(model: str, **changes: Any) -> PlacementPlan:
    return PlacementPlan.example().model_copy(update={"model": model} | changes)


def test_a_published_placement_counts_with_its_moves_and_what_is_expected_of_it():
    plan = placement("published")
    see(PLACEMENT_PLAN, plan)
    see(PLACEMENT_PLAN, plan)
    assert value("moved_experts_total", model="published") == 2 * plan.expected.moved_experts
    assert value("balancedness", model="published") == plan.expected.balancedness
    assert value("balancedness_before", model="published") == plan.expected.balancedness_before


def test_a_skipped_plan_shows_the_balance_of_the_placement_that_stays():
    see(PLACEMENT_PLAN, placement("skipped", skip_reason="gain_too_small"))
    assert value("balancedness", model="skipped") == PlacementPlan.example().expected.balancedness_before
    assert value("moved_experts_total", model="skipped") == 0


def test_the_placement_that_a_topology_begins_with_claims_no_balance():
    see(PLACEMENT_PLAN, placement("reset", reset_reason="topology_changed", expected=None))
    assert math.isnan(value("balancedness", model="reset"))
    assert value("plan_age_seconds", model="reset") is not None


def test_a_plan_grows_old():
    see(PLACEMENT_PLAN, placement("old", ts_ns=time.time_ns() - 90 * 10**9))
    age_s = value("plan_age_seconds", model="old")
    assert age_s is not None
    assert age_s >= 90


def test_what_circuits_gained_over_their_control_is_shown():
    solver = PlacementPlan.example().solver.model_copy(update={"objective": 9.0, "control": 10.0})
    see(PLACEMENT_PLAN, placement("qaoa", solver=solver))
    assert value("qaoa_gain_over_control", model="qaoa") == pytest.approx(0.1)


def test_shares_are_shown_next_to_the_even_split_and_routes_by_their_copies():
    see(DISPATCH_SHARES, DispatchShares.example())
    model, score = DispatchShares.example().model, DispatchShares.example().score
    assert value("shares_balancedness", model=model) == score.balancedness
    assert value("shares_even_balancedness", model=model) == score.balancedness_even
    see(ROUTING_PLAN, RoutingPlan.example())
    assert value("cross_node_copies_per_token", model=RoutingPlan.example().model) == pytest.approx(0.5)


def test_models_beyond_a_bound_share_a_label_value(monkeypatch):
    monkeypatch.setattr("qstream.metrics._given", {})
    monkeypatch.setattr("qstream.metrics.MAX_LABEL_VALUES", 2)
    for n in range(5):
        see(PLACEMENT_PLAN, placement(f"bounded-{n}"))
    assert value("balancedness", model="bounded-1") is not None
    assert value("balancedness", model="bounded-2") is None
    assert value("moved_experts_total", model="other") == 3 * PlacementPlan.example().expected.moved_experts
