"""Conformal bounds: as often kept as asked, on scores in any order and on scores that drift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qstream.learn import LearnError, conformal
from qstream.learn.describe import describe


def run(scores: np.ndarray, **options: float) -> tuple[conformal.ConformalState, np.ndarray]:
    """The last state, and the bounds [T, S] that were given before each of the scores [T, S]."""
    state, bounds = conformal.start(scores.shape[1], **options), []  # type: ignore[arg-type]
    for score in scores:
        bounds.append(conformal.bound(state))
        state = conformal.learn(state, score, bounds[-1])
    return state, np.array(bounds)


@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_exchangeable_scores_are_below_their_bound_as_often_as_asked(coverage: float) -> None:
    scores = np.random.default_rng(0).gamma(2.0, size=(2500, 8))
    state, bounds = run(scores, coverage=coverage)
    held = (scores <= bounds)[200:].mean()
    assert coverage - 0.01 < held < coverage + 0.03
    assert state.missed.tolist() == (scores > bounds).sum(0).tolist()


def test_scores_that_grow_are_still_below_their_bound_as_often_as_asked() -> None:
    scores = np.random.default_rng(1).gamma(2.0, size=(2000, 8)) * np.linspace(1, 10, 2000)[:, None]
    assert (scores <= run(scores)[1])[200:].mean() > 0.93


def test_the_bound_is_the_score_of_its_rank_and_beyond_the_largest_a_quarter_of_the_distance_to_the_median() -> None:
    state = conformal.start(coverage=0.8, window=9, rate=0.0)
    for score in (5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 8.0, 7.0, 6.0):
        state = conformal.learn(state, [score], [100.0])
    assert conformal.bound(state).tolist() == [8.0]  # rank ceil(10 x .8)
    assert conformal.bound(conformal.learn(state, [0.5], [100.0])).tolist() == [8.0]  # .5 came, 5 went
    state = conformal.start(coverage=0.95, rate=0.0)
    for score in (1.0, 2.0, 5.0):
        state = conformal.learn(state, [score], [100.0])
    assert conformal.bound(state).tolist() == [5.75]  # rank 4 of 3: one step of a quarter of 5 - 2


def test_a_miss_lowers_the_level_and_so_raises_the_bound() -> None:
    state = conformal.learn(conformal.start(rate=0.005), [1.0], [0.0])
    assert state.level[0] == pytest.approx(0.05 + 0.005 * (0.045 - 1))
    state = conformal.learn(conformal.start(rate=0.005), [1.0], [1.0])
    assert state.level[0] == pytest.approx(0.05 + 0.005 * 0.045)


def test_before_any_score_the_caller_says_the_bound() -> None:
    assert conformal.bound(conformal.start(2), first=0.3).tolist() == [0.3, 0.3]


def test_series_side_by_side_are_the_same_as_each_alone() -> None:
    scores = np.random.default_rng(2).normal(size=(150, 3))
    assert run(scores)[1].tolist() == np.concatenate([run(scores[:, [s]])[1] for s in range(3)], axis=1).tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: conformal.start(0), "series must be a whole number from 1 to"),
        (lambda s: conformal.start(coverage=1.0), "coverage must be a number from"),
        (lambda s: conformal.start(window=0), "window must be a whole number from 1 to"),
        (lambda s: conformal.start(rate=-0.1), "rate must be a number from 0 to 1"),
        (lambda s: conformal.bound(s, np.nan), "first must be a number from"),
        (lambda s: conformal.learn(s, [np.inf], [0.0]), "score must be finite numbers"),
        (lambda s: conformal.learn(s, [0.0], [np.nan]), "used must be finite numbers"),
        (lambda s: conformal.learn(s, [0.0, 1.0], [0.0]), r"score must be of shape \(1,\), got shape \(2,\)"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[conformal.ConformalState], Any], message: str) -> None:
    with pytest.raises(LearnError, match=message):
        call(conformal.start())


def test_no_coverage_is_reported_before_a_score_was_seen():
    state = conformal.start(2)
    assert "coverage" not in describe(state)
    state = conformal.learn(state, [0.1, 0.3], conformal.bound(state, first=0.2))
    assert describe(state)["coverage"] == 0.5
