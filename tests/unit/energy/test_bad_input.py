"""What bad input gets: a dead letter that names field, value and rule in a stream, an error offline, and never a plan of it."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.energy import EnergyOptions, plan_energy
from qstream.energy.processor import EnergyProcessor
from qstream.errors import ProblemError
from qstream.testing import Feed
from schemas.energy import EnergyAck, EnergyPlan
from schemas.power import PowerBudget
from schemas.tasks import TaskGraph
from tests.unit.energy.racks import rack, topology_of

START_S = 1_700_000_000


@pytest.fixture
def nodes():
    return rack(1)


@pytest.fixture
def feed(nodes):
    found = Feed(EnergyProcessor(EnergyOptions()))
    found.send(topology_of(nodes, 1400), at_ms=START_S * 1000)
    return found


def readings(nodes, seconds):
    for _ in range(seconds):
        nodes[0].advance(1)
        yield nodes[0].telemetry("d")


def in_milliwatts(frame):
    value = frame.value.copy()
    value[[frame.metric.index("power_limit_w")]] *= 1000
    return frame.model_copy(update={"value": value})


def of_a_stranger(frame):
    return frame.model_copy(update={"uuid": ("GPU-x", *frame.uuid[1:])})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (of_a_stranger, "uuid must be a GPU of the topology of d, got 'GPU-x'"),
        (in_milliwatts, "power_limit_w must be in watts, at most ten times limit_max_w, got 700000"),
    ],
)
def test_telemetry_that_contradicts_the_topology_is_a_dead_letter_and_changes_nothing(nodes, feed, spoil, message):
    (frame,) = readings(nodes, 1)
    before = feed.state("d")
    (letter,) = feed.send(spoil(frame), at_ms=(START_S + 1) * 1000).dead
    assert message in letter.error_message
    assert (feed.state("d").seen_ns == before.seen_ns).all()
    with pytest.raises(ProblemError, match=message):
        plan_energy(topology_of(nodes, 1400), [frame, spoil(frame)])


@pytest.mark.parametrize("sender", ["node-1", "node-9"], ids=["another node", "an unknown node"])
def test_readings_from_another_node_than_their_gpus_are_on_are_a_dead_letter(sender):
    nodes = rack(2)
    feed = Feed(EnergyProcessor(EnergyOptions()))
    feed.send(topology_of(nodes, 1400, inner=("rack",), inner_of_node=np.array([0, 0], np.int32)), at_ms=START_S * 1000)
    (frame,) = readings(nodes, 1)
    for name in ("rack", "d", "node-0"):  # a rack may send for its nodes
        assert not feed.send(frame.model_copy(update={"node": name}), at_ms=(START_S + 1) * 1000).dead
    (letter,) = feed.send(frame.model_copy(update={"node": sender}), at_ms=(START_S + 2) * 1000).dead
    assert f"node must be 'node-0', where the topology has these GPUs, got '{sender}'" in letter.error_message


@pytest.mark.parametrize(
    ("node", "uuid", "message"),
    [
        ("node-0", "GPU-x", "uuid must be a GPU of the topology of d, got 'GPU-x'"),
        ("node-9", "GPU-node-0-1", "node must be 'node-0', where the topology has these GPUs, got 'node-9'"),
    ],
)
def test_an_acknowledgement_that_contradicts_the_topology_is_a_dead_letter(feed, node, uuid, message):
    one = np.array([300], np.float32)
    ack = EnergyAck(
        domain="d", ts_ns=1, node=node, plan_id="p", uuid=(uuid,), result=("ok",),
        applied_limit_w=one, enforced_limit_w=one, applied_clock_mhz=one,
    )  # fmt: skip
    (letter,) = feed.send(ack, at_ms=(START_S + 1) * 1000).dead
    assert message in letter.error_message


def test_tasks_that_start_together_and_wait_for_each_other_are_a_dead_letter(feed):
    graph = TaskGraph.example().model_copy(update={"domain": "d", "together": np.array([[0, 1]], np.int32)})
    (letter,) = feed.send(graph, at_ms=(START_S + 1) * 1000).dead
    assert "edges must be without a cycle" in letter.error_message


def test_metrics_and_counters_of_unknown_names_are_ignored(nodes):
    known = list(readings(nodes, 25))
    more = [
        frame.model_copy(
            update={
                "metric": (*frame.metric, "fan_rpm"),
                "counter": (*frame.counter, "page_faults"),
                "value": np.vstack([frame.value, np.full(len(frame.uuid), 9e9, np.float32)]),
                "count": np.vstack([frame.count, np.full(len(frame.uuid), 7, np.uint64)]),
            }
        )
        for frame in known
    ]
    assert plan_energy(topology_of(nodes, 1400), more) == plan_energy(topology_of(nodes, 1400), known)


def test_budgets_below_the_least_limits_give_least_targets_who_is_parked_and_what_is_missing(nodes, feed):
    for second, frame in enumerate(readings(nodes, 25)):
        feed.send(frame, at_ms=(START_S + second) * 1000)
    feed.send(PowerBudget(domain="d", budget_w=500.0), at_ms=(START_S + 25) * 1000)
    plan = feed.frames(EnergyPlan)[-1]
    assert (plan.status, plan.missing_w, len(plan.parked)) == ("infeasible", 300, 4)
    assert (plan.power_limit_w == 200).all()
    assert plan.planned_w[0] <= 500


def test_no_readings_at_all_release_every_gpu(nodes):
    plan = plan_energy(topology_of(nodes, 5600), [])
    assert plan.state.tolist() == [2] * 4
    assert (plan.power_limit_w == -1).all()


def test_a_budget_of_another_domain_is_refused(nodes):
    frames = list(readings(nodes, 5))
    with pytest.raises(ProblemError, match="domain must be 'd', as in the topology, got 'e'"):
        plan_energy(topology_of(nodes, 1400), frames, budgets=PowerBudget(domain="e", budget_w=1.0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"options": {}}, "options must be of class EnergyOptions, got {}"),
        ({"budgets": [500.0]}, "budgets must be of class PowerBudget, got 500.0"),
    ],
)
def test_an_argument_of_another_class_is_named(nodes, wrong, message):
    with pytest.raises(ProblemError, match=message):
        plan_energy(topology_of(nodes, 1400), [], **wrong)


@pytest.mark.parametrize("watts", [-5.0, float("nan"), 140737488355328.0, 841.0])
def test_a_power_that_cannot_be_a_measurement_is_left_out(nodes, watts):
    frames = list(readings(nodes, 25))
    spoilt = frames[-1].value.copy()
    spoilt[frames[-1].metric.index("power_w"), 0] = watts
    last = frames[-1].model_copy(update={"value": spoilt})
    plan, without = (plan_energy(topology_of(nodes, 5600), [*frames[:-1], *more]) for more in ([last], []))
    assert plan.power_limit_w.tolist() == without.power_limit_w.tolist()
    assert plan.predicted_w[0] == without.predicted_w[0]
