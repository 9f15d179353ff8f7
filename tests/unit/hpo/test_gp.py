"""The Gaussian process against finite differences, a rebuild, and the definition of leaving one out."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.hpo import gp

GROUPS = np.array([0, 1, 2, 3, 3])
STEP = 1e-5


def points(n: int) -> np.ndarray:
    return np.random.default_rng(0).random((n, 5))


def values(n: int) -> np.ndarray:
    z = np.sin(3 * points(n).sum(1)) + 0.1 * np.random.default_rng(1).normal(size=n)
    return np.asarray((z - z.mean()) / z.std())


def theta_of(covariance: gp.Covariance) -> np.ndarray:
    start = covariance.start()
    return start + 0.3 * np.random.default_rng(2).normal(size=len(start))


@pytest.fixture(params=sorted(gp.COVARIANCES))
def covariance(request: pytest.FixtureRequest) -> gp.Covariance:
    return gp.COVARIANCES[request.param](GROUPS)


def test_gradients_of_evidence_and_prior_are_those_of_finite_differences(covariance: gp.Covariance) -> None:
    theta, x, z = theta_of(covariance), points(30), values(30)
    _, slope = gp.evidence(covariance, theta, x, z)
    _, prior_slope = covariance.log_prior(theta)
    for i, e in enumerate(STEP * np.eye(len(theta))):
        up, down = gp.evidence(covariance, theta + e, x, z)[0], gp.evidence(covariance, theta - e, x, z)[0]
        assert slope[i] == pytest.approx((up - down) / (2 * STEP), abs=1e-5)
        prior = covariance.log_prior(theta + e)[0] - covariance.log_prior(theta - e)[0]
        assert prior_slope[i] == pytest.approx(prior / (2 * STEP), abs=1e-5)


def test_gradients_of_a_prediction_are_those_of_finite_differences(covariance: gp.Covariance) -> None:
    known = gp.posterior(covariance, theta_of(covariance), points(30), values(30))
    x = np.random.default_rng(3).random((4, 5))
    mean, variance, pull = gp.predict_with_slope(known, x)
    assert (mean, variance) == (pytest.approx(gp.predict(known, x)[0]), pytest.approx(gp.predict(known, x)[1]))
    by_mean, by_variance = pull(np.ones(4), np.zeros(4)), pull(np.zeros(4), np.ones(4))
    for i, e in enumerate(STEP * np.eye(5)):
        up, down = gp.predict(known, x + e), gp.predict(known, x - e)
        assert by_mean[:, i] == pytest.approx((up[0] - down[0]) / (2 * STEP), abs=1e-5)
        assert by_variance[:, i] == pytest.approx((up[1] - down[1]) / (2 * STEP), abs=1e-5)


def test_rows_for_pending_trials_equal_a_rebuild_with_believed_values(covariance: gp.Covariance) -> None:
    theta, x, z, more = theta_of(covariance), points(40), values(40), np.random.default_rng(3).random((8, 5))
    known = gp.posterior(covariance, theta, x, z)
    rebuilt = gp.posterior(covariance, theta, np.r_[x, more], np.r_[z, gp.predict(known, more)[0]])
    extended, asked = gp.extend(known, more), np.random.default_rng(4).random((20, 5))
    for a, b in zip(gp.predict(extended, asked), gp.predict(rebuilt, asked), strict=True):
        assert a == pytest.approx(b, abs=1e-10)
    lift = np.linspace(0, 2, 8)
    rebuilt, lifted = (
        gp.posterior(covariance, theta, np.r_[x, more], np.r_[z, gp.predict(known, more)[0] + lift]),
        gp.extend(known, more, lift),
    )
    assert gp.predict(lifted, asked)[0] == pytest.approx(gp.predict(rebuilt, asked)[0], abs=1e-9)


def test_a_prediction_of_many_points_is_that_of_each(covariance: gp.Covariance) -> None:
    known = gp.posterior(covariance, theta_of(covariance), points(300), values(300))
    asked = np.random.default_rng(4).random((100, 5))
    mean, variance = gp.predict(known, asked)
    assert mean == pytest.approx(np.array([gp.predict(known, x[None])[0][0] for x in asked]), abs=1e-10)
    assert variance == pytest.approx(np.array([gp.predict(known, x[None])[1][0] for x in asked]), abs=1e-10)


def test_the_mean_at_seen_points_needs_no_covariances(covariance: gp.Covariance) -> None:
    x, z = points(40), values(40)
    known = gp.posterior(covariance, theta_of(covariance), x, z)
    assert gp.fitted(known, z) == pytest.approx(gp.predict(known, x)[0], abs=1e-10)


def test_density_of_a_value_left_out_is_that_of_a_process_without_it(covariance: gp.Covariance) -> None:
    theta, x, z = theta_of(covariance), points(20), values(20)
    found = gp.leave_one_out_density(gp.posterior(covariance, theta, x, z), z)
    for i in range(20):
        without = gp.posterior(covariance, theta, np.delete(x, i, 0), np.delete(z, i))
        mean, variance = gp.predict(without, x[i : i + 1])
        spread = variance[0] + without.noise
        assert found[i] == pytest.approx(-0.5 * ((z[i] - mean[0]) ** 2 / spread + np.log(2 * np.pi * spread)), abs=1e-8)


def test_a_fit_raises_the_density_and_finds_what_does_not_matter(covariance: gp.Covariance) -> None:
    x = np.random.default_rng(0).random((60, 5))
    z = np.sin(6 * x[:, 0])
    theta = gp.fit(covariance, x, (z - z.mean()) / z.std())
    assert theta[1:4].min() > theta[0] + 1
    exact = gp.fit(covariance, x, (z - z.mean()) / z.std(), exact=True)
    assert exact[-1] == gp.EXACT


def test_equal_points_have_a_factor_thanks_to_jitter() -> None:
    covariance = gp.COVARIANCES["rbf"](GROUPS)
    theta = np.r_[covariance.start()[:-1], -16.0]
    known = gp.posterior(covariance, theta, np.zeros((50, 5)), values(50))
    assert np.isfinite(gp.predict(known, points(3))[0]).all()


def test_a_rough_prediction_has_the_same_mean_and_no_smaller_variance(covariance: gp.Covariance) -> None:
    known = gp.posterior(covariance, theta_of(covariance), points(100), values(100))
    asked = np.random.default_rng(4).random((50, 5))
    mean, variance = gp.predict(known, asked)
    rough_mean, rough = gp.predict_roughly(known, asked)
    assert rough_mean == pytest.approx(mean, abs=1e-12)
    assert (rough >= variance - 1e-12).all()
    assert (rough > 1.01 * variance).any()
