"""Annealing finds optima that enumeration proves, repeats itself by seed, and keeps its deadline."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from qstream.quantum.classical.anneal import ANNEAL, anneal_levels, anneal_spins
from qstream.quantum.classical.exact import spectrum
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.record import SolveRequest


def forever() -> float:
    return math.inf


def glass(n: int, seed: int) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n))


def costs(sizes: tuple[int, ...], seed: int) -> OneHotProblem:
    rng = np.random.default_rng(seed)
    pair = {(i, j): rng.normal(size=(sizes[i], sizes[j])) for i, j in itertools.combinations(range(len(sizes)), 2)}
    return OneHotProblem(sizes, tuple(rng.normal(size=k) for k in sizes), pair)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("problem", [glass(16, 1), glass(1, 2), costs((4,) * 6, 3), costs((2, 5, 1, 3, 3), 4)])
def test_it_finds_the_optimum_of_small_problems(problem, seed):
    answer = ANNEAL.run(SolveRequest(problem, seed=seed), forever)
    assert answer.energy == pytest.approx(spectrum(problem).minimum)
    assert problem.energy(answer.solution) == pytest.approx(answer.energy)


def test_the_same_seed_gives_the_same_bytes():
    for problem in (glass(40, 1), costs((3,) * 12, 1)):
        first, second = (ANNEAL.run(SolveRequest(problem, seed=9), forever) for _ in range(2))
        assert first.solution.tobytes() == second.solution.tobytes()
        assert first.energy == second.energy


def test_slow_cooling_beats_fast_cooling_of_spins_and_of_levels():
    spins, levels = glass(100, 3), costs((4,) * 40, 3)
    rng = np.random.default_rng(0)
    up = np.ones((32, 100), np.int8)
    low = np.zeros((32, 40), np.int64)
    assert np.mean(spins.energies(anneal_spins(spins, up, 200, rng, forever))) < np.mean(
        spins.energies(anneal_spins(spins, up, 5, rng, forever))
    )
    assert np.mean(levels.energies(anneal_levels(levels, low, 200, rng, forever))) < np.mean(
        levels.energies(anneal_levels(levels, low, 5, rng, forever))
    )


def test_without_time_it_still_answers_and_asks_soon():
    asked = []
    problem = glass(60, 0)
    answer = ANNEAL.run(SolveRequest(problem), lambda: asked.append(1) or 0.0)
    assert answer.energy == pytest.approx(problem.energy(answer.solution))
    assert len(asked) < 50


def test_a_warm_start_is_never_lost():
    problem = glass(18, 2)
    best = spectrum(problem)
    answer = ANNEAL.run(SolveRequest(problem, warm_start=best.solution), lambda: 0.0)
    assert answer.energy == pytest.approx(best.minimum)
