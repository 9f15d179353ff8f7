"""Value curves: concave, true to the relaxation, and a parent that divides by them gives what flat allocation gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.energy import allocate, allot, value_curve
from qstream.errors import ProblemError
from tests.unit.energy.trees import random_fleet, relaxation


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_a_curve_is_concave_and_tells_the_relaxation_of_every_budget(seed: int, gpus: int) -> None:
    rng = np.random.default_rng(seed)
    power, value, above, budget = random_fleet(rng, gpus)
    watts, worth = value_curve(power, value, above, budget, points=1000)
    assert (np.diff(watts) > 0).all()
    assert (np.diff(worth) > 0).all()
    assert (np.diff(np.diff(worth) / np.diff(watts)) <= 1e-6).all()
    asked = rng.uniform(watts[0], watts[-1] + 100)
    whole = np.column_stack((above, np.full(gpus, len(budget))))
    assert np.interp(asked, watts, worth) == pytest.approx(relaxation((power, value, whole, np.append(budget, asked))), rel=1e-6)


def test_a_parent_over_curves_of_64_points_loses_less_than_a_ten_thousandth_against_flat_allocation() -> None:
    rng = np.random.default_rng(3)
    share = np.linspace(0.4, 1.0, 7)
    power = rng.uniform(150, 400, (512, 1)) * share
    value = rng.choice([1.0, 2.0, 4.0], (512, 1)) * share ** rng.uniform(0.1, 0.9, (512, 1))
    row = np.arange(512) // 128
    budget = 0.75 * power[:, -1].sum()
    flat = allocate(power, value, np.zeros((512, 1), int), [budget])
    curves = [value_curve(power[row == r], value[row == r], np.empty((128, 0), int), []) for r in range(4)]
    assert all(len(watts) <= 64 for watts, _ in curves)
    length = max(len(watts) for watts, _ in curves)
    padded = [[np.pad(axis, (0, length - len(axis)), constant_values=np.nan) for axis in curve] for curve in curves]
    share_w = allot([watts for watts, _ in padded], [worth for _, worth in padded], np.zeros((4, 1), int), [budget])
    assert share_w.sum() == pytest.approx(budget)
    parts = [allocate(power[row == r], value[row == r], np.zeros((128, 1), int), [share_w[r]]) for r in range(4)]
    assert sum(part.bound for part in parts) >= 0.9999 * flat.bound


def test_children_get_their_first_points_and_never_more_than_their_last() -> None:
    watts, value = [[100.0, 200.0], [100.0, 300.0]], [[1.0, 2.0], [1.0, 2.0]]
    assert list(allot(watts, value, [[0], [0]], [1000.0])) == [200.0, 300.0]
    assert allot(watts, value, [[0], [0]], [250.0]) == pytest.approx([150.0, 100.0])


def test_too_small_a_budget_is_named() -> None:
    with pytest.raises(
        ProblemError, match=r"budget_w\[0\] must be at least 200, the sum of the first points under it, got 150.0"
    ):
        allot([[100.0], [100.0]], [[1.0], [1.0]], [[0], [0]], [150.0])
    with pytest.raises(ProblemError, match=r"budget_w\[0\] must be at least 100, the sum of the least levels under it, got 50.0"):
        value_curve([[100.0, 200.0]], [[1.0, 2.0]], [[0]], [50.0])
    with pytest.raises(ProblemError, match="points must be a whole number from 2 to 1000000, got 1"):
        value_curve([[100.0, 200.0]], [[1.0, 2.0]], [[0]], [150.0], points=1)
