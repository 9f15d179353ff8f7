"""Forecasts of watts know nothing of the future and hold their bound; active counts rise at once and fall slowly."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.energy import forecast_series, plan_active
from qstream.errors import ProblemError


def training_node(seconds: int, seed: int = 0) -> np.ndarray:
    """Watts of a node that writes a checkpoint every minute."""
    rng = np.random.default_rng(seed)
    at = np.arange(seconds)
    return np.where(at % 60 < 48, 4300.0, 1200.0) + rng.normal(0, 40, seconds)


def test_a_forecast_of_the_first_half_is_the_first_half_of_the_forecast() -> None:
    watts = training_node(240)
    for whole, half in zip(forecast_series(watts, 5), forecast_series(watts[:120], 5), strict=True):
        assert whole[:120].tobytes() == half.tobytes()


def test_checkpoints_are_foreseen_and_the_bound_holds_as_often_as_asked() -> None:
    watts, h = training_node(700), 10
    mean, bound = forecast_series(watts, h)
    at = np.arange(120, len(watts) - h)
    ahead = np.lib.stride_tricks.sliding_window_view(watts[1:], h)[at]
    assert np.abs(mean[at] - ahead.mean(1)).mean() < 0.6 * np.abs(watts[at] - ahead.mean(1)).mean()
    assert (bound[at] >= ahead.max(1)).mean() > 0.93
    assert (bound[at] / ahead.max(1)).mean() < 1.15


def test_short_and_constant_series_have_forecasts() -> None:
    for watts in (np.zeros(50), np.full(3, 500.0), np.array([700.0])):
        mean, bound = forecast_series(watts, 30)
        assert np.allclose(mean, watts, atol=1e-3)
        assert (bound >= watts - 1e-9).all()
    assert all(len(each) == 0 for each in forecast_series([], 5))


def test_watts_that_fall_to_nothing_are_not_expected_below_0() -> None:
    mean, _ = forecast_series(np.arange(199.0, 0.0, -2.0), 5)
    assert mean.min() == 0.0


def test_replicas_come_at_once_and_leave_one_by_one() -> None:
    asked = np.concatenate((np.full(40, 1000.0), np.full(10, 9000.0), np.full(40, 1000.0)))
    active = plan_active(asked, 1000.0, 20)
    assert active[0] == 20
    assert active.min() >= 1
    assert active.max() <= 20
    assert (np.diff(active) >= -1).all()
    assert np.diff(active).max() > 1
    fell = np.flatnonzero(np.diff(active) < 0)
    assert (np.diff(fell) >= 3).all()
    half = plan_active(asked[:45], 1000.0, 20)
    assert (active[:45] == half).all()


def test_demand_beyond_all_replicas_keeps_all_and_none_keeps_one() -> None:
    assert (plan_active(np.full(20, 1e9), 10.0, 4) == 4).all()
    assert plan_active(np.zeros(60), 10.0, 4)[-1] == 1


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ProblemError, match=r"watts\[1\] must be finite and 0 W or more, got nan"):
        forecast_series([1.0, np.nan], 5)
    with pytest.raises(ProblemError, match="horizon_s must be a whole number from 1 to 600, got 0"):
        forecast_series([1.0], 0)
    with pytest.raises(ProblemError, match=r"coverage must be above 0 and below 1, got 1\.0"):
        forecast_series([1.0], 5, coverage=1.0)
    with pytest.raises(ProblemError, match=r"asked\[0\] must be finite and 0 or more, got -1"):
        plan_active([-1.0], 10.0, 4)
    with pytest.raises(ProblemError, match="capacity must be finite and above 0, got 0"):
        plan_active([1.0], 0.0, 4)
    with pytest.raises(ProblemError, match="most must be a whole number from 1 to 1000000, got 0"):
        plan_active([1.0], 10.0, 0)
