"""Log EI against constants of 60 digits and finite differences; its maximum against a search of the whole space."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.hpo import gp
from qstream.hpo.acquisition import Improvement, _best, maximise
from qstream.hpo.ascent import climb
from qstream.hpo.normal import log_expected_improvement
from qstream.hpo.problem import rng
from qstream.hpo.space import SearchSpace

# log(phi(z) + z Phi(z)) and Phi(z) / (phi(z) + z Phi(z)) by mpmath with 60 digits
EXACT = {
    -1000.0: (-500014.73445209115845, 1000.001999994),
    -40.0: (-808.29856835661996024, 40.04990665764852),
    -5.0: (-16.744301162660990143, 5.361816241288088),
    -1.0: (-2.4851210257126413, 1.9042712333296918),
    0.0: (-0.91893853320467274178, 1.2533141373155003),
    3.0: (1.0987396653277077727, 0.3328409684517952),
    40.0: (3.6888794541139363029, 0.025),
}


def log_improvement(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    value, by_mean, _ = log_expected_improvement(-z, np.ones_like(z), 0.0)
    return value, -by_mean


@pytest.mark.parametrize("z", EXACT)
def test_log_improvement_is_exact_far_from_the_best(z: float) -> None:
    value, slope = log_improvement(np.array([z]))
    assert value[0] == pytest.approx(EXACT[z][0], rel=1e-14)
    assert slope[0] == pytest.approx(EXACT[z][1], rel=1e-12)


def test_log_improvement_is_finite_everywhere() -> None:
    value, slope = log_improvement(np.array([-1e8, -1e5, -99_999.0, 1e8]))
    assert np.isfinite(value).all()
    assert (slope > 0).all()
    assert (np.diff(value) > 0).all()


def test_gradient_of_log_ei_is_that_of_finite_differences() -> None:
    mean, variance, h = np.array([-2.0, 0.0, 3.0]), np.array([0.5, 1.0, 0.02]), 1e-6
    _, by_mean, by_variance = log_expected_improvement(mean, variance, -0.3)
    up, down = (log_expected_improvement(mean + d, variance, -0.3)[0] for d in (h, -h))
    assert by_mean == pytest.approx((up - down) / (2 * h), rel=1e-5)
    up, down = (log_expected_improvement(mean, variance + d, -0.3)[0] for d in (h, -h))
    assert by_variance == pytest.approx((up - down) / (2 * h), rel=1e-5)


def test_a_climb_finds_the_top_of_a_stretched_bowl_within_the_cube() -> None:
    weight, top = np.array([1.0, 10.0, 100.0, 3.0]), np.array([0.37, 0.9, 0.1, 1.4])

    def score(x: np.ndarray, _rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return -((x - top) ** 2 * weight).sum(1), -2 * (x - top) * weight

    x, value = climb(score, np.random.default_rng(0).random((6, 4)), steps=60)
    assert x == pytest.approx(np.tile([0.37, 0.9, 0.1, 1.0], (6, 1)), abs=1e-3)
    assert value == pytest.approx(-0.48, abs=1e-5)


def improvement(space: SearchSpace, unit: np.ndarray) -> Improvement:
    x = space.features(unit)
    z = np.cos(5 * x).sum(1)
    covariance = gp.COVARIANCES["matern"](space.groups)
    known = gp.posterior(covariance, covariance.start(), x, (z - z.mean()) / z.std())
    return Improvement(known, float(z.min()))


def test_the_best_of_a_discrete_space_is_found_and_taken_points_are_left_out() -> None:
    space = SearchSpace.load(
        [
            {"name": "a", "type": "categorical", "choices": ["p", "q", "r"]},
            {"name": "b", "type": "int", "low": 1, "high": 40, "scale": "log"},
            {"name": "c", "type": "ordinal", "choices": [1, 2, 4, 8]},
        ]
    )
    unit = space.snap(np.random.default_rng(0).random((12, 3)))
    term = improvement(space, unit)
    every = np.array(
        [
            [a, b, c]
            for a in space.centre(0, np.arange(3))
            for b in space.centre(1, np.arange(40))
            for c in space.centre(2, np.arange(4))
        ]
    )
    order = np.argsort(-term.value(space.features(every)), kind="stable")
    taken: set[bytes] = set()
    for rank in range(3):
        found = maximise([term], space, centres=unit[:2], taken=frozenset(taken), rng=rng(0, 0, 0), candidates=64, starts=4)
        assert found is not None
        assert found[1] == pytest.approx(term.value(space.features(every[order[rank]][None]))[0])
        taken.update(space.keys(found[0][None]))
    everything = frozenset(space.keys(every))
    assert maximise([term], space, centres=unit[:2], taken=everything, rng=rng(0, 0, 0), candidates=64, starts=4) is None


def test_the_best_of_a_mixed_space_is_above_a_dense_grid() -> None:
    space = SearchSpace.load(
        [
            {"name": "kind", "type": "categorical", "choices": ["p", "q", "r"]},
            {"name": "lr", "type": "float", "low": 1e-5, "high": 0.1, "scale": "log"},
            {"name": "momentum", "type": "float", "low": 0, "high": 1, "when": {"parameter": "kind", "values": ["q"]}},
        ]
    )
    unit = space.snap(np.random.default_rng(0).random((12, 3)))
    term = improvement(space, unit)
    line = np.linspace(0, 1, 60)
    grid = space.snap(np.array([[k, a, b] for k in space.centre(0, np.arange(3)) for a in line for b in line]))
    found = maximise([term], space, centres=unit[:2], taken=frozenset(), rng=rng(0, 0, 0), candidates=64, starts=4)
    assert found is not None
    assert found[1] >= term.value(space.features(grid)).max() - 1e-6
    assert space.snap(found[0][None])[0] == pytest.approx(found[0], abs=0)


def test_leaving_points_out_by_their_ceilings_gives_the_best_of_all_points() -> None:
    space = SearchSpace.load([{"name": name, "type": "float", "low": 0, "high": 1} for name in "abc"])
    random = np.random.default_rng(0)
    term = improvement(space, random.random((40, 3)))
    unit = random.random((500, 3))
    found, value = _best([term], space, unit, frozenset(), 5)
    every = term.value(space.features(unit))
    assert value == pytest.approx(np.sort(every)[::-1][:5])
    assert found == pytest.approx(unit[np.argsort(-every)[:5]])
    assert (term.ceiling(unit) >= every - 1e-12).all()
