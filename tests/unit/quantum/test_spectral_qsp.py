"""The phases of signal processing: what their circuit makes, by an independent product of 2 x 2 matrices."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.polynomial import chebyshev

from qstream.errors import ProblemError
from qstream.quantum.spectral import qsp
from qstream.quantum.spectral.qsp import phases, signal


def product(angles, x: float) -> complex:
    """``<0| e^{i phi_0 Z} prod W e^{i phi_k Z} |0>``, factor by factor."""
    s = np.sqrt(1 - x * x)
    w = np.array([[x, 1j * s], [1j * s, x]])
    u = np.diag(np.exp([1j * angles[0], -1j * angles[0]]))
    for angle in angles[1:]:
        u = u @ w @ np.diag(np.exp([1j * angle, -1j * angle]))
    return u[0, 0]


def random_polynomial(degree: int, seed: int, height: float = 0.95) -> np.ndarray:
    coefficients = np.zeros(degree + 1)
    coefficients[degree % 2 :: 2] = np.random.default_rng(seed).normal(size=degree // 2 + 1)
    return coefficients * height / np.abs(chebyshev.chebval(np.cos(np.linspace(0, np.pi, 40 * degree)), coefficients)).max()


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 7, 10, 33, 60])
@pytest.mark.parametrize("seed", range(3))
def test_the_imaginary_part_of_the_circuit_is_the_polynomial(degree, seed):
    coefficients = random_polynomial(degree, seed)
    angles = phases(coefficients)
    assert np.array_equal(angles, angles[::-1])
    for x in np.random.default_rng(seed).uniform(-1, 1, 5):
        assert product(angles, x).imag == pytest.approx(chebyshev.chebval(x, coefficients), abs=1e-12)


@pytest.mark.parametrize("degree", [301, 1000])
def test_high_degrees_are_as_exact(degree):
    coefficients = random_polynomial(degree, 0)
    x = np.linspace(-1, 1, 101)
    assert np.abs(signal(phases(coefficients), x).imag - chebyshev.chebval(x, coefficients)).max() < 1e-11


def test_no_phases_give_the_chebyshev_polynomial():
    x = np.linspace(-1, 1, 21)
    for degree in (1, 5, 8):
        assert np.abs(signal(np.zeros(degree + 1), x).real - np.cos(degree * np.arccos(x))).max() < 1e-13


@pytest.mark.parametrize("degree", [1, 2, 5, 8])
@pytest.mark.parametrize("height", [0.3, -0.9])
def test_a_multiple_of_one_chebyshev_polynomial_turns_at_the_ends_only(degree, height):
    angles = phases([0] * degree + [height])
    expected = np.zeros(degree + 1)
    expected[[0, -1]] = np.arcsin(height) / 2
    assert np.abs(angles - expected).max() < 1e-12


def test_a_constant_is_the_even_polynomial_of_any_degree():
    angles = phases([0.5, 0, 0])
    for x in (-0.3, 0.0, 0.8):
        assert product(angles, x).imag == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(
    ("coefficients", "named"),
    [
        ([0, 1.01], r"\|p\| up to 1.01"),
        ([0, 0.7, 0, 0.7], r"\|p\| up to 1.4"),
        ([0.1, 0.5], "both parities"),
        ([0, 0.5, 0.3], "both parities"),
        ([0.5], "got shape"),
        ([], "got shape"),
        (np.zeros(1002), "got shape"),
        (np.zeros((2, 2)), "got shape"),
        ([0, np.nan], r"coefficients\[1\]"),
        ([0, 0.5j], "real numbers, got complex"),
        ([0, "x"], "coefficients must be of numbers"),
    ],
)
def test_what_no_circuit_can_do_is_refused(coefficients, named):
    with pytest.raises(ProblemError, match=named):
        phases(coefficients)


@pytest.mark.parametrize("coefficients", [[0, 1.0], [0, 0, 1.0], [0, 0, 0, -1.0], [0, 0.5, 0, 0.5]], ids=str)
def test_a_polynomial_that_touches_one_is_solved_too_if_with_less_precise_phases(coefficients):
    angles = phases(coefficients)
    for x in (-0.9, 0.1, 0.3):
        assert product(angles, x).imag == pytest.approx(chebyshev.chebval(x, coefficients), abs=1e-9)


def test_phases_are_kept_within_a_bound_and_nobody_can_change_them():
    qsp._phases.cache_clear()
    for height in np.linspace(0.1, 0.9, qsp.CACHED_PHASES + 10):
        phases([0, height])
    info = qsp._phases.cache_info()
    assert info.currsize == info.maxsize == qsp.CACHED_PHASES
    phases([0, 0.9])
    assert qsp._phases.cache_info().hits == 1
    with pytest.raises(ValueError, match="read-only"):
        phases([0, 0.9])[0] = 1
