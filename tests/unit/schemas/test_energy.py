"""Frames of energy: a wrong value is refused by a message that names the field, the rule and the value."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.energy import EnergyAck, EnergyPlan
from schemas.frame import FrameError
from schemas.power import GpuTelemetry, PowerBudget, PowerDemand, PowerTopology
from schemas.tasks import TaskGraph

TWO = ("a", "b")


def watts(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("frame", "wrong", "message"),
    [
        (GpuTelemetry, {"uuid": ("a", "a")}, "uuid must be distinct names, got 'a' twice"),
        (GpuTelemetry, {"metric": TWO}, "length of metric must be 3, one for each of the rows of value, got 2"),
        (GpuTelemetry, {"workload": ("decode",)}, "length of workload must be empty or 2, one for each of the GPUs, got 1"),
        (GpuTelemetry, {"workload": ("sing", "")}, "workload.0 must be 'prefill', 'decode', 'train', 'other' or ''"),
        (PowerTopology, {"uuid": ("a",) * 4}, "uuid must be distinct names"),
        (PowerTopology, {"limit_min_w": watts(701, 200, 200, 200)}, "limit_min_w must be at most limit_max_w, 700 W, of GPU-0"),
        (
            PowerTopology,
            {"limit_max_w": watts(700_000, 700, 700, 700)},
            "limit_max_w must be in watts, at most 10000, got 700000",
        ),
        (PowerTopology, {"limit_default_w": watts(100, 700, 700, 700)}, "limit_min_w must be at most limit_default_w, 100 W"),
        (PowerTopology, {"idle_w": watts(-2, 1, 1, 1)}, "idle_w must be at least 0, or -1, got -2.0"),
        (PowerTopology, {"node_of_gpu": np.array([0, 0, 1, 2], np.int32)}, "node_of_gpu must be 0 to 1, a node of `node`"),
        (PowerTopology, {"inner_parent": np.array([0], np.int32)}, "inner_parent must be a tree, got a cycle above 'rack-1'"),
        (PowerTopology, {"inner_budget_w": watts(-5)}, "inner_budget_w must be at least 0, or -1, got -5.0"),
        (PowerTopology, {"sm_clock_mhz": watts(-7, 1, 1, 1, 1)[None]}, "sm_clock_mhz must be at least 0, or -1, got -7.0"),
        (PowerTopology, {"parent": "row-1"}, "child and parent must be other domains than this one, got 'row-1'"),
        (PowerTopology, {"budget_w": -5.0}, "budget_w must be greater than or equal to 0, got -5.0"),
        (PowerBudget, {"valid_until_ns": 5}, "valid_until_ns must be later than valid_from_ns"),
        (PowerDemand, {"watts": np.array([3.0, 2.0, 4.0])}, "watts must be rising, got 2 after a higher one"),
        (PowerDemand, {"child": "site"}, "child must be another domain than its parent, got 'site'"),
        (PowerDemand, {"watts": np.array([-3.0, 2.0, 4.0])}, "watts must be at least 0, got -3.0"),
        (PowerDemand, {"value": np.array([0.0, 1.0, 9.0])}, "value must be concave in watts"),
        (TaskGraph, {"edges": np.array([[0, 1], [1, 0]], np.int32)}, "edges must be without a cycle"),
        (TaskGraph, {"edges": np.array([[0, 7]], np.int32)}, "edges must be 0 to 2, a task of `task`"),
        (
            TaskGraph,
            {"duration": np.array([[2, 1], [5, 6], [2, 3]], np.int32)},
            "mode 1 of task tokenise must be at least 1 slot",
        ),
        (EnergyPlan, {"power_limit_w": watts(0, 350)}, "power_limit_w of GPU-0 must be above 0, or -1, got 0"),
        (EnergyPlan, {"reason_of": np.array([0, 2], np.int32)}, "reason_of must be 0 to 1, an index of reason"),
        (EnergyAck, {"result": ("ok", "maybe")}, "result.1 must be 'ok', 'clamped'"),
    ],
)
def test_what_cannot_be_is_refused(frame, wrong, message):
    with pytest.raises(FrameError) as caught:
        frame.build(**dict(frame.example()) | wrong)
    assert message in str(caught.value)


def test_a_cycle_of_domains_is_refused():
    with pytest.raises(FrameError, match="parent must be a domain that is not a child of this one, got 'row-1'"):
        PowerTopology.build(domain="site", budget_w=1.0, parent="row-1", child=("row-1", "row-2"), child_w=watts(1, 1))


def test_a_topology_without_gpus_is_refused():
    none = np.empty(0, np.float32)
    with pytest.raises(FrameError, match="length of uuid must be 1 to 1024 GPUs, got 0"):
        PowerTopology.build(
            domain="d",
            budget_w=1.0,
            node=(),
            uuid=(),
            node_of_gpu=np.empty(0, np.int32),
            limit_min_w=none,
            limit_max_w=none,
            limit_default_w=none,
        )


def test_a_plan_is_built_from_what_a_user_must_say():
    plan = EnergyPlan(
        domain="d",
        plan_id="p",
        ts_ns=0,
        ttl_s=30.0,
        version=1,
        fence=1,
        mode="dry_run",
        uuid=("a",),
        power_limit_w=watts(300),
        sm_clock_mhz=watts(-1),
    )
    assert plan.parked == ()
    assert plan.expired(30_000_000_001)


def test_the_model_of_a_gpu_is_empty_where_it_is_not_known():
    given = dict(PowerTopology.example())
    mixed = PowerTopology(**given | {"model_of_gpu": np.array([0, -1, 0, 0], np.int32)})
    assert [mixed.model_name(gpu) for gpu in (0, 1)] == ["h100", ""]
    assert PowerTopology(**given | {"model_of_gpu": None}).model_name(0) == ""
