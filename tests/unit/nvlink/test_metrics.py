"""What delivered plans of jobs leave in the metrics."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY

from qstream.contract import Event
from qstream.nvlink.metrics import observe
from schemas.fabric import FabricPlan
from schemas.topics import FABRIC_PLAN


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
