"""Kernel matrices: what states say by hand, the twin beside them, and points that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qstream.errors import ConfigError, ProblemError
from qstream.nvlink import kernel_matrix
from qstream.nvlink.similarity import KERNELS

POINTS = np.random.default_rng(0).normal(0, 0.7, (12, 4))


def test_the_fidelity_of_angles_is_a_product_of_cosines_and_near_its_twin() -> None:
    found = kernel_matrix(POINTS)
    apart = POINTS[:, None] - POINTS
    np.testing.assert_allclose(found.gram, np.prod(np.cos(apart / 2) ** 2, axis=2), atol=1e-12)
    np.testing.assert_allclose(found.rbf, np.exp(-0.25 * (apart**2).sum(axis=2)), atol=1e-12)
    assert found.alignment == pytest.approx(
        np.sum(found.gram * found.rbf) / np.linalg.norm(found.gram) / np.linalg.norm(found.rbf)
    )
    assert found.alignment > 0.99
    assert (found.qubits, found.execution) == (4, "simulated-statevector")


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_is_symmetric_with_ones_and_no_negative_direction(kernel: str) -> None:
    found = kernel_matrix(POINTS, kernel=kernel)
    np.testing.assert_allclose(found.gram, found.gram.T, atol=1e-12)
    np.testing.assert_allclose(np.diag(found.gram), 1)
    assert np.linalg.eigvalsh(found.gram).min() > -1e-9
    assert found.centred_alignment is not None
    assert -1 <= found.centred_alignment <= 1 + 1e-12
    across = kernel_matrix(POINTS[:5], POINTS, kernel)
    np.testing.assert_allclose(across.gram, found.gram[:5], atol=1e-12)
    np.testing.assert_allclose(across.rbf, found.rbf[:5], atol=1e-12)
    assert across.centred_alignment is None


def test_the_twin_is_its_own_twin_and_equal_points_have_no_centre() -> None:
    twin = kernel_matrix(POINTS, kernel="rbf")
    assert (twin.alignment, twin.execution) == (pytest.approx(1), "classical")
    assert kernel_matrix(np.ones((3, 2))).centred_alignment is None


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0, 2.0], None, "points, features"),
        ([[np.nan]], None, "finite"),
        (POINTS, np.ones((2, 3)), "as many features"),
        (np.zeros((4, 24)), None, "2.features"),
        (np.zeros((6000, 1)), None, "pairs of points"),
    ],
)
def test_points_that_cannot_be_compared_are_named(x: Any, y: Any, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        kernel_matrix(x, y)


def test_an_unknown_kernel_is_named() -> None:
    with pytest.raises(ConfigError, match="kernel must be one of fidelity"):
        kernel_matrix(POINTS, kernel="magic")
