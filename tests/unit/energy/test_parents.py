"""Parents: budgets go to the children that make most of them, and their sum holds whoever is late or silent."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.energy.budgets import tree_of
from qstream.energy.children import fresh_children, heard
from qstream.energy.parents import divide
from schemas.energy import EnergyPlan
from schemas.power import PowerBudget, PowerDemand, PowerTopology
from tests.unit.energy.estates import LEAST_W, MOST_W, Estate

NOW = 10**18


def divided(budget_w, curves, *, upper_w=(0.0, 0.0), silent=(False, False), **fields):
    """Two children with these curves, and what each gets."""
    topology = PowerTopology(domain="s", budget_w=budget_w, child=("a", "b"), child_w=np.full(2, 900, np.float32), **fields)
    children = fresh_children(2)
    for name, (watts, value), upper in zip("ab", curves, upper_w, strict=True):
        demand = PowerDemand(domain="s", ts_ns=NOW, child=name, least_w=watts[0], upper_w=upper, watts=watts, value=value)
        children = heard(children, topology, demand, NOW)
    none = np.zeros(2, bool)
    tree = tree_of(topology, (), NOW, NOW)
    return divide(children, topology, tree, silent=np.array(silent), resent=none, deadband_w=25.0)


STEEP, FLAT = ([200.0, 600.0], [1.0, 5.0]), ([200.0, 600.0], [1.0, 2.0])


def test_the_child_that_makes_most_of_watts_gets_them_and_what_is_left_goes_to_all():
    assert divided(800.0, (STEEP, FLAT)).budget_w.tolist() == [600, 200]
    assert divided(1800.0, (STEEP, FLAT)).budget_w.tolist() == [900, 900]
    assert divided(300.0, (STEEP, FLAT)).budget_w.tolist() == [150, 150]
    assert divided(300.0, (STEEP, FLAT)).missing_w == 100


def test_a_raise_waits_for_what_others_may_still_draw():
    first = divided(800.0, (STEEP, FLAT), upper_w=(200.0, 600.0))
    assert first.budget_w.tolist() == [200, 200]
    assert divided(800.0, (STEEP, FLAT), upper_w=(200.0, 450.0)).budget_w.tolist() == [350, 200]


def test_a_silent_child_is_charged_and_told_nothing():
    found = divided(800.0, (STEEP, FLAT), upper_w=(200.0, 450.0), silent=(False, True))
    assert found.budget_w[0] == 350
    assert found.sent.tolist() == [True, False]


def test_budgets_between_the_domain_and_its_children_hold():
    inner = {"inner": ("hall",), "inner_of_child": np.array([0, -1], np.int32), "inner_budget_w": np.array([350], np.float32)}
    assert divided(1000.0, (STEEP, FLAT), **inner).budget_w.tolist() == [350, 631.5]


@pytest.mark.parametrize("seed", range(3))
def test_rows_never_get_more_than_the_site_has_however_late_their_records_come(seed):
    rng = np.random.default_rng(seed)
    estate = Estate(late_s=rng.integers(0, 3, 3) * 5, seed=seed)
    budget, given = estate.most_w, [estate.most_w] * 12

    def check(before, now):
        given.append(budget)
        assert now.sum() <= max(before.sum(), max(given[-4:])) + 0.01

    estate.run(8, check)
    for steps in (2, 12, 3, 12):
        budget = rng.uniform(LEAST_W * 14, MOST_W * 12)
        estate.send(PowerBudget(domain="site", budget_w=budget, source="grid"))
        estate.run(steps, check)
        if steps > 9:
            assert estate.enforced_w().sum() <= budget
            assert estate.budgets_w().sum() <= budget


def test_a_row_that_is_silent_frees_nothing():
    estate = Estate()
    estate.run(10)
    estate.send(PowerBudget(domain="site", budget_w=6000.0, source="grid"))
    estate.run(10)
    kept = estate.budgets_w()[2]
    estate.mute = {"row-2"}
    for node in estate.rows["row-2"]:
        for uuid in node.uuids:
            node.load(uuid, 0.5, 0.0)
    estate.run(16)
    assert estate.budgets_w()[2] == kept
    estate.send(PowerBudget(domain="site", budget_w=4000.0, source="grid"))
    estate.run(6)
    assert estate.budgets_w()[2] == kept
    assert estate.enforced_w()[:2].sum() + kept <= 4000


def test_a_fall_reaches_the_gpus_of_nested_domains_with_the_same_record():
    estate = Estate(parent="region")
    region = PowerTopology(domain="region", budget_w=9000.0, child=("site",), child_w=np.array([9000], np.float32))
    estate.send(region)
    estate.run(12)
    assert estate.enforced_w().sum() > 3000
    estate.send(PowerBudget(domain="region", budget_w=3000.0, source="grid"))
    assert estate.enforced_w().sum() <= 3000
    (plan,) = [plan for plan in estate.feed.frames(EnergyPlan) if plan.domain == "region"][-1:]
    assert plan.budget_of == ("region", "site")
    estate.run(6)
    demand = [demand for demand in estate.feed.frames(PowerDemand) if demand.domain == "region"][-1]
    assert demand.held_ns > 0
    assert demand.upper_w <= 3000


def test_a_stranger_that_asks_is_a_dead_letter_and_one_that_has_no_parent_yet_is_not_held_up():
    estate = Estate(1)
    estate.send(PowerDemand.example().model_copy(update={"child": "row-9"}))
    estate.send(PowerDemand.example().model_copy(update={"domain": "nowhere"}))
    estate.run(1)
    (letter,) = estate.feed.dead
    assert "child must be a child of site by its topology, got 'row-9'" in letter.error_message
