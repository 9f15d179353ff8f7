"""Budgets hold, and measurements stay clean, while plans change: a node is cut off, a budget is announced, a limit moves."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.energy.memory import LEVELS
from schemas.energy import EnergyPlan
from schemas.power import PowerBudget
from tests.unit.energy.loops import Loop
from tests.unit.energy.racks import rack, topology_of


@pytest.mark.parametrize("wait_s", range(0, 20, 3))
def test_the_others_are_lower_before_a_node_that_is_cut_off_goes_back_to_its_defaults(wait_s):
    nodes = rack()
    loop = Loop(nodes, topology_of(nodes, 4000), probe=False)
    loop.run(40 + wait_s)
    loop.cut = {"node-1"}
    for _ in range(40):
        loop.run(1)
        assert sum(loop.limits_w()) <= 4000
    assert loop.limits_w()[4:] == [700] * 4


@pytest.mark.parametrize("plans", ["late", "deaf"])
@pytest.mark.parametrize("wait_s", [0, 13])
def test_the_others_are_lower_before_a_node_that_is_heard_and_takes_no_plan_goes_back_to_its_defaults(wait_s, plans):
    nodes = rack()
    loop = Loop(nodes, topology_of(nodes, 4000), probe=False)
    loop.run(40 + wait_s)
    getattr(loop, plans).add("node-1")
    for _ in range(80):
        loop.run(1)
        assert sum(loop.limits_w()) <= 4000
    assert loop.limits_w()[4:] == [700] * 4
    getattr(loop, plans).clear()
    for _ in range(90):
        loop.run(1)
        assert sum(loop.limits_w()) <= 4000
    assert max(loop.limits_w()[4:6]) < 700


@pytest.mark.parametrize("notice_s", [3, 25])
def test_a_budget_that_is_announced_is_kept_from_its_first_second_on(notice_s):
    nodes = rack()
    loop = Loop(nodes, topology_of(nodes, 5600), probe=False)
    loop.run(44)
    from_s = loop.now_s + notice_s
    loop.send(PowerBudget(domain="d", budget_w=2600.0, valid_from_ns=from_s * 10**9, source="grid"))
    while loop.now_s < from_s + 12:
        loop.run(1)
        assert loop.now_s < from_s or sum(loop.limits_w()) <= 2600


def test_nothing_is_measured_across_a_change_of_the_limit():
    nodes = rack()
    loop = Loop(nodes, topology_of(nodes, 5600))
    loop.run(160)  # until each GPU was measured under a cap
    before = loop.feed.state("d")
    for budget_w in (2600.0, 5600.0):
        loop.send(PowerBudget(domain="d", budget_w=budget_w, source="grid"))
        loop.run(45)
    after = loop.feed.state("d")
    measured = (before.time_s > 0) & (np.arange(LEVELS) < LEVELS - 1)
    assert measured.any(1).all()
    np.testing.assert_allclose(after.time_s[measured], before.time_s[measured], rtol=0.005)
    known = before.accepted >= 0
    assert (after.accepted == before.accepted)[known].all()


def test_a_budget_of_a_node_that_falls_with_a_new_topology_is_kept_at_once_too():
    nodes = rack()
    loop = Loop(nodes, topology_of(nodes, 5600), probe=False)
    loop.run(44)
    loop.send(topology_of(nodes, 5600, node_budget_w=np.array([1200, -1], np.float32)))
    assert sum(loop.limits_w()[:4]) <= 1200 < sum(loop.limits_w()[4:])
    plans = len(loop.feed.frames(EnergyPlan))
    loop.send(topology_of(nodes, 5600))
    assert len(loop.feed.frames(EnergyPlan)) == plans  # one that rises waits for the next tick


def test_targets_of_a_dry_run_do_not_count_as_refused_once_plans_are_applied():
    nodes = rack()
    loop = Loop(nodes, topology_of(nodes, 2600), probe=False, mode="dry_run")
    assert loop.run(60)[-1].power_limit_w.min() < 400
    assert loop.limits_w() == [700] * 8
    loop.feed.configure(mode="apply")
    for plan in loop.run(25):
        assert "held" not in plan.reason, plan.reason
    assert sum(loop.limits_w()) <= 2600


def test_a_dry_run_in_between_does_not_count_as_plans_that_actuators_have_not_taken():
    nodes = rack()
    loop = Loop(nodes, topology_of(nodes, 2600), probe=False)
    loop.run(40)
    loop.feed.configure(mode="dry_run")
    loop.run(30)
    loop.feed.configure(mode="apply")
    for plan in loop.run(12):
        assert plan.mode == "apply"
        assert plan.status != "infeasible"
    assert sum(loop.limits_w()) <= 2600
