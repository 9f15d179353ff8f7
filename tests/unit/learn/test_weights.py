"""Shares of paths: towards what is less congested, to the best split, and back when a path breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qstream.learn import LearnError, weights


def test_the_shares_begin_as_given_whatever_their_sum() -> None:
    assert weights.shares(weights.start([1.0, 3.0])) == pytest.approx(np.array([[0.25, 0.75]]))
    assert weights.shares(weights.start([[1.0, 1.0], [1.0, 4.0]])) == pytest.approx(np.array([[0.5, 0.5], [0.2, 0.8]]))


def test_one_step_is_what_a_hand_computes() -> None:
    state = weights.learn(weights.start([1.0, 1.0]), [[3.0, 1.0]], rate=0.4)
    assert state.theta == pytest.approx(np.array([[-0.2, 0.2]]))
    assert weights.shares(state)[0, 1] == pytest.approx(np.exp(0.4) / (1 + np.exp(0.4)))
    assert weights.learn(state, [[3.0, 1.0]], clip=0.1).theta == pytest.approx(np.array([[-0.1, 0.1]]))


def test_shares_find_the_split_by_which_all_paths_are_equally_used_and_find_it_again_when_one_breaks() -> None:
    capacity = np.array([1.0, 2.0, 4.0, 1.0, 2.0, 4.0, 1.0, 1.0])
    state = weights.start(np.ones(8))

    def worst() -> float:
        return float((weights.shares(state)[0] / capacity).max() * capacity.sum())

    for _ in range(8):
        state = weights.learn(state, [weights.shares(state)[0] / capacity])
    assert worst() < 1.05
    capacity[2] *= 0.2
    for _ in range(8):
        state = weights.learn(state, [weights.shares(state)[0] / capacity])
    assert worst() < 1.05


def test_congestion_has_no_unit_and_none_at_all_changes_nothing() -> None:
    state = weights.start([1.0, 2.0, 3.0])
    one, other = (weights.learn(state, [[scale * c for c in (0.0, 1.0, 5.0)]]) for scale in (1.0, 1024.0))
    assert one == other
    assert weights.learn(state, [[0.0, 0.0, 0.0]]).theta.tolist() == state.theta.tolist()


def test_series_side_by_side_are_the_same_as_each_alone() -> None:
    seen = np.random.default_rng(0).random((20, 3, 4))
    together, alone = weights.start(np.ones((3, 4))), [weights.start(np.ones(4)) for _ in range(3)]
    for row in seen:
        together = weights.learn(together, row)
        alone = [weights.learn(one, row[[s]]) for s, one in enumerate(alone)]
    assert together.theta.tolist() == [one.theta[0].tolist() for one in alone]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: weights.start([]), "warm must be of shape"),
        (lambda s: weights.start([0.0, 1.0]), "warm must be positive, got values from 0"),
        (lambda s: weights.start([np.inf, 1.0]), "warm must be finite numbers"),
        (lambda s: weights.learn(s, [[-1.0, 1.0]]), "congestion must be at least 0, got values from -1"),
        (lambda s: weights.learn(s, [[np.nan, 1.0]]), "congestion must be finite numbers"),
        (lambda s: weights.learn(s, [1.0, 1.0]), r"congestion must be of shape \(1, 2\)"),
        (lambda s: weights.learn(s, [[1.0, 1.0]], rate=1.2), "rate must be a number from 0 to 1"),
        (lambda s: weights.learn(s, [[1.0, 1.0]], clip=-1.0), "clip must be a number from 0"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[weights.WeightsState], Any], message: str) -> None:
    with pytest.raises(LearnError, match=message):
        call(weights.start([1.0, 1.0]))
