"""What is read off a state, against sums over all states and the statistics of sampling."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.quantum.ising import IsingProblem, basis_spins, spins_of
from qstream.quantum.qaoa.measure import Distribution, distributions
from qstream.quantum.qaoa.statevector import Statevector


def evolved(fields: bool) -> tuple[IsingProblem, Distribution]:
    rng = np.random.default_rng(4)
    problem = IsingProblem(6, np.triu(rng.normal(size=(6, 6)), 1), rng.normal(size=6) * fields, -2.5)
    circuit = Statevector([problem], np.float64)
    circuit.evolve([0.2, 0.4], [-0.5, -0.2])
    return problem, distributions(circuit)[0]


@pytest.mark.parametrize("fields", [True, False])
def test_expectation_optimum_and_its_probability_are_sums_over_all_states(fields: bool) -> None:
    problem, found = evolved(fields)
    energies = problem.energies(basis_spins(6))
    best = energies < energies.min() + 1e-9
    assert best.sum() == (1 if fields else 2)
    assert found.expectation == pytest.approx(found.full() @ energies, abs=1e-12)
    assert found.optimum == pytest.approx(energies.min(), abs=1e-12)
    assert found.p_opt == pytest.approx(found.full()[best].sum(), abs=1e-12)
    assert found.random_p_opt == best.mean()
    assert found.full().sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("fields", [True, False])
def test_samples_follow_the_probabilities(fields: bool) -> None:
    _, found = evolved(fields)
    shots = 200_000
    states, counts = found.sample(shots, np.random.default_rng(1))
    assert counts.sum() == shots
    assert np.all(np.diff(states) > 0)
    seen = np.zeros(64)
    seen[states] = counts
    expected = shots * found.full()
    chi2 = float(np.sum((seen - expected)[expected > 0] ** 2 / expected[expected > 0]))
    assert chi2 < 63 + 4 * np.sqrt(2 * 63)


def test_without_fields_both_mirror_images_are_sampled() -> None:
    problem, found = evolved(fields=False)
    states, _ = found.sample(5000, np.random.default_rng(0))
    best = states[np.argsort(problem.energies(spins_of(states, 6)))[:2]]
    assert best[0] ^ best[1] == 63


def test_states_of_probability_0_are_never_sampled() -> None:
    found = Distribution(2, 0.0, False, np.arange(4.0), np.array([0.0, 0.5, 0.0, 0.5]))
    states, _ = found.sample(10_000, np.random.default_rng(0))
    assert states.tolist() == [1, 3]
