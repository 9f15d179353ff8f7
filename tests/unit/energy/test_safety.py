"""The sixteen safety rules, each in a loop of planner, actuators and fake GPUs of which some fail."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from qstream.node import Actuator, FakeNvml
from schemas.energy import EnergyPlan, TargetReason
from schemas.power import GpuTelemetry, PowerBudget
from tests.unit.energy.loops import Loop
from tests.unit.energy.racks import rack, topology_of
from tests.unit.node.plans import S, applying, limits, plan_for

FAULTS = ("denied", "ignored", "clamped", "lost", "none")
EACH_FAULT = pytest.mark.parametrize("how", FAULTS)


@pytest.fixture
def nodes():
    return rack()


def changed(node, change):
    """Have the node's readings changed by a function of the frame."""
    telemetry = node.telemetry
    node.telemetry = lambda domain: change(telemetry(domain))


def with_metric(frame: GpuTelemetry, name, values):
    """The frame with other values of a metric; None leaves one as it is."""
    value = frame.value.copy()
    row = value[frame.metric.index(name)]
    row[:] = [old if new is None else new for old, new in zip(row.tolist(), values, strict=True)]
    return frame.model_copy(update={"value": value})


def with_counter(frame: GpuTelemetry, name, values):
    count = frame.count.copy()
    count[frame.counter.index(name)] = values
    return frame.model_copy(update={"count": count})


def squeeze(loop, watts):
    loop.send(PowerBudget(domain="d", budget_w=float(watts), source="grid"))


def reason_of(plan, uuid):
    return plan.reason[int(plan.reason_of[plan.uuid.index(uuid)])]


@EACH_FAULT
def test_rule_1_no_limit_is_set_below_the_least_or_above_the_most(nodes, how):
    loop = Loop(nodes, topology_of(nodes, 5600), probe=False)
    loop.run(15)
    nodes[0].fail(nodes[0].uuids[0], "power_limit_w", how)
    for watts in (2600, 1700, 800, 5600):  # 800: below the sum of the least
        squeeze(loop, watts)
        loop.run(15)
    values = [value for node in nodes for _, knob, value in node.writes if knob == "power_limit_w"]
    assert values
    assert 200 <= min(values) <= max(values) <= 700


def test_rule_1_a_gpu_with_unknown_limits_has_no_target(nodes):
    unknown = np.array([-1] + [200] * 7, np.float32)
    loop = Loop(nodes, topology_of(nodes, 5600, limit_min_w=unknown))
    plans = loop.run(40)
    assert all(nodes[0].uuids[0] not in plan.uuid for plan in plans)


def test_rule_2_a_limit_in_milliwatts_is_a_dead_letter_and_changes_nothing(nodes):
    loop = Loop(nodes, topology_of(nodes, 5600), probe=False)
    loop.run(15)
    before = loop.feed.state("d")
    frame = with_metric(nodes[0].telemetry("d"), "power_limit_w", [700_000] * 4)
    result = loop.feed.send(frame, at_ms=loop.now_s * 1000 + 500)
    assert "power_limit_w must be in watts" in result.dead[0].error_message
    assert loop.feed.state("d") == before


def test_rule_2_power_of_a_whole_module_is_not_taken_for_that_of_a_gpu(nodes):
    changed(nodes[0], lambda frame: with_metric(frame, "power_w", [1400, None, None, None]))
    loop = Loop(nodes, topology_of(nodes, 5600))
    plan = loop.run(30)[-1]
    assert (loop.feed.state("d").power_w[0], plan.upper_w[0]) == (-1, 700)


def test_rule_3_stale_readings_hold_the_target_and_lost_ones_let_go_of_it(nodes):
    loop = Loop(nodes, topology_of(nodes, 4000), probe=False)
    loop.run(30)
    held = loop.limits_w()[4:]
    loop.silent = {"node-1"}
    assert reason_of(loop.run(10)[-1], nodes[1].uuids[0]) == TargetReason.HELD
    assert loop.limits_w()[4:] == held
    loop.run(60)
    plan = loop.feed.frames(EnergyPlan)[-1]
    assert reason_of(plan, nodes[1].uuids[0]) == TargetReason.LOST
    assert (loop.limits_w()[4:], plan.upper_w[4:].tolist()) == ([700] * 4, [700] * 4)


