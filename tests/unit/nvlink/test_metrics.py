"""What delivered plans of jobs and shares leave in the metrics."""

from __future__ import annotations

import math
from typing import Any

import pytest
from prometheus_client import REGISTRY

from qstream.contract import Event
from qstream.nvlink.metrics import observe
from schemas.fabric import FabricPlan, RouteShares
from schemas.topics import FABRIC_PLAN, FABRIC_ROUTES


def told(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"qstream_nvlink_{name}", {"fabric": "metered", "job": "moe", **labels})


def deliver(**score: Any) -> None:
    plan = FabricPlan.example()
    assert plan.score is not None
    plan = plan.model_copy(update={"fabric": "metered", "job": "moe", "score": plan.score.model_copy(update=score)})
    observe(Event(FABRIC_PLAN, "metered", "id", plan, None))


def test_a_plan_tells_its_ratios_to_bounds_and_to_the_placement_before() -> None:
    deliver(cost_us=3.0, cost_before_us=4.0, nic_us=11.0, nic_us_before=40.0, nic_us_bound=10.0, span_us=6.0, span_us_bound=5.0)
    assert told("cost_ratio") == pytest.approx(0.75)
    assert told("cross_domain_bytes", placement="planned") == pytest.approx(2e9)
    assert told("cross_domain_bytes", placement="before") == pytest.approx(8e9)
    assert told("rail_ratio", placement="planned") == pytest.approx(1.1)
    assert told("rail_ratio", placement="before") == pytest.approx(4.0)
    assert told("span_ratio") == pytest.approx(1.2)


def test_nothing_is_divided_by_nothing() -> None:
    deliver(cost_us=3.0, cost_before_us=4.0, nic_us=11.0, nic_us_bound=10.0, span_us=6.0, span_us_bound=5.0)
    deliver(cost_us=0.0, cost_before_us=0.0, nic_us=0.0, nic_us_bound=0.0, span_us=0.0, span_us_bound=0.0)
    observe(Event(FABRIC_PLAN, "metered", "id", FabricPlan.example().model_copy(update={"score": None}), None))
    assert told("cost_ratio") == pytest.approx(0.75)
    assert told("rail_ratio", placement="planned") == pytest.approx(1.1)
    assert told("span_ratio") == pytest.approx(1.2)


def of_fabric(name: str, fabric: str) -> float:
    found = REGISTRY.get_sample_value(f"qstream_nvlink_{name}", {"fabric": fabric})
    assert found is not None
    return found


def test_shares_tell_slow_links_dropped_records_and_the_age_of_telemetry() -> None:
    found: dict[str, Any] = {"fabric": "metered-2", "heard_ns": 1_700_000_000_000_000_000, "slow_links": 3, "dropped": 7}
    observe(Event(FABRIC_ROUTES, "metered-2", "id", RouteShares.example().model_copy(update=found), None))
    assert of_fabric("slow_links", "metered-2") == 3
    assert of_fabric("dropped_digests", "metered-2") == 7
    assert of_fabric("telemetry_age_seconds", "metered-2") > 0
    assert of_fabric("plan_age_seconds", "metered-2") > 0


def test_without_telemetry_its_age_is_not_known() -> None:
    observe(Event(FABRIC_ROUTES, "metered-3", "id", RouteShares.example().model_copy(update={"fabric": "metered-3"}), None))
    assert math.isnan(of_fabric("telemetry_age_seconds", "metered-3"))
