"""Sobol points are those of SciPy, by index."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import qmc

from qstream.hpo.sobol import sobol


@pytest.mark.parametrize(("d", "seed"), [(1, 0), (6, 7), (64, 2**32 - 1)])
def test_points_are_those_of_scipy(d, seed):
    expected = qmc.Sobol(d, rng=np.random.Generator(np.random.PCG64(seed))).random(64)
    np.testing.assert_array_equal(np.stack([sobol(d, seed, index) for index in range(64)]), expected)


def test_a_point_is_had_without_those_before_it():
    engine = qmc.Sobol(3, rng=np.random.Generator(np.random.PCG64(5)))
    engine.fast_forward(9_999)
    np.testing.assert_array_equal(sobol(3, 5, 9_999), engine.random(1)[0])