@pytest.mark.parametrize("watts", [-5.0, 9_000.0, 3.7e12, 140737488355328.0])
def test_rule_4_what_is_no_measurement_is_dropped_and_makes_a_gpu_stale(nodes, watts):
    loop = Loop(nodes, topology_of(nodes, 5600), probe=False)
    loop.run(15)
    changed(nodes[0], lambda frame: with_metric(frame, "power_w", [watts, None, None, None]))
    plan = loop.run(15)[-1]
    assert 0 < loop.feed.state("d").power_w[0] < 300
    assert reason_of(plan, nodes[0].uuids[0]) == TargetReason.HELD
    assert reason_of(plan, nodes[0].uuids[1]) != TargetReason.HELD


def test_rule_4_a_storm_of_damaged_readings_gives_no_unsafe_target(nodes):
    rng, known = np.random.default_rng(5), np.array([-1, 0, 1e-9, 259, 701, 7e3, 7e5, 3.7e12, 1e30], np.float32)
    blank = np.array([0, 5, 2**63, 2**64 - 1, 0xE8], np.uint64)

    def damaged(frame):
        value = np.where(rng.random(frame.value.shape) < 0.3, rng.choice(known, frame.value.shape), frame.value)
        count = np.where(rng.random(frame.count.shape) < 0.1, rng.choice(blank, frame.count.shape), frame.count)
        return frame.model_copy(update={"value": value.astype(np.float32), "count": count})

    changed(nodes[0], damaged)
    opt_in = np.array([1, 1, 1, 0] * 2, np.uint8)
    loop = Loop(nodes, topology_of(nodes, 3600, opt_in=opt_in), plan_s=2.0, ttl_s=6.0)
    plans = loop.run(150)
    assert len(plans) > 20
    for plan in plans:
        assert not {node.uuids[3] for node in nodes} & {*plan.uuid}
        watts, clocks = plan.power_limit_w, plan.sm_clock_mhz
        assert ((watts == -1) | ((watts >= 200) & (watts <= 700))).all()
        assert ((clocks == -1) | ((clocks >= 345) & (clocks <= 1980))).all()


def test_rule_5_a_counter_that_falls_ends_a_measurement_and_gives_no_negative_joules(nodes):
    loop = Loop(nodes, topology_of(nodes, 5600))
    for _ in range(4):
        loop.run(12)
        nodes[0].reboot()
    assert (loop.feed.state("d").time_s[:4] == -1).all()  # no measurement was ever long enough
    loop.run(60)
    state = loop.feed.state("d")
    assert (state.draw_w[:4, -1] > 0).all()
    assert (state.draw_w[state.draw_w != -1] > 0).all()


def test_rule_6_readings_that_come_again_late_or_from_the_future_change_nothing(nodes):
    loop = Loop(nodes, topology_of(nodes, 5600), probe=False)
    loop.run(15)
    old = nodes[0].telemetry("d")
    loop.run(15)
    before = loop.feed.state("d")
    for back_s in (0, 15, 30):
        loop.feed.send(with_metric(old, "power_w", [699] * 4), at_ms=(loop.now_s - back_s) * 1000)
    assert loop.feed.state("d") == before
    loop.feed.send(nodes[0].telemetry("d"), at_ms=(loop.now_s + 86_400) * 1000)
    after = loop.feed.state("d")
    assert after.seen_ns.max() <= after.watermark_ns + 2 * S


def test_rule_7_targets_are_lowered_few_at_a_time_and_do_not_go_to_and_fro(nodes):
    loop = Loop(nodes, topology_of(nodes, 5600), probe=False, max_lowered=0.25)
    plans = loop.run(120)
    for before, after in pairwise(plans):
        assert (after.power_limit_w < before.power_limit_w - 1).sum() <= 2
    for row in range(8):
        values = [plan.power_limit_w[row] for plan in plans]
        assert sum(abs(a - b) > 1 for a, b in pairwise(values)) <= 2


