"""The fits: bounded by one, of one parity, as near as they say, and improving at the rate of theory."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.polynomial import chebyshev

from qstream.errors import ProblemError
from qstream.quantum.spectral.chebyshev import fit_filter, fit_inverse, fit_sign, max_abs

DENSE = np.sort(np.r_[np.cos(np.linspace(0, np.pi, 20001)), np.random.default_rng(0).uniform(-1, 1, 5000)])
FITS = [
    fit_inverse(2, 15),
    fit_inverse(10, 79),
    fit_inverse(10, 11),
    fit_inverse(1, 1),
    fit_inverse(3, 201),
    fit_sign(0.1, 61),
    fit_sign(0.5, 3),
    fit_filter(0.3, 40),
    fit_filter(0.3, 80),
    fit_filter(0.9, 200),
    fit_filter(0.01, 2),
]


@pytest.mark.parametrize("fit", FITS, ids=range(len(FITS)))
def test_every_fit_is_bounded_by_one_and_of_one_parity(fit):
    values = fit(DENSE)
    assert np.abs(values).max() <= 1
    assert np.abs(fit(-DENSE) - (-1) ** fit.degree * values).max() < 1e-13
    assert not fit.coefficients[fit.degree - 1 :: -2].any()


@pytest.mark.parametrize(
    ("kappa", "eps", "degree"),
    [(2, 1e-2, 11), (2, 1e-3, 15), (2, 1e-6, 27), (5, 1e-2, 27), (5, 1e-3, 39), (10, 1e-2, 57), (10, 1e-3, 79), (10, 1e-6, 149)],
)
def test_the_inverse_is_within_eps_at_the_degree_of_the_rule(kappa, eps, degree):
    fit = fit_inverse(kappa, degree)
    x = np.linspace(1 / kappa, 1, 20001)
    error = np.abs(fit(x) / fit.scale * kappa * x - 1).max()
    assert error <= eps
    assert fit.error == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize("kappa", [2, 5, 20])
def test_the_error_of_the_inverse_falls_by_the_rate_of_the_best_polynomials(kappa):
    low, high = 6 * kappa + 1, 10 * kappa + 1
    rate = ((kappa - 1) / (kappa + 1)) ** ((high - low) / 2)
    assert fit_inverse(kappa, high).error / fit_inverse(kappa, low).error == pytest.approx(rate, rel=0.3)


def test_the_price_of_the_bound_is_below_two():
    assert all(0.5 < fit_inverse(kappa, 8 * kappa // 2 * 2 + 1).scale <= 1 for kappa in (2, 5, 10, 20, 50))


def test_the_sign_is_within_its_error_outside_the_gap():
    fit = fit_sign(0.1, 61)
    x = np.linspace(0.1, 1, 10001)
    assert np.abs(fit(x) / fit.scale - 1).max() == pytest.approx(fit.error, rel=0.02)
    assert fit.error < 0.01


@pytest.mark.parametrize(("degree", "passes", "rejects"), [(40, 0.96, 0.02), (80, 0.98, 1e-3)])
def test_the_filter_passes_above_and_rejects_below_its_step(degree, passes, rejects):
    fit = fit_filter(0.3, degree)
    assert fit(np.linspace(0.45, 1, 500)).min() >= passes
    assert np.abs(fit(np.linspace(0, 0.15, 500))).max() <= rejects


@pytest.mark.parametrize("degree", [1, 2, 9, 40, 151])
def test_the_bounds_of_a_polynomial_hold_its_maximum(degree):
    for seed in range(5):
        coefficients = np.random.default_rng(seed).normal(size=degree + 1)
        true = np.abs(chebyshev.chebval(DENSE, coefficients)).max()
        low, high = max_abs(coefficients)
        assert low * (1 - 1e-12) <= max(true, low) <= high
        assert true <= high
        assert high / low < 1.0013


def test_a_chebyshev_polynomial_reaches_one():
    assert max_abs(np.eye(8)[7])[0] == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("kappa", [0.99, 0, -1, np.nan, np.inf])
def test_a_condition_below_one_is_refused(kappa):
    with pytest.raises(ProblemError, match="kappa"):
        fit_inverse(kappa, 5)


@pytest.mark.parametrize("part", [0, 1, -0.1, 1.5, np.nan])
def test_gap_and_threshold_lie_within_the_unit_interval(part):
    with pytest.raises(ProblemError, match="gap"):
        fit_sign(part, 5)
    with pytest.raises(ProblemError, match="threshold"):
        fit_filter(part, 4)


@pytest.mark.parametrize("degree", [0, -1, 1.5, True, 1001, 1002, None])
def test_a_degree_out_of_range_is_refused(degree):
    for fit in (lambda: fit_inverse(2, degree), lambda: fit_sign(0.2, degree), lambda: fit_filter(0.2, degree)):
        with pytest.raises(ProblemError, match="degree"):
            fit()


def test_a_degree_of_the_wrong_parity_is_refused():
    with pytest.raises(ProblemError, match="an odd whole number"):
        fit_inverse(2, 4)
    with pytest.raises(ProblemError, match="an even whole number"):
        fit_filter(0.2, 5)


def test_a_degree_may_be_a_small_numpy_integer():
    assert np.array_equal(fit_inverse(10, np.int8(79)).coefficients, fit_inverse(10, 79).coefficients)
