"""Energy's processor with nodes and actuators in a loop: caps are measured before they count, and budgets hold throughout."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.energy.memory import MAX_SOURCES
from qstream.energy.options import EnergyOptions
from qstream.energy.processor import EnergyProcessor
from qstream.testing import Feed
from schemas.energy import EnergyPlan, TargetReason
from schemas.power import PowerBudget
from tests.unit.energy.loops import START_S, Loop
from tests.unit.energy.racks import rack, topology_of


def reasons(plan):
    return {plan.reason[at] for at in plan.reason_of.tolist()}


@pytest.fixture
def loop():
    nodes = rack()
    return Loop(nodes, topology_of(nodes, 5600))


def test_caps_are_measured_then_save_within_the_slowdown_and_budgets_always_hold(loop):
    plans = loop.run(200)
    last = plans[-1]
    assert (last.status, reasons(last)) == ("optimal", {TargetReason.ACCEPTED})
    assert last.expected.saved_ratio > 0.1
    assert last.expected.slowdown_worst <= 0.05
    assert 0 < (last.sm_clock_mhz[:2]).max() < 1980
    loop.send(PowerBudget(domain="d", budget_w=2600.0, source="grid"))
    assert sum(loop.limits_w()) <= 2600  # at once
    for _ in range(40):
        loop.run(1)
        assert sum(loop.limits_w()) <= 2600


def test_the_first_plan_waits_until_each_node_could_be_heard(loop):
    assert loop.run(9) == []
    (first,) = loop.run(1)
    assert TargetReason.LOST not in reasons(first)


def test_without_progress_nothing_is_slowed_to_save():
    nodes = rack(1)
    loop = Loop(nodes, topology_of(nodes, 5600))
    telemetry = nodes[0].telemetry
    nodes[0].telemetry = lambda domain: telemetry(domain).model_copy(update={"counter": (), "count": None})
    plans = loop.run(60)
    assert reasons(plans[-1]) == {TargetReason.DEFAULT}
    assert plans[-1].slowdown.max() == 0


def test_a_silent_node_is_held_then_released_and_charged_and_neither_stops_nor_hurts_the_others():
    nodes = rack()
    loop = Loop(nodes, topology_of(nodes, 4000), probe=False)
    loop.run(40)
    loop.silent = {"node-1"}
    assert TargetReason.HELD in reasons(loop.run(20)[-1])
    for _ in range(30):
        loop.run(1)
        assert sum(loop.limits_w()) <= 4000
    plan = loop.feed.frames(EnergyPlan)[-1]
    assert plan.state.tolist() == [0] * 4 + [2] * 4
    assert plan.planned_w[0] <= 4000
    assert loop.limits_w()[4:] == [700] * 4


def test_a_target_that_could_not_be_set_is_charged_at_what_is_enforced(loop):
    loop.run(30)
    stuck = loop.nodes[0].uuids[3]
    loop.nodes[0].fail(stuck, "power_limit_w", "denied")
    loop.send(PowerBudget(domain="d", budget_w=2600.0, source="grid"))
    loop.run(20)
    enforced = loop.nodes[0].power_limit_w(stuck)
    plan = loop.feed.frames(EnergyPlan)[-1]
    at = plan.uuid.index(stuck)
    assert plan.upper_w[at] == enforced > 600
    assert sum(loop.limits_w()) <= 2600
    counts = [plan.acks.get("denied", 0) for plan in loop.feed.frames(EnergyPlan)]
    assert sum(counts) == sum(ack.result.count("denied") for ack in loop.acks)
    assert sum(counts) >= 1


def test_a_node_with_a_wrong_clock_does_not_drive_the_time_of_its_domain():
    nodes = rack(3, 2)
    feed = Feed(EnergyProcessor(EnergyOptions()))
    feed.send(topology_of(nodes, 5600), at_ms=START_S * 1000)
    for second in range(1, 30):
        for at, node in enumerate(nodes):
            node.advance(1)
            ahead_s = 86_400 if at == 2 else 0
            feed.send(node.telemetry("d"), at_ms=(START_S + second + ahead_s) * 1000)
    assert feed.state("d").watermark_ns == (START_S + 29) * 10**9
    assert len(feed.frames(EnergyPlan)) >= 2


def test_when_nothing_comes_any_more_one_plan_lets_go(loop):
    loop.run(20)
    at_ms = (loop.now_s + 1) * 1000
    loop.feed.tick(at_ms)
    assert loop.feed.tick(at_ms + 20_000).events == []
    (event,) = loop.feed.tick(at_ms + 60_000).events
    assert event.frame.state.tolist() == [2] * 8
    assert loop.feed.tick(at_ms + 61_000).events == []


def test_telemetry_waits_for_its_topology_and_a_stranger_is_a_dead_letter():
    nodes = rack(2, 1)
    feed = Feed(EnergyProcessor())
    feed.send(nodes[0].telemetry("d"), at_ms=START_S * 1000)
    assert "has no topology yet" in str(feed.waiting("d"))
    feed = Feed(EnergyProcessor())
    feed.send(topology_of(nodes[:1], 700), at_ms=START_S * 1000)
    (letter,) = feed.send(nodes[1].telemetry("d"), at_ms=START_S * 1000).dead
    assert "uuid must be a GPU of the topology of d, got 'GPU-node-1-0'" in letter.error_message


def test_what_was_measured_stays_under_a_new_topology_except_of_gpus_with_other_limits(loop):
    loop.run(60)
    before = loop.feed.state("d")
    other = np.array([300] + [200] * 7, np.float32)
    loop.send(topology_of(loop.nodes, 5000, limit_min_w=other))
    after = loop.feed.state("d")
    assert (after.time_s[0] == -1).all()
    assert np.array_equal(after.time_s[1:], before.time_s[1:])
    loop.run(20)
    assert [plan.reset_reason for plan in loop.feed.frames(EnergyPlan)].count("topology_changed") == 1


def test_of_too_many_sources_of_budgets_the_highest_is_dropped(loop):
    loop.run(20)
    loop.send(PowerBudget(domain="d", budget_w=3000.0, source="grid"))
    for at in range(MAX_SOURCES):
        loop.send(PowerBudget(domain="d", budget_w=4000.0 + at, source=f"source-{at}"))
    held = {budget.source for budget in loop.feed.state("d").budgets}
    assert len(held) == MAX_SOURCES
    assert held == {"grid", *(f"source-{at}" for at in range(MAX_SOURCES - 1))}
