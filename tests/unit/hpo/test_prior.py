"""Prior: an older study shifts what is expected, its best points can go first, and one that misleads is left out and named."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from qstream.hpo import gp, prior
from qstream.hpo.options import HpoOptions
from qstream.hpo.plan import suggest
from qstream.hpo.problem import Observation, gather, warp
from qstream.hpo.space import Params, SearchSpace
from schemas.solver import Reason

SPACE = SearchSpace.load([{"name": name, "type": "float", "low": 0.0, "high": 1.0} for name in "xy"])
OPTIONS = HpoOptions(optimizer="gp", candidates=64, starts=2, warm_start="mean")
Rows = list[tuple[Params, float]]


def loss(x: float, y: float) -> float:
    return float(np.sin(7 * x) + (y - 0.3) ** 2)


def points(count: int, seed: int) -> list[Params]:
    return [{"x": float(x), "y": float(y)} for x, y in np.random.default_rng(seed).random((count, 2))]


def older(count: int = 30, sign: float = 1.0) -> Rows:
    """Results of a sibling: the same shape in other units."""
    return [(each, sign * (5 + 3 * loss(float(each["x"]), float(each["y"])))) for each in points(count, 7)]


def tried(count: int) -> list[Observation]:
    return [Observation(at, each, loss(float(each["x"]), float(each["y"]))) for at, each in enumerate(points(count, 1))]


def learnt(count: int, rows: Rows) -> tuple[gp.Posterior, NDArray[np.float64], NDArray[np.float64]]:
    problem = gather(SPACE, tried(count), prior=rows)
    covariance = gp.COVARIANCES["matern"](SPACE.groups)
    return prior.learnt(problem, covariance, prior.fit(problem, covariance)), problem.unit, warp(problem.value)


def test_the_slope_of_the_prior_mean_equals_finite_differences() -> None:
    old, x, z = learnt(8, older())
    mean = prior.mean(old, x, z)
    at = np.random.default_rng(2).random((4, 2))
    value, slope = mean.slope(at)
    assert value == pytest.approx(mean.value(at), rel=1e-9)
    for axis in range(2):
        step = 1e-6 * np.eye(2)[axis]
        assert slope[:, axis] == pytest.approx((mean.value(at + step) - mean.value(at - step)) / 2e-6, rel=1e-4, abs=1e-7)


def test_the_part_of_the_prior_mean_follows_the_evidence() -> None:
    old, x, z = learnt(0, older())
    assert prior.mean(old, x, z).beta == pytest.approx(prior.EXPECTED)
    old, x, z = learnt(20, older())
    assert prior.mean(old, x, z).beta > 0.8
    assert prior.mean(old, x, -z).beta == 0


def test_the_best_old_points_are_distinct_and_in_order() -> None:
    rows = older()
    rows += rows[:5]
    problem = gather(SPACE, [], prior=rows)
    best = prior.best(problem, 3)
    wanted = sorted({value: params for params, value in rows}.items())[:3]
    assert [SPACE.decode(row) for row in best] == [
        pytest.approx(SPACE.decode(SPACE.encode(params)), abs=1e-6) for _, params in wanted
    ]
    assert len(prior.best(gather(SPACE, []), 3)) == 0


def test_many_old_results_are_thinned_to_the_best_and_some_of_all_ranks() -> None:
    value = np.random.default_rng(0).permutation(1000).astype(float)
    at = prior.best_and_others(value, 150)
    assert len(set(at.tolist())) == 150
    assert set(np.flatnonzero(value < 50)) <= set(at.tolist())
    assert value[at].max() == 999


def test_a_suggestion_begins_where_the_older_study_was_good() -> None:
    seen = tried(3)
    warm = suggest(SPACE, seen, trial=3, options=OPTIONS, prior=older())
    assert warm.source == "gp"
    assert warm.fallback_reason is None
    assert loss(float(warm.params["x"]), float(warm.params["y"])) < -0.8  # the least is -1
    assert suggest(SPACE, seen, trial=3, options=OPTIONS).source == "sobol"


def test_an_older_study_that_misleads_is_left_out_and_named() -> None:
    values = np.random.default_rng(3).permutation([value for _, value in older()])
    shuffled = [(params, float(value)) for (params, _), value in zip(older(), values, strict=True)]
    found = suggest(SPACE, tried(20), trial=20, options=OPTIONS, prior=shuffled)
    assert found.fallback_reason is Reason.PRIOR_MISLEADS
    assert found.params == suggest(SPACE, tried(20), trial=20, options=OPTIONS.changed({"warm_start": "none"})).params


def test_the_best_old_points_go_out_first_unless_they_were_tried() -> None:
    options, rows = OPTIONS.changed({"warm_start": "topk"}), older()
    best = prior.best(gather(SPACE, [], prior=rows), 3)
    first = [suggest(SPACE, [], trial=trial, options=options, prior=rows) for trial in range(4)]
    assert [each.source for each in first] == ["warm", "warm", "warm", "sobol"]
    assert [each.params for each in first[:3]] == [SPACE.decode(row) for row in best]
    again = suggest(SPACE, [Observation(9, first[0].params, 1.0)], trial=0, options=options, prior=rows)
    assert again.source == "sobol"


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_a_handful_of_old_results_gives_no_prior_mean(rows: int) -> None:
    found = [suggest(SPACE, tried(12), trial=12, options=OPTIONS, prior=older()[:kept]) for kept in (rows, 0)]
    assert found[0].params == found[1].params
