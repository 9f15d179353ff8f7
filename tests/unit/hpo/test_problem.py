"""Problems are sorted arrays, whatever the order of arrival, and their random numbers depend on seed, stream and trial alone."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.hpo import Limit, Observation, SearchSpace
from qstream.hpo.problem import gather, ratio, rng, sobol, warp
from schemas.space import Parameter

SPACE = SearchSpace([Parameter(name="x", type="float", low=0, high=1), Parameter(name="y", type="float", low=0, high=2)])
SEEN = [
    Observation(3, {"x": 0.5, "y": 1.0}, 2.0, metrics={"ms": 20.0}),
    Observation(0, {"x": 0.25, "y": 0.5}, 1.0, metrics={"ms": 50.0}),
    Observation(1, {"x": 0.1, "y": 0.5}, None, "failed"),
    Observation(2, {"x": 0.2, "y": 0.5}, None, "pruned"),
    Observation(5, {"x": 0.2, "y": 1.5}, 4.0),
]


def test_outcomes_in_any_order_give_the_same_sorted_arrays():
    limits = (Limit("ms", "<=", 40.0),)
    problem = gather(SPACE, SEEN, {6: {"x": 1, "y": 0}, 4: {"x": 0, "y": 0}}, trial=7, limits=limits)
    again = gather(SPACE, SEEN[::-1], {4: {"x": 0, "y": 0}, 6: {"x": 1, "y": 0}}, trial=7, limits=limits)
    for name in ("number", "unit", "value", "limit_value", "failed_number", "failed_unit", "pending_number", "pending_unit"):
        np.testing.assert_array_equal(getattr(problem, name), getattr(again, name))
    assert problem.number.tolist() == [0, 3, 5]
    assert problem.failed_number.tolist() == [1]
    assert problem.pending_number.tolist() == [4, 6]
    assert problem.tried_number.tolist() == [2]
    assert len(problem.taken) == 7
    np.testing.assert_array_equal(problem.limit_value[:, 0], [1.25, 0.5, np.nan])
    assert problem.prior_unit.shape == (0, 2)


@pytest.mark.parametrize(
    ("limit", "kept", "broken"),
    [(("<=", 40.0), 39.0, 41.0), ((">=", 0.5), 0.6, -3.0), (("<=", 0.0), -1.0, 0.1), ((">=", -2.0), -1.0, -3.0)],
)
def test_a_ratio_is_at_most_one_where_a_limit_is_kept(limit, kept, broken):
    assert ratio(Limit("m", *limit), kept) < 1 < ratio(Limit("m", *limit), broken) < np.inf
    assert ratio(Limit("m", *limit), limit[1]) == 1


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        ([Observation(0, {"x": 0, "y": 0}, float("nan"))], "value of trial 0 must be a finite number, got nan"),
        ([Observation(0, {"x": 0, "y": 0}, None)], "value of trial 0 must be a finite number, got None"),
        ([Observation(0, {"x": 0, "y": 3}, 1.0)], "parameter 'y' must be a number from 0 to 2, got 3"),
        ([Observation(0, {"x": 0, "y": 0}, 1.0)] * 2, "must be of distinct trials, got trial 0 twice"),
    ],
)
def test_what_is_no_outcome_of_the_space_is_refused_by_name(seen, message):
    with pytest.raises(ProblemError, match=message):
        gather(SPACE, seen)


def test_warped_losses_keep_their_order_and_bad_ones_come_near():
    values = np.array([3.0, 1.0, 2.0, 1e9, 2.5, 4.0])
    z = warp(values)
    assert np.argsort(z).tolist() == np.argsort(values).tolist()
    assert z.mean() == pytest.approx(0)
    assert z.std() == pytest.approx(1)
    assert z.max() < 3
    assert warp(np.full(4, 7.0)).tolist() == [0.0] * 4
    assert warp(np.zeros(0)).shape == (0,)
    assert warp(np.array([1.0, 1.0, 1.0, 5.0])).max() > 1


def test_random_numbers_and_points_depend_on_seed_stream_and_trial_alone():
    draws = {rng(seed, stream, trial).random() for seed in (0, 1) for stream in (0, 1) for trial in (0, 1, 2)}
    assert len(draws) == 12
    assert not set(rng(0, 0, 0).random(8)) & set(rng(0, 0, 1).random(8))
    np.testing.assert_array_equal(sobol(3, 5, 7), sobol(3, 5, 7))
    points = np.stack([sobol(3, 5, index) for index in range(128)])
    for column in points.T:
        assert sorted(np.floor(column * 128)) == list(range(128))  # one point in each of 128 equal cells
    assert not np.array_equal(sobol(3, 6, 7), sobol(3, 5, 7))
