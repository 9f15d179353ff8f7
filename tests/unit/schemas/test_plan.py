"""Plans of all modules: when they expire, and what became of them in one word."""

import pytest

from schemas import DispatchShares, PlacementPlan, RoutingPlan
from schemas.plan import Plan, ResetReason, SkipReason, VersionedPlan

S = 1_000_000_000


def test_a_plan_expires_after_its_time_and_one_without_a_time_never():
    plan = DispatchShares.example().model_copy(update={"ts_ns": 100 * S, "ttl_s": 2.5})
    assert not plan.expired(102 * S + S // 2)
    assert plan.expired(102 * S + S // 2 + 1)
    assert not plan.model_copy(update={"ttl_s": None}).expired(2**63 - 1)


def test_all_plans_are_of_one_family():
    assert all(issubclass(frame, Plan) for frame in (PlacementPlan, RoutingPlan, DispatchShares))
    assert [issubclass(frame, VersionedPlan) for frame in (PlacementPlan, RoutingPlan, DispatchShares)] == [True, False, False]


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "published"),
        ({"reset_reason": ResetReason.TOPOLOGY_CHANGED}, "reset"),
        ({"skip_reason": SkipReason.PLANNING_FAILED}, "planning_failed"),
    ],
)
def test_the_outcome_of_a_plan_is_one_word_of_a_closed_list(changes: dict[str, object], outcome: str):
    assert PlacementPlan.example().model_copy(update=changes).outcome == outcome
    assert RoutingPlan.example().outcome == "published"


def test_a_reason_is_read_as_one_of_the_list_from_both_forms():
    plan = PlacementPlan.build(**{**dict(PlacementPlan.example()), "reset_reason": "topology_changed", "expected": None})
    for form in ("application/json", "application/vnd.safetensors"):
        again = PlacementPlan.decode(plan.encode(form), form)
        assert again.reset_reason is ResetReason.TOPOLOGY_CHANGED
        assert again.expected is None
