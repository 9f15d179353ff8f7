"""Levels under nested budgets: never over one, near the bound, and the bound is the optimum of the linear relaxation."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qstream.energy import allocate
from qstream.errors import ProblemError
from tests.unit.energy.trees import random_fleet, relaxation, used_w

NAN = float("nan")
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=60)
@given(SEEDS, st.integers(1, 24))
def test_every_budget_of_a_random_tree_holds_and_the_bound_is_the_optimum_of_highs(seed: int, gpus: int) -> None:
    fleet = random_fleet(np.random.default_rng(seed), gpus)
    power, value, above, budget = fleet
    found = allocate(*fleet)
    assert (found.level >= 0).all()
    used = used_w(power, above, found.level, len(budget))
    assert (used <= budget * (1 + 1e-11) + 1e-8).all()
    assert np.allclose(found.planned_w, used)
    assert found.value == pytest.approx(value[np.arange(gpus), found.level].sum())
    assert found.bound == pytest.approx(relaxation(fleet), rel=1e-7)
    assert found.value <= found.bound
    assert found.status == ("optimal" if found.value > found.bound - 1e-9 * max(1, abs(found.bound)) else "feasible")
    assert not found.missing_w.any()


@settings(max_examples=30)
@given(SEEDS)
def test_the_answer_is_near_the_best_of_all_combinations(seed: int) -> None:
    power, value, above, budget = random_fleet(np.random.default_rng(seed), 4, 4, tight=(0.3, 1.0))
    best = -np.inf
    for level in product(*(np.flatnonzero(~np.isnan(row)) for row in power)):
        if (used_w(power, above, np.array(level), len(budget)) <= budget + 1e-9).all():
            best = max(best, value[np.arange(4), level].sum())
    found = allocate(power, value, above, budget)
    assert 0.85 * best <= found.value <= best + 1e-9
    assert found.bound >= best - 1e-9


@given(SEEDS, st.integers(1, 6))
def test_a_group_under_one_chain_of_budgets_is_bounded_as_one_gpu_of_the_sums_is(seed: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    power, value, above, budget = random_fleet(rng, groups)
    group = np.repeat(np.arange(groups), 2)
    found = allocate(power[group] / 2, value[group] / 2, above[group], budget, group=group)
    one = allocate(power, value, above, budget)
    assert found.bound == pytest.approx(one.bound)
    assert found.level.tolist() == one.level[group].tolist()


@settings(max_examples=40)
@given(SEEDS, st.integers(2, 20))
@example(616, 8)
def test_the_gpus_of_a_group_take_one_level_within_all_budgets(seed: int, gpus: int) -> None:
    rng = np.random.default_rng(seed)
    power, value, above, budget = random_fleet(rng, gpus, tight=(0.5, 1.0))
    power, value = np.nan_to_num(power, nan=200.0), np.nan_to_num(value, nan=0.5)
    group = rng.integers(0, max(2, gpus // 3), gpus)
    found = allocate(power, value, above, budget, group=group)
    for name in np.unique(group):
        assert len(set(found.level[group == name])) == 1
    assert (used_w(power, above, found.level, len(budget)) <= budget + 1e-6).all()
    assert found.value <= found.bound <= allocate(power, value, above, budget).bound + 1e-9 or found.status == "infeasible"


def test_groups_over_nodes_come_near_their_bound() -> None:
    ratios = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        share = np.linspace(0.4, 1.0, 7)
        power = rng.uniform(200, 400, (64, 1)) * share
        value = rng.choice([1.0, 2.0, 4.0], (64, 1)) * share ** rng.uniform(0.2, 0.8, (64, 1))
        above = np.stack((np.arange(64) // 8, np.full(64, 8)), 1)
        budget = np.append(power[:, -1].reshape(8, 8).sum(1) * rng.uniform(0.6, 0.9, 8), 0.7 * power[:, -1].sum())
        found = allocate(power, value, above, budget, group=rng.integers(0, 16, 64))
        ratios.append(found.value / found.bound)
    assert np.mean(ratios) > 0.98


def test_the_ranks_of_one_job_are_worth_what_they_are_together() -> None:
    power, value = np.tile([100.0, 200.0], (4, 1)), np.tile([0.5, 1.0], (4, 1))
    assert list(allocate(power, value, np.zeros((4, 1), int), [650.0], group=[0, 0, 0, 1]).level) == [0, 0, 0, 1]
    assert list(allocate(power, value, np.zeros((4, 1), int), [650.0]).level) == [1, 1, 0, 0]


def test_budgets_below_the_least_levels_park_the_least_worth_and_say_what_is_missing() -> None:
    power = np.array([[100.0, 200.0]] * 4)
    value = np.array([[0.5, 1.0], [2.0, 4.0], [1.0, 2.0], [0.5, 1.0]])
    found = allocate(power, value, [[0, 2], [0, 2], [1, 2], [1, 2]], [150.0, 500.0, 2000.0])
    assert found.status == "infeasible"
    assert list(found.level) == [-1, 0, 1, 1]
    assert list(found.planned_w) == [100.0, 400.0, 500.0]
    assert found.missing_w == pytest.approx([50.0, 0.0, 0.0])
    assert found.value == 5.0 <= found.bound


def test_a_budget_below_zero_parks_all_under_it() -> None:
    found = allocate([[100.0], [100.0]], [[1.0], [1.0]], [[0], [1]], [-50.0, 100.0])
    assert list(found.level) == [-1, 0]
    assert found.status == "infeasible"
    assert found.missing_w == pytest.approx([150.0, 0.0])


def test_budgets_that_hold_everything_are_proven_optimal_and_an_exact_fit_is_used() -> None:
    power, value = [[100.1, 200.2], [100.1, 300.3]], [[1.0, 2.0], [1.0, 3.0]]
    for budget in ([200.2 + 300.3], [np.inf]):
        found = allocate(power, value, [[0], [0]], budget)
        assert list(found.level) == [1, 1]
        assert found.status == "optimal"
    for none in (np.empty((2, 0), int), [[-1], [-1]]):
        for group in (None, [0, 0]):
            assert list(allocate(power, value, none, [], group=group).level) == [1, 1]


def test_equal_input_gives_equal_bytes() -> None:
    fleet = random_fleet(np.random.default_rng(5), 40)
    assert allocate(*fleet).level.tobytes() == allocate(*fleet).level.tobytes()


ONE: dict[str, Any] = {"power_w": [[100.0, 200.0]], "value": [[1.0, 2.0]], "domain": [[0]], "budget_w": [150.0]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"power_w": np.empty((0, 2))}, r"power_w must be of 1 or more GPUs with 1 or more levels, got shape \(0, 2\)"),
        ({"power_w": [100.0]}, r"power_w must be an array with the axes \[G, K\]"),
        ({"power_w": [[NAN, NAN]], "value": [[NAN, NAN]]}, r"power_w\[0\] must be given at 1 or more levels, got NaN only"),
        (
            {"value": [[1.0, NAN]]},
            r"power_w and value \[0, 1\] must be both numbers or both NaN \(no such level\), got 200 and nan",
        ),
        ({"value": [[1.0]]}, r"value must be of shape \(1, 2\), as power_w"),
        ({"power_w": [[-1.0, 200.0]]}, r"power_w\[0, 0\] must be a finite number of 0 W or more, got -1.0"),
        ({"value": [[1.0, np.inf]]}, r"value\[0, 1\] must be a finite number, got inf"),
        ({"domain": [[1]]}, r"domain\[0, 0\] must be -1 \(none\) or a budget from 0 to 0, got 1"),
        ({"domain": [[0], [0]]}, "domain must be one row for each of 1 GPUs, got 2 rows"),
        ({"domain": [[0, 0]]}, r"domain\[0\] must be different budgets, got budget 0 twice"),
        ({"budget_w": [NAN]}, r"budget_w\[0\] must be a number of watts, got NaN"),
        ({"group": [0, 1]}, r"group must be one number for each of 1 GPUs, got shape \(2,\)"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value_and_rule(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        allocate(**(ONE | changed))


def test_budgets_that_overlap_and_groups_without_a_common_level_are_refused() -> None:
    power, value = np.tile([100.0, 200.0], (3, 1)), np.tile([1.0, 2.0], (3, 1))
    with pytest.raises(
        ProblemError, match=r"domain must be of nested budgets, got budgets .* which share GPUs and neither holds"
    ):
        allocate(power, value, [[0, -1], [0, 1], [1, -1]], [300.0, 300.0])
    with pytest.raises(ProblemError, match="power_w of group 7 must be given at a level that all its GPUs have, got none"):
        allocate([[1.0, NAN], [NAN, 1.0]], [[1.0, NAN], [NAN, 1.0]], [[0], [0]], [9.0], group=[7, 7])
