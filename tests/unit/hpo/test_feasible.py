"""Feasible: probabilities and their slopes are right, limits and failures are learnt, and failed trials teach no loss."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from qstream.hpo import feasible
from qstream.hpo.normal import log_below
from qstream.hpo.options import HpoOptions
from qstream.hpo.plan import suggest
from qstream.hpo.problem import Limit, Observation, Problem, gather
from qstream.hpo.space import SearchSpace

SPACE = SearchSpace.load([{"name": name, "type": "float", "low": 0.0, "high": 1.0} for name in "xy"])
LIMIT = Limit("latency_s", "<=", 2.0)
GP = HpoOptions(optimizer="gp", candidates=64, starts=2)


def tried(count: int, seed: int = 0) -> list[Observation]:
    """Trials that fail beyond x = .7, and whose latency is over the limit beyond y = .5."""
    found = []
    for trial, (x, y) in enumerate(np.random.default_rng(seed).random((count, 2)).tolist()):
        params, metrics = {"x": x, "y": y}, {"latency_s": 4 * y + 1e-3}
        state, value = ("failed", None) if x > 0.7 else ("complete", (x - 0.9) ** 2 + (y - 0.9) ** 2)
        found.append(Observation(trial, params, value, state, metrics))
    return found


def known(count: int = 40, limits: tuple[Limit, ...] = (LIMIT,)) -> tuple[Problem, list[feasible.Kept]]:
    problem = gather(SPACE, tried(count), limits=limits)
    return problem, feasible.terms(problem, feasible.fit(problem))


def test_the_log_probability_and_its_derivatives_are_those_of_the_normal_distribution() -> None:
    mean, variance = np.array([-30.0, -1.0, 0.3, 2.0, 35.0]), np.array([1.0, 0.5, 2.0, 1.0, 1.0])
    value, by_mean, by_variance = log_below(mean, variance, 0.4)
    assert value == pytest.approx(norm.logcdf((0.4 - mean) / np.sqrt(variance)), rel=1e-12)
    step = 1e-6
    for slope, (up, down) in (
        (by_mean, [log_below(mean + s, variance, 0.4)[0] for s in (step, -step)]),
        (by_variance, [log_below(mean, variance + s, 0.4)[0] for s in (step, -step)]),
    ):
        assert slope == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-8)


def test_the_slope_of_a_term_equals_finite_differences() -> None:
    _, terms = known()
    x: NDArray[np.float64] = np.random.default_rng(1).random((5, 2))
    for term in terms:
        value, slope = term.slope(x)
        assert value == pytest.approx(term.value(x), rel=1e-9)
        for axis in range(2):
            step = 1e-6 * np.eye(2)[axis]
            assert slope[:, axis] == pytest.approx((term.value(x + step) - term.value(x - step)) / 2e-6, rel=1e-4, abs=1e-6)


def test_each_term_knows_where_its_border_is() -> None:
    _, (latency, failure) = known()
    inside, outside = np.array([[0.3, 0.2]]), np.array([[0.95, 0.9]])
    for term in (latency, failure):
        assert np.exp(term.value(inside)[0]) > 0.9
        assert np.exp(term.value(outside)[0]) < 0.1


def test_where_nothing_is_known_there_is_no_term() -> None:
    problem = gather(SPACE, [])
    assert feasible.terms(problem, feasible.fit(problem)) == []
    well = [Observation(0, {"x": 0.1, "y": 0.1}, 1.0)]
    problem = gather(SPACE, well, limits=[LIMIT])
    assert feasible.terms(problem, feasible.fit(problem)) == []
    assert not feasible.kept(problem).any()  # its latency was not reported


def test_a_limit_of_negative_ratios_is_learnt_as_it_is() -> None:
    problem = gather(
        SPACE,
        [Observation(i, {"x": i / 9, "y": 0.5}, 0.0, metrics={"gap": 4.0 * i - 16}) for i in range(10)],
        limits=[Limit("gap", "<=", 2.0)],
    )
    (term,) = feasible.terms(problem, feasible.fit(problem))
    assert np.exp(term.value(np.array([[0.0, 0.5], [1.0, 0.5]]))) == pytest.approx([1, 0], abs=0.05)


def test_a_study_of_ten_thousand_trials_is_answered_from_a_part_of_them() -> None:
    seen = tried(9_000)
    tracemalloc.start()
    try:
        found = suggest(SPACE, seen, trial=9_000, options=GP, limits=[LIMIT])
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.source == "gp"
    assert found.params["x"] < 0.75
    assert found.params["y"] < 0.55
    assert most_bytes < 100e6  # a covariance of all trials would take 650 MB


def test_suggestions_stay_where_limits_are_kept_and_trials_end_well() -> None:
    seen = tried(40)
    found = suggest(SPACE, seen, trial=40, options=GP, limits=[LIMIT])
    assert found.source == "gp"
    assert found.params["x"] < 0.75
    assert found.params["y"] < 0.55
    assert found.p_feasible is not None
    assert 0 < found.p_feasible <= 1
    blind = suggest(SPACE, seen, trial=40, options=GP.changed({"feasibility": False}), limits=[LIMIT])
    assert blind.p_feasible is None
    assert blind.params["y"] > 0.55


def test_without_a_feasible_trial_the_probabilities_alone_decide() -> None:
    seen = [each for each in tried(60) if each.params["y"] > 0.55]
    found = suggest(SPACE, seen, trial=60, options=GP, limits=[LIMIT])
    assert found.params["y"] < 0.5


def test_failed_trials_do_not_change_what_losses_are_expected() -> None:
    seen = [each for each in tried(40) if each.state == "complete"]
    failed = [each for each in tried(40) if each.state == "failed"]
    assert failed
    problems = [gather(SPACE, each) for each in (seen, seen + failed)]
    assert problems[0].value.tolist() == problems[1].value.tolist()
    expected = [suggest(SPACE, each, trial=40, options=GP.changed({"feasibility": False})) for each in (seen, seen + failed)]
    assert expected[0].params == expected[1].params
