"""plan_energy: what a plan promises holds, and what cannot be is said."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from qstream.energy import EnergyOptions, plan_energy, planner
from qstream.energy import plan as plans
from qstream.energy.compare import compare
from qstream.energy.offline import plan_recorded
from qstream.errors import OptionError, ProblemError
from schemas.energy import TargetReason
from schemas.power import PowerBudget, PowerTopology
from tests.unit.energy.racks import rack, topology_of


@pytest.fixture(scope="module")
def recording():
    nodes, frames = rack(), []
    for _ in range(25):
        for node in nodes:
            node.advance(1)
            frames.append(node.telemetry("d"))
    return nodes, frames


def test_without_pressure_limits_slow_nothing_and_free_watts(recording):
    nodes, frames = recording
    plan = plan_energy(topology_of(nodes, 99_000), frames)
    assert (plan.status, plan.mode, plan.solver.solver) == ("optimal", "dry_run", "hull-greedy")
    assert plan.slowdown.max() == 0
    assert (plan.power_limit_w[[0, 4]] < 320).all()  # decoding draws 259 W
    assert plan.expected.peak_upper_w < plan.expected.simple_peak_upper_w
    assert (plan.sm_clock_mhz == -1).all()  # no cap was measured


def test_every_budget_holds_and_more_work_is_done_than_by_each_node_alone(recording):
    nodes, frames = recording
    topology = topology_of(
        nodes, 3400, inner=("rack",), inner_of_node=np.array([0, 0], np.int32), inner_budget_w=np.array([3300], np.float32),
        node_budget_w=np.array([-1, 1400], np.float32), overhead_w=np.array([200, 100], np.float32),
    )  # fmt: skip
    plan = plan_energy(topology, frames, budgets=[PowerBudget(domain="d", budget_w=3200.0)])
    assert plan.budget_of == ("d", "rack", "node-1")
    assert plan.budget_w.tolist() == [3200, 3300, 1400]
    assert (plan.planned_w <= plan.budget_w).all()
    assert float(plan.power_limit_w.sum()) + 300 == pytest.approx(plan.planned_w[0])
    assert ((plan.power_limit_w >= 200) & (plan.power_limit_w <= 700)).all()
    assert plan.solver.objective > np.interp(plan.simple_power_limit_w, [200, 700], [0.5, 1.0]).sum() / 2
    assert plan.expected.slowdown_worst < plan.expected.simple_slowdown_worst


def test_what_lacks_counts_the_least_limits_on_top_of_gpus_that_cannot_be_limited(recording):
    nodes, frames = recording
    own = np.array([0, 0, 0, 0, 1, 1, 1, 1], np.uint8)
    plan = plan_energy(topology_of(nodes, 2000, opt_in=own), frames)
    assert (plan.status, plan.missing_w) == ("infeasible", 4 * 700 + 4 * 200 - 2000)


def test_without_a_rail_peaks_are_charged_and_only_limits_that_a_budget_needs_are_set(recording):
    nodes, frames = recording
    off = EnergyOptions(rail=False)
    peaks = sum(frame.value[0] for frame in frames[-2:]).sum()
    free = plan_energy(topology_of(nodes, 1.3 * peaks), frames, options=off)
    assert (free.power_limit_w == 700).all()
    assert peaks * 0.95 < free.planned_w[0] < 1.3 * peaks
    assert (plan_energy(topology_of(nodes, 1.3 * peaks), frames).power_limit_w < 700).sum() == 4  # those that decode
    tight = plan_energy(topology_of(nodes, 3200), frames, options=off)
    assert 0 < (tight.power_limit_w == 700).sum() < 8
    assert tight.planned_w[0] <= 3200
    assert tight.planned_w[0] == pytest.approx(float(tight.upper_w.sum()))
    assert (tight.upper_w <= tight.power_limit_w).all()


@pytest.mark.parametrize(
    ("drawn", "parked"),
    [
        ({"parked_w": np.zeros(8, np.float32)}, 3),  # five at 200 W
        ({"idle_w": np.full(8, 70, np.float32)}, 5),
        ({}, 7),  # not known: charged .15 of the default, 105 W
    ],
    ids=["parked_w", "idle_w", "neither"],
)
def test_a_budget_below_the_least_limits_parks_gpus_and_says_what_is_missing(recording, drawn, parked):
    nodes, frames = recording
    plan = plan_energy(topology_of(nodes, 1000, **drawn), frames)
    assert (plan.status, len(plan.parked), plan.missing_w) == ("infeasible", parked, pytest.approx(600))
    assert (plan.power_limit_w == 200).all()
    assert plan.planned_w[0] == plan.upper_w.sum() <= 1000


def test_no_plan_of_few_gpus_is_slower_than_uniform_limits_under_any_budget():
    [node] = rack(1, 2)
    frames = []
    node.load(node.uuids[0], 0.8, 0.9)  # both train
    for _ in range(25):
        node.advance(1)
        frames.append(node.telemetry("d"))
    for job in ((), ("one", "one")):
        read = [frame.model_copy(update={"job": job}) for frame in frames]
        for budget_w in (400, 433, 610, 733, 789, 1000, 1123, 1381):
            found = plan_recorded(topology_of([node], budget_w), read)
            _, uniform, planned = compare(found)
            assert planned.speed >= uniform.speed - 1e-9, (job, budget_w)
            assert planned.over_w == 0


def test_what_has_not_opted_in_is_charged_and_never_a_target(recording):
    nodes, frames = recording
    opt_in, mig = np.array([1, 0] * 4, np.uint8), np.array([0, 0, 1, 0, 0, 0, 0, 0], np.uint8)
    unknown = np.array([-1] + [200] * 7, np.float32)
    plan = plan_energy(topology_of(nodes, 5000, opt_in=opt_in, mig=mig, limit_min_w=unknown), frames)
    uuids = nodes[0].uuids + nodes[1].uuids
    assert plan.uuid == tuple(uuids[at] for at in (4, 6))
    assert plan.planned_w[0] == pytest.approx(6 * 700 + float(plan.power_limit_w.sum()))


def test_gpus_that_are_not_heard_are_released_and_charged_at_their_default(recording):
    nodes, frames = recording
    plan = plan_energy(topology_of(nodes, 4000), [frame for frame in frames if frame.node == "node-0"])
    lost = [uuid in nodes[1].uuids for uuid in plan.uuid]
    assert plan.state[lost].tolist() == [2] * 4
    assert {plan.reason[at] for at in plan.reason_of[lost]} == {TargetReason.LOST}
    assert plan.planned_w[0] <= 4000
    assert plan.upper_w[lost].tolist() == [700] * 4


def test_every_reason_of_the_closed_list_is_one_that_plans_give():
    given = inspect.getsource(planner) + inspect.getsource(plans)
    assert [reason.name for reason in TargetReason if f"TargetReason.{reason.name}" not in given] == []


def test_a_recording_that_ends_a_little_earlier_than_another_is_planned_for(recording):
    nodes, frames = recording
    longer = [frame for frame in frames if frame.node == "node-0" or frame.ts_ns <= 5 * 10**9]  # node-1 ends 20 s earlier
    plan = plan_energy(topology_of(nodes, 4000), longer)
    assert (plan.state == 0).all()
    assert (plan.power_limit_w[4:] > 0).all()


def test_the_greatest_power_of_the_whole_recording_counts():
    nodes = rack(1)
    frames = []
    for second in range(80):
        nodes[0].load(nodes[0].uuids[0], *((0.8, 0.9) if second < 15 else (0.15, 0.3)))  # it trains, then it decodes for a minute
        nodes[0].advance(1)
        frames.append(nodes[0].telemetry("d"))
    plan = plan_energy(topology_of(nodes, 9000), frames)
    assert plan.power_limit_w[:2].tolist() == [700, 287]
    assert plan.expected.saved_w == 0  # a limit that slows nothing saves nothing by itself


def test_no_cap_is_tried_offline_although_the_mode_is_apply(recording):
    nodes, frames = recording
    options = EnergyOptions(mode="apply", settle_s=0, measure_s=5, plan_s=5, ttl_s=15)
    plan = plan_energy(topology_of(nodes, 99_000), frames, options=options)
    assert plan.mode == "apply"
    assert TargetReason.PROBE not in plan.reason
    assert (plan.sm_clock_mhz == -1).all()


def test_a_topology_of_children_alone_has_nothing_to_plan():
    site = PowerTopology(domain="site", budget_w=9000.0, child=("a",), child_w=np.array([5000], np.float32))
    with pytest.raises(ProblemError, match="topology must be of 1 or more GPUs, got domain 'site' of children alone"):
        plan_energy(site, [])


def test_the_same_call_gives_the_same_plan_and_the_simple_scheduler_can_answer_alone(recording):
    nodes, frames = recording
    topology = topology_of(nodes, 3200)
    assert plan_energy(topology, frames) == plan_energy(topology, frames[::-1])
    simple = plan_energy(topology, frames, options=EnergyOptions(deterministic=False))
    assert simple.power_limit_w.tolist() == simple.simple_power_limit_w.tolist() == [400] * 8


def test_circuits_and_models_have_no_say_in_caps(recording):
    nodes, frames = recording
    plain = plan_energy(topology_of(nodes, 3200), frames)
    for name in ("qaoa", "gnn", "meta"):
        plan = plan_energy(topology_of(nodes, 3200), frames, options=EnergyOptions(**{name: True}))
        assert (plan.fallback_reason, plan.solver.asked) == (None, ())
        assert plan.power_limit_w.tolist() == plain.power_limit_w.tolist()


def test_frames_that_contradict_the_topology_are_refused(recording):
    nodes, frames = recording
    with pytest.raises(ProblemError, match="uuid must be a GPU of the topology of d, got 'GPU-node-1-0'"):
        plan_energy(topology_of(nodes[:1], 3200), frames)
    with pytest.raises(ProblemError, match="domain must be 'd', as in the topology, got 'e'"):
        plan_energy(topology_of(nodes, 3200), [frames[0].model_copy(update={"domain": "e"})])
    wrong = frames[0].value.copy()
    wrong[1] *= 1000
    with pytest.raises(ProblemError, match="power_limit_w must be in watts"):
        plan_energy(topology_of(nodes, 3200), [frames[0].model_copy(update={"value": wrong})])


@pytest.mark.parametrize(
    ("workload", "quantum", "options"),
    [
        ("training", "available", {"qaoa": True, "meta": True}),
        ("inference", "limited", {"gnn": True}),
        ("mixed", "busy", {"meta": True}),
        ("power_constrained", "none", {}),
        ("training", "none", {}),
    ],
)
def test_recommended_options_are_those_of_the_table(workload, quantum, options):
    assert EnergyOptions.recommended(workload, quantum) == EnergyOptions(**options)
    assert EnergyOptions.recommended(workload, quantum).deterministic


def test_options_that_contradict_each_other_are_refused_by_name():
    for options, message in (
        ({"mode": "apply", "deterministic": False}, "option mode must be dry_run or recommend while deterministic is off"),
        ({"ttl_s": 40}, "option ttl_s must be at most three times plan_s, 30, got 40.0"),
        ({"meta": True, "deterministic": False}, "option meta must be false where there are no two solvers"),
    ):
        with pytest.raises(OptionError, match=message):
            EnergyOptions().changed(options)
    with pytest.raises(OptionError, match="workload must be one of training, inference"):
        EnergyOptions.recommended("dancing", "none")


def test_quantum_processors_are_charged_to_the_budget_at_work(recording):
    nodes, frames = recording
    more = {"qpu": ("q0", "q1"), "qpu_idle_w": np.array([300, 100], np.float32), "qpu_active_w": np.array([500, -1], np.float32)}
    plan = plan_energy(topology_of(nodes, 4000, **more), frames)
    assert plan.planned_w[0] == plan.upper_w.sum() + 600
    assert (plan.planned_w[0] <= 4000, plan.active_qpus) == (True, 0)
