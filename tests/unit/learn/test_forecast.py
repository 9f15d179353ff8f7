"""Forecasts of the mean of the next samples: each forecaster by hand, late targets, and what a mixture is worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qstream.learn import LearnError, forecast


def run(series: np.ndarray, **options: Any) -> tuple[forecast.ForecastState, list[forecast.Forecast]]:
    """The last state and the forecast after each value of one series."""
    state, found = forecast.start(**options), []
    for value in series:
        state, answer = forecast.step(state, [value])
        found.append(answer)
    return state, found


def column(found: list[forecast.Forecast], state: forecast.ForecastState, name: str) -> np.ndarray:
    """What one forecaster said after each value."""
    return np.array([answer.each[0, forecast.names(state).index(name)] for answer in found])


def test_the_forecasters_have_names_in_the_order_of_their_forecasts() -> None:
    state = forecast.start(rates=[1, 0.3], analogs=[10], season=24, extra=["lstm"])
    assert forecast.names(state) == ("ewma 1", "ewma 0.3", "rls", "mean 30", "analog 10", "season", "lstm")
    assert forecast.names(forecast.start(rates=[1], analogs=(), extra=2))[-2:] == ("extra 0", "extra 1")


def test_smoothing_and_mean_are_what_a_hand_computes() -> None:
    values = np.array([4.0, 8.0, 0.0, 2.0])
    state, found = run(values, rates=[1, 0.5], analogs=())
    assert column(found, state, "ewma 1").tolist() == [4, 8, 0, 2]
    assert column(found, state, "ewma 0.5").tolist() == [4, 6, 3, 2.5]
    assert column(found, state, "mean 30") == pytest.approx([4, 6, 4, 3.5])


def test_a_season_repeats_what_came_one_period_before() -> None:
    values = np.arange(40.0) % 7
    state, found = run(values, horizon=3, season=7, analogs=())
    said, ahead = column(found, state, "season"), [values[t + 1 : t + 4].mean() for t in range(36)]
    assert said[6:36] == pytest.approx(ahead[6:])
    longer, found = run(values, horizon=10, season=7, analogs=())  # two periods back
    assert column(found, longer, "season")[13:29] == pytest.approx([values[t + 1 : t + 11].mean() for t in range(13, 29)])


def test_the_regression_finds_the_weights_of_a_linear_series() -> None:
    values, rng = [1.0, 0.5], np.random.default_rng(0)
    for _ in range(600):
        values.append(0.6 * values[-1] - 0.3 * values[-2] + 0.1 * rng.normal())
    state, _ = run(np.array(values), lags=2, analogs=(), forgetting=1.0)
    assert state.rls_weight[0] == pytest.approx([0.6, -0.3], abs=0.08)


def test_analogs_recognise_what_came_before() -> None:
    pattern = np.random.default_rng(1).normal(size=50)
    state, found = run(np.tile(pattern, 12), horizon=4, analogs=[10])
    ahead = [np.tile(pattern, 13)[t + 1 : t + 5].mean() for t in range(600)]
    assert column(found, state, "analog 10")[500:] == pytest.approx(ahead[500:], abs=1e-6)
    assert found[-1].weight[0, forecast.names(state).index("analog 10")] > 0.9


def test_a_forecast_is_judged_when_its_target_has_come_by_the_weights_in_force_then() -> None:
    state, found = run(np.arange(8.0), horizon=3, rates=[1], analogs=())
    assert state.hedge.steps == 5
    # Always t - 1 against the mean of t, t + 1, t + 2 forecast by the last value: 2 too low. The mixture was that arm at first.
    assert found[2].weight.tolist() == [[0.5, 0.0, 0.5]]
    lost = [abs(float(answer.each[0, 0]) - (t + 2)) for t, answer in enumerate(found[:5])]
    assert lost == [2.0] * 5


def test_what_has_seen_too_little_sleeps_and_so_do_forecasts_that_do_not_come() -> None:
    state, answer = forecast.step(forecast.start(extra=1), [5.0])
    asleep = [name for name, weight in zip(forecast.names(state), answer.weight[0], strict=True) if weight == 0]
    assert asleep == ["rls", "analog 10", "analog 30", "extra 0"]
    assert answer.each.tolist() == [[5.0] * 10]
    _, answer = forecast.step(state, [5.0], extra=[[7.0]])
    assert answer.weight[0, -1] > 0
    awake = np.zeros((1, 10), bool)
    awake[0, 4] = True
    _, answer = forecast.step(state, [6.0], awake=awake)
    assert answer.mean.tolist() == [answer.each[0, 4]]


def test_an_outside_forecast_that_is_right_is_believed_and_one_that_is_wrong_costs_little() -> None:
    rng = np.random.default_rng(2)
    values = np.cumsum(rng.normal(size=400))
    errors: dict[str, list[float]] = {"right": [], "wrong": [], "without": []}
    for name, extra in (("right", values[1:]), ("wrong", -values[1:] - 50), ("without", None)):
        state = forecast.start(analogs=(), extra=0 if extra is None else 1)
        for t in range(399):
            state, answer = forecast.step(state, [values[t]], None if extra is None else [[extra[t]]])
            errors[name].append(abs(float(answer.mean[0]) - values[t + 1]))
    late = {name: float(np.mean(found[100:])) for name, found in errors.items()}
    assert late["right"] < 0.05 * late["without"]
    assert late["wrong"] < 1.02 * late["without"]


def test_a_weighted_median_halves_the_weight() -> None:
    mean = np.empty(4)
    each = np.array([[3.0, 1.0, 2.0]] * 4)
    weight = np.array([[0.2, 0.2, 0.6], [0.6, 0.2, 0.2], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    forecast.weighted_median(each, weight, mean)
    assert mean.tolist() == [2.0, 3.0, 2.0, 1.0]


def test_series_side_by_side_are_the_same_as_each_alone() -> None:
    values = np.random.default_rng(3).normal(size=(120, 3)) * [1, 100, 1e-3]
    together, alone = forecast.start(3, horizon=2), [forecast.start(horizon=2) for _ in range(3)]
    for row in values:
        together, answer = forecast.step(together, row)
        for s, value in enumerate(row):
            alone[s], own = forecast.step(alone[s], [value])
            assert own.mean[0] == answer.mean[s]


@pytest.mark.parametrize("value", [0.0, 5.0, 1e-310, 1e300])
def test_a_constant_series_is_forecast_as_itself_for_ever(value: float) -> None:
    state, found = run(np.full(300, value), analogs=(), lags=3, forgetting=0.8)
    assert found[-1].mean[0] == pytest.approx(min(value, 1e30), rel=1e-6)
    assert np.isfinite(state.rls_covariance).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: forecast.start(horizon=0), "horizon must be a whole number from 1 to"),
        (lambda s: forecast.start(rates=[0.0]), "rates must be a number from"),
        (lambda s: forecast.start(lags=0), "lags must be a whole number from 1 to"),
        (lambda s: forecast.start(analogs=[0]), "analogs must be a whole number from 1 to"),
        (lambda s: forecast.start(extra=-1), "extra must be a whole number from 0 to"),
        (lambda s: forecast.start(extra=["rls"]), "arms must be 1 to 10000 different names"),
        (lambda s: forecast.start(forgetting=0.0), "forgetting must be a number from"),
        (lambda s: forecast.step(s, [np.nan]), "value must be finite numbers"),
        (lambda s: forecast.step(s, 1.0), r"value must be of shape \(1,\), got shape \(\)"),
        (lambda s: forecast.step(s, [1.0], [[1.0]]), r"extra must be of shape \(1, 0\)"),
        (lambda s: forecast.step(s, [1.0], awake=np.zeros((1, 9), bool)), "awake must be true for an arm of each series"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[forecast.ForecastState], Any], message: str) -> None:
    with pytest.raises(LearnError, match=message):
        call(forecast.start())