@pytest.mark.parametrize("how", ["denied", "ignored", "clamped", "lost"])
def test_rule_8_nothing_is_raised_on_a_node_before_what_goes_down_is_read_back(tmp_path, how):
    gpus = FakeNvml(4, seed=1)
    actuator = applying(gpus, tmp_path)
    actuator.take(plan_for(gpus.uuids, [300, 300, 600, 600]), 1 * S)
    gpus.fail(gpus.uuids[2], "power_limit_w", how)
    actuator.take(plan_for(gpus.uuids, [600, 600, 300, 300], version=2), 2 * S)
    assert [gpus.power_limit_w(uuid) for uuid in gpus.uuids[:2]] == [300, 300]


def test_rule_9_a_cap_that_becomes_too_slow_is_raised_by_measurement_alone(nodes):
    loop = Loop(nodes, topology_of(nodes, 5600))
    capped = loop.run(200)[-1].sm_clock_mhz[0]
    assert 0 < capped < 1980
    nodes[0].load(nodes[0].uuids[0], beta=0.95, activity=0.9)
    clocks = [plan.sm_clock_mhz[0] for plan in loop.run(60)]
    assert clocks[-1] == -1 or clocks[-1] > capped


def test_rule_10_a_hot_gpu_is_never_raised_and_nothing_is_learnt_of_it(nodes):
    loop = Loop(nodes, topology_of(nodes, 5600), probe=False)
    loop.run(10)
    squeeze(loop, 2600)
    loop.run(20)
    low = loop.limits_w()[0]
    changed(nodes[0], lambda frame: with_counter(frame, "clock_event_reasons", [0x40, 0, 0, 0]))
    loop.run(5)
    before = loop.feed.state("d").time_s[0].tolist()
    squeeze(loop, 5600)
    plan = loop.run(40)[-1]
    assert reason_of(plan, nodes[0].uuids[0]) == TargetReason.THERMAL
    assert loop.limits_w()[0] <= low
    assert loop.limits_w()[1] > low
    assert loop.feed.state("d").time_s[0].tolist() == before


def test_rule_11_only_what_has_opted_in_is_set_and_it_is_let_go_when_its_tenant_leaves(nodes):
    opt_in = np.array([1, 0, 1, 1] * 2, np.uint8)
    loop = Loop(nodes, topology_of(nodes, 3400, opt_in=opt_in), probe=False)
    loop.run(30)
    assert loop.limits_w()[0] < 700
    left = opt_in.copy()
    left[0] = 0
    loop.send(topology_of(nodes, 3400, opt_in=left))
    loop.run(20)
    assert loop.limits_w()[:2] == [700, 700]
    assert nodes[0].uuids[1] not in {uuid for uuid, _, _ in nodes[0].writes}


def test_rule_11_the_defaults_come_back_when_plans_end_at_the_end_and_after_a_kill(nodes, tmp_path):
    loop = Loop(nodes, topology_of(nodes, 3000), probe=False)
    loop.run(30)
    assert max(loop.limits_w()) < 700
    loop.cut = {"node-0"}
    loop.run(40)  # longer than a plan holds
    assert loop.limits_w()[:4] == [700] * 4
    loop.actuators[1].close()
    assert loop.limits_w()[4:] == [700] * 4
    gpus = FakeNvml(4)
    applying(gpus, tmp_path).take(plan_for(gpus.uuids, 300), 1 * S)
    applying(gpus, tmp_path)
    assert limits(gpus) == [700] * 4


def test_rule_12_gpus_are_known_by_uuid_and_partitioned_ones_are_never_set(nodes):
    mig = np.array([1, 0, 0, 0] * 2, np.uint8)
    loop = Loop(nodes, topology_of(nodes, 3400, mig=mig), probe=False)
    loop.run(30)
    nodes[1].reboot()  # counts its GPUs in another order
    loop.run(40)
    plan = loop.feed.frames(EnergyPlan)[-1]
    assert set(plan.uuid) == {uuid for node in nodes for uuid in node.uuids if not uuid.endswith("-0")}
    for uuid, watts in zip(plan.uuid, plan.power_limit_w.tolist(), strict=True):
        assert nodes["node-1" in uuid].power_limit_w(uuid) == pytest.approx(watts)
    assert not {uuid for node in nodes for uuid, _, _ in node.writes if uuid.endswith("-0")}


