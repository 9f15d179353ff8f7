"""Planted problems have the optimum that they claim, and it is not all up."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.quantum.classical.anneal import ANNEAL
from qstream.quantum.classical.exact import spectrum
from qstream.quantum.planted import planted_loops, planted_torus
from qstream.quantum.record import SolveRequest


@pytest.mark.parametrize("seed", range(4))
def test_enumeration_proves_the_ground_energy_of_a_small_torus(seed):
    problem, ground = planted_torus(4, np.random.default_rng(seed))
    assert spectrum(problem).minimum == ground == -16
    assert set(np.abs(problem.J[problem.J != 0])) == {1.0}
    assert np.all((problem.symmetric() != 0).sum(0) == 4)
    assert problem.energy(np.ones(16)) > ground


@pytest.mark.parametrize(("n", "loops", "length"), [(10, 4, 3), (12, 20, 5), (16, 30, 8)])
def test_enumeration_proves_the_ground_energy_of_loops(n, loops, length):
    problem, ground = planted_loops(n, loops, length, np.random.default_rng(n))
    assert spectrum(problem).minimum == ground == -loops * (length - 2)


def test_annealing_reaches_the_ground_energy_of_a_torus_that_cannot_be_enumerated():
    problem, ground = planted_torus(10, np.random.default_rng(1))
    answer = ANNEAL.run(SolveRequest(problem), lambda: math.inf)
    assert answer.energy >= ground
    assert answer.energy <= 0.96 * ground


@pytest.mark.parametrize("side", [2, 5, 66])
def test_a_torus_that_no_chessboard_fits_is_refused(side):
    with pytest.raises(ProblemError, match=f"side must be .*got {side}"):
        planted_torus(side, np.random.default_rng(0))


def test_a_loop_of_two_is_refused():
    with pytest.raises(ProblemError, match=r"length must be .*got 2"):
        planted_loops(5, 1, 2, np.random.default_rng(0))
