"""Energy plans in the metrics: what dashboards and alerts read of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from prometheus_client import REGISTRY

from qstream.contract import Event
from qstream.energy.metrics import observe
from schemas.energy import EnergyPlan
from schemas.plan import SkipReason
from schemas.tasks import EnergySchedule
from schemas.topics import ENERGY_PLAN, TASK_SCHEDULE


def see(domain, **changes):
    plan = EnergyPlan.example().model_copy(update={"domain": domain, "budget_of": (domain, "node-0")} | changes)
    observe(Event(ENERGY_PLAN, domain, "t/0/0/0", plan, None))


def value(name, **labels):
    return REGISTRY.get_sample_value(f"qstream_energy_{name}", labels)


def test_watts_budget_and_what_is_charged_are_those_of_the_domain():
    see("watts")
    found = [value(f"{name}_watts", domain="watts") for name in ("budget", "charged", "predicted", "drawn", "saved")]
    assert found == [1000, 900, 630, 655, 90]


def test_targets_are_counted_by_state_and_reason_and_a_reason_that_is_gone_falls_to_0():
    see("states", state=np.array([1, 2], np.uint8))
    assert [value("states", domain="states", state=state) for state in ("active", "parked", "released")] == [0, 1, 1]
    assert value("targets", domain="states", reason="budget") == 1
    see("states", reason=("default",), reason_of=np.zeros(2, np.int32))
    assert value("targets", domain="states", reason="budget") == 0


def test_acknowledgements_add_up_by_result():
    see("acks", acks={"ok": 7, "denied": 1})
    see("acks", acks={"ok": 8})
    assert value("acknowledgements_total", domain="acks", result="ok") == 15
    assert value("acknowledgements_total", domain="acks", result="denied") == 1


def test_a_plan_that_was_not_made_changes_nothing():
    see("skipped")
    see("skipped", skip_reason="planning_failed", missing_w=9.0)
    assert value("missing_watts", domain="skipped") == pytest.approx(0)


def test_schedules_are_counted_and_their_peaks_stand_next_to_those_of_others():
    plan = EnergySchedule.example().model_copy(update={"domain": "tasks", "bound_w": 1520.0})
    circuit = plan.solver.model_copy(update={"solver": "qaoa", "twin": 2280.0, "control": 3040.0})
    for frame in (plan.model_copy(update={"solver": circuit}), plan):
        observe(Event(TASK_SCHEDULE, "tasks", "t/0/0/0", frame, None))
        if frame is not plan:
            assert [value("schedule_gap_ratio", domain="tasks", kind=kind) for kind in ("without_circuits", "random")] == [
                0.5,
                1.0,
            ]
    assert [value("schedules_total", domain="tasks", solver=name, outcome="optimal") for name in ("qaoa", "list")] == [1, 1]
    assert value("schedule_gap_ratio", domain="tasks", kind="planned") == 0.25
    assert math.isnan(value("schedule_gap_ratio", domain="tasks", kind="random"))
    failed = plan.model_copy(update={"skip_reason": SkipReason.PLANNING_FAILED, "peak_w": 9e9})
    observe(Event(TASK_SCHEDULE, "tasks", "t/0/0/0", failed, None))
    assert value("schedules_total", domain="tasks", solver="list", outcome="planning_failed") == 1
    assert value("schedule_gap_ratio", domain="tasks", kind="planned") == 0.25


def test_replicas_to_keep_active_are_those_of_the_newest_plan():
    see("replicas", served=("chat",), active_replicas=np.array([3], np.int32))
    assert value("active_replicas", domain="replicas", model="chat") == 3
    assert value("replicas", domain="replicas") == 3