def test_rule_13_without_a_state_file_that_can_be_read_and_written_nothing_is_touched(tmp_path):
    gpus, path = FakeNvml(2), tmp_path / "state.json"
    path.write_bytes(b"\x00 not a lease")
    acks = [applying(gpus, tmp_path).take(plan_for(gpus.uuids, 300), 1 * S)]
    given = {"domain": "d", "node": "n", "mode": "apply", "allow": gpus.uuids}
    acks.append(Actuator(gpus, state_path=tmp_path / "no" / "folder", **given).take(plan_for(gpus.uuids, 300), 1 * S))
    assert ([set(ack.result) for ack in acks], gpus.writes) == ([{"refused"}] * 2, [])
    assert all("state file" in ack.detail for ack in acks)


def test_rule_14_a_plan_is_taken_once_and_only_after_lower_fences_and_versions(tmp_path):
    gpus = FakeNvml(2)
    actuator = applying(gpus, tmp_path)
    orders = [(1, 5), (1, 5), (1, 4), (0, 9), (2, 1), (1, 99), (2, 2)]
    taken = []
    for watts, (fence, version) in enumerate(orders, start=300):
        ack = actuator.take(plan_for(gpus.uuids, watts, fence=fence, version=version), 1 * S)
        taken.append(set(ack.result) == {"ok"})
    assert taken == [True, False, False, False, True, False, True]
    assert limits(gpus) == [306, 306]


@pytest.mark.parametrize("ranks", [[2, 3, 6, 7], [0, 1, 4, 5]])
def test_rule_15_the_ranks_of_a_job_have_one_target_in_every_plan(nodes, ranks):
    job = tuple("ranks" if at in ranks else "" for at in range(4))
    for node in nodes:
        changed(node, lambda frame: frame.model_copy(update={"job": job}))
    loop = Loop(nodes, topology_of(nodes, 5600))
    loop.run(60)
    squeeze(loop, 3000)
    loop.run(40)
    squeeze(loop, 5600)
    loop.run(60)
    for plan in loop.feed.frames(EnergyPlan):
        assert len({*plan.power_limit_w[ranks].tolist()}) == 1
        assert len({*plan.sm_clock_mhz[ranks].tolist()}) == 1


@pytest.mark.parametrize("seed", range(3))
def test_rule_16_the_power_of_a_domain_changes_no_faster_than_its_ramp(nodes, seed):
    rng = np.random.default_rng(seed)
    loop = Loop(nodes, topology_of(nodes, 5600), probe=False)
    loop.run(20)
    for _ in range(6):
        watts = float(rng.integers(1800, 5600))
        loop.send(PowerBudget(domain="d", budget_w=watts, source="grid", ramp_w_s=40.0))
        for node in nodes:
            for uuid in node.uuids:
                node.load(uuid, 0.5, float(rng.random()))
        loop.run(20)
    plans = loop.feed.frames(EnergyPlan)
    ramped = [plan for plan in plans if plan.ts_ns > plans[0].ts_ns + 10 * S]
    for before, after in pairwise(ramped):
        elapsed_s = (after.ts_ns - before.ts_ns) / 1e9
        assert abs(float(after.power_limit_w.sum() - before.power_limit_w.sum())) <= 40 * elapsed_s + 1


def test_each_rule_of_the_table_has_tests():
    table = (Path(__file__).parents[3] / "qstream/node/README.md").read_text()
    rules = [int(number) for number in re.findall(r"^\| (\d+)\. ", table, re.MULTILINE)]
    assert rules == list(range(1, 17))
    tested = {int(found[1]) for name in globals() if (found := re.match(r"test_rule_(\d+)_", name))}
    assert tested == {*rules}
