"""Whatever numbers, names and spaces a user brings, a search goes on with finite suggestions of the space, or refuses by name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.hpo import Exhausted, HpoOptions, Limit, Observation, SearchSpace, Study, suggest
from qstream.hpo.problem import ratio, unwarp, warp

SPACE = SearchSpace(
    [
        {"name": "lr", "type": "float", "low": 1e-5, "high": 0.1, "scale": "log"},
        {"name": "optimiseur é 学习", "type": "categorical", "choices": ["adam", "sgd 😀", True, 1]},
        {"name": "momentum", "type": "float", "low": 0, "high": 1, "when": {"parameter": "optimiseur é 学习", "values": [True]}},
    ]
)
QUICK = HpoOptions(candidates=16, starts=1, initial=5, explore=5)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
HUGE = st.sampled_from([1e300, -1e300, 1.7e308, -1.7e308, 1e-300, 5e-324, -0.0, 0.0, 1.0])


def told(values: list[float], options: HpoOptions, **of_study: Any) -> Study:
    """A study whose trials end with these values, as the objective and as the metric `ms`."""
    study = Study(SPACE, options=options, **of_study)
    for value in values:
        trial = study.ask(now_s=0)
        study.tell(trial.number, {"loss": value, "ms": value}, now_s=1)
    return study


@pytest.mark.parametrize("optimizer", ["gp", "vqc"])
@pytest.mark.parametrize("values", [[1e300, 0.0, -1e300], [1.7e308, -1.7e308], [1e-300, 3e-300, -0.0], [5e-324, 0.0]])
def test_losses_of_any_size_are_learnt_from_and_predictions_stay_finite(optimizer: str, values: list[float]):
    study = told((values * 4)[:7], QUICK.changed({"optimizer": optimizer}))
    trial = study.ask(now_s=2)
    assert trial.source == optimizer
    assert math.isfinite(trial.predicted.mean)
    assert math.isfinite(trial.predicted.std)
    assert SPACE.decode(SPACE.encode(trial.params)) == trial.params
    assert study.best.value == min(values)


@settings(max_examples=80, deadline=None)
@given(st.lists(FINITE | HUGE, min_size=1, max_size=8))
def test_warped_losses_are_finite_in_order_and_the_same_in_any_unit(values: list[float]):
    losses = np.array(values)
    z = warp(losses)
    assert np.isfinite(z).all()
    order = np.argsort(losses, kind="stable")
    assert (np.diff(z[order]) >= 0).all()
    assert np.isfinite(unwarp(losses, np.array([-1e3, -1.0, 0.0, 1.0, 1e3]))).all()
    if 1e-290 < np.abs(losses).max() < 1e300 and (np.abs(losses[losses != 0]) > 1e-290).all():
        np.testing.assert_array_equal(warp(losses * 2.0**20), z)


@settings(max_examples=120, deadline=None)
@given(FINITE | HUGE, FINITE | HUGE, st.sampled_from(["<=", ">="]))
@example(0.0, 5e-324, ">=")
def test_a_ratio_is_finite_and_above_one_just_where_the_limit_is_broken(value: float, bound: float, op: Any):
    found = ratio(Limit("ms", op, bound), value)
    assert math.isfinite(found * found)
    assert (found <= 1) == (value <= bound if op == "<=" else value >= bound)


def test_limits_and_metrics_of_any_size_leave_a_suggestion():
    for limit in (1e-300, -1.7e308, 0.0):
        study = told([1.7e308, -1.7e308, 0.0, 1e-300, 1e300, 1.0, 2.0], QUICK, limits={"ms": limit})
        assert study.ask(now_s=2).source == "gp"


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.sampled_from([-1e300, -1.0, -5e-324, 0, 5e-324, 1e-300, 1e-9, 1, 1 + 2**-27, 2**53, 1e300, 1.7e308]),
        min_size=3,
        max_size=3,
    ),
    st.sampled_from(["float", "int"]),
    st.sampled_from(["linear", "log"]),
    st.booleans(),
)
def test_bounds_and_steps_of_any_size_are_a_space_or_refused(numbers: list[float], kind: str, scale: str, stepped: bool):
    low, high, step = numbers
    fields = {"name": "x", "type": kind, "low": low, "high": high, "scale": scale} | ({"step": step} if stepped else {})
    try:
        space = SearchSpace([fields])
    except ProblemError:
        return
    for u in (0.0, 0.3, 0.5, 1.0):
        params = space.decode(np.array([u]))
        assert low <= params["x"] <= high
        assert space.decode(space.encode(params)) == params


def test_a_switch_a_number_and_a_text_are_different_choices_and_come_back_as_what_they_are():
    space = SearchSpace([{"name": "c", "type": "categorical", "choices": [True, 1, "1", False, 0, ""]}])
    decoded = [space.decode(space.encode({"c": choice}))["c"] for choice in (True, 1, "1", False, 0, "")]
    assert [(type(value), value) for value in decoded] == [(bool, True), (int, 1), (str, "1"), (bool, False), (int, 0), (str, "")]
    assert space.decode(space.encode({"c": 1.0}))["c"] == 1
    assert len(set(space.keys(np.stack([space.encode({"c": choice}) for choice in (True, 1, "1")])))) == 3
    with pytest.raises(ProblemError, match=r"choices of parameter 'c' must be distinct, got 1\.0 twice"):
        SearchSpace([{"name": "c", "type": "categorical", "choices": [1, 1.0]}])


@pytest.mark.parametrize("value", [[0.1], {"a": 1}, object(), np.array([0.1, 0.2]), math.nan, math.inf, 10**400, True, "0.1"])
def test_a_value_that_is_no_number_of_the_parameter_is_refused_by_name(value: Any):
    with pytest.raises(ProblemError, match="parameter 'x' must be a number from 0 to 1"):
        SearchSpace([{"name": "x", "type": "float", "low": 0, "high": 1}]).encode({"x": value})


@pytest.mark.parametrize("value", [math.nan, -math.inf, True, None, "1", 10**400, [1.0]])
def test_what_is_no_finite_number_is_refused_wherever_it_comes_in(value: Any):
    params = {"lr": 0.01, "optimiseur é 学习": "adam"}
    for call in (
        lambda: suggest(SPACE, [Observation(0, params, value)], trial=1),
        lambda: suggest(SPACE, [], prior=[(params, value)]),
        lambda: suggest(SPACE, [], limits={"ms": value}),
        lambda: Study(SPACE, limits={"ms": value}),
        lambda: Study(SPACE, prior=[(params, value)]),
        lambda: Study(SPACE).add(params, {"loss": 1.0, "ms": value}),
    ):
        with pytest.raises(ProblemError, match=r"must be a finite number, got"):
            call()


def test_64_parameters_and_2000_rows_of_an_older_study_are_searched_and_one_more_of_each_is_not():
    wide = [{"name": f"p{at}", "type": "float", "low": 0, "high": 1} for at in range(65)]
    space = SearchSpace(wide[:64])
    rows = [(space.decode(np.full(64, at / 4000)), float(at)) for at in range(2_001)]
    study = Study(space, prior=rows, options=QUICK)
    assert set(study.ask(now_s=0).params) == set(space.names)
    with pytest.raises(ProblemError, match="length of parameters must be 1 to 64, got 65"):
        SearchSpace(wide)


def test_trials_that_all_fail_or_all_reach_the_same_leave_sobol_and_no_false_best():
    for options in (QUICK, QUICK.changed({"optimizer": "gp"}), QUICK.changed({"optimizer": "vqc"})):
        study = Study(SPACE, options=options)
        for _ in range(8):
            study.tell(study.ask(now_s=0).number, state="failed", reason="NAN", now_s=1)
        assert study.ask(now_s=2).source == "sobol"
        assert study.best is None
        assert study.recommend() == []
    assert told([7.0] * 8, QUICK).ask(now_s=2).source == "sobol"


def test_a_used_up_space_is_done_in_a_study_and_exhausted_as_a_function():
    space = SearchSpace([{"name": "n", "type": "ordinal", "choices": [1, 2]}])
    study = Study(space)
    for _ in range(2):
        study.tell(study.ask(now_s=0).number, state="failed", now_s=1)
    assert (study.ask(now_s=2).status, study.ask(now_s=2).reason) == ("done", "space_exhausted")
    with pytest.raises(Exhausted):
        suggest(space, [Observation(0, {"n": 1}, 1.0)], pending={1: {"n": 2}}, trial=2)
