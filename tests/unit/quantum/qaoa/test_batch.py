"""Many problems at once against one at a time and against enumeration."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.quantum.ising import IsingProblem, basis_spins
from qstream.quantum.qaoa.batch import descended_states, flips, sampled_states, sigmas, solve_batch
from qstream.quantum.qaoa.measure import distributions
from qstream.quantum.qaoa.schedule import stretched
from qstream.quantum.qaoa.statevector import Statevector


def problems(n: int, fields: bool, count: int = 12) -> list[IsingProblem]:
    rng = np.random.default_rng(n)
    scales = 10.0 ** rng.integers(-2, 3, count)
    return [IsingProblem(n, a * np.triu(rng.normal(size=(n, n)), 1), fields * a * rng.normal(size=n), a) for a in scales]


@pytest.mark.parametrize(("n", "fields"), [(1, True), (6, True), (7, False), (13, True)])
def test_each_problem_has_the_record_that_it_has_alone(n: int, fields: bool) -> None:
    given = problems(n, fields, 4)
    ticks = iter([1.0, 1.25])
    batch = solve_batch(given, p=6, shots=64, seed=3, clock=lambda: next(ticks))
    assert (batch.label, batch.execution, batch.n, batch.p, batch.shots, batch.seed) == (
        "simulated",
        "simulated-statevector",
        n,
        6,
        64,
        3,
    )
    assert batch.wall_ms == 250
    for k, problem in enumerate(given):
        circuit = Statevector([problem], np.float64)
        circuit.evolve(*stretched(6, problem.sigma()))
        alone = distributions(circuit)[0]
        scale = problem.sigma()
        assert batch.expectations[k] == pytest.approx(alone.expectation, abs=1e-4 * scale)
        assert batch.p_opt[k] == pytest.approx(alone.p_opt, abs=1e-5)
        assert batch.optima[k] == pytest.approx(problem.energies(basis_spins(n)).min(), abs=1e-9 * scale)
        assert batch.energies[k] == pytest.approx(problem.energy(batch.solutions[k]), abs=1e-9 * scale)
        assert batch.optima[k] - 1e-9 * scale <= batch.energies[k] <= batch.sampled[k]


@pytest.mark.parametrize("fields", [True, False])
def test_small_problems_are_solved_and_no_single_flip_improves_them(fields: bool) -> None:
    given = problems(8, fields)
    batch = solve_batch(given)
    np.testing.assert_allclose(batch.energies, batch.optima, rtol=1e-9)
    few = solve_batch(given, p=1, shots=1)
    for problem, spins, energy in zip(given, few.solutions, few.energies, strict=True):
        near = spins * (1 - 2 * np.eye(8, dtype=np.int8))
        assert np.all(problem.energies(near) >= energy - 1e-9 * problem.sigma())


def test_graphs_of_one_size_are_solved_together() -> None:
    graphs = [nx.cycle_graph(10), nx.petersen_graph(), nx.complete_bipartite_graph(5, 5)]
    batch = solve_batch([IsingProblem(10, np.triu(nx.to_numpy_array(graph), 1)) for graph in graphs], p=12)
    np.testing.assert_allclose(batch.energies, [-10, 15 - 2 * 12, -25])


def test_equal_seeds_give_equal_bytes() -> None:
    given = problems(6, True)
    one, two, other = (solve_batch(given, p=1, shots=4, seed=seed) for seed in (5, 5, 6))
    assert one.solutions.tobytes() == two.solutions.tobytes()
    assert one.sampled.tobytes() == two.sampled.tobytes()
    assert one.sampled.tobytes() != other.sampled.tobytes()


def test_each_problem_has_its_own_scale() -> None:
    given = [*problems(6, True), IsingProblem(6, np.zeros((6, 6)))]
    np.testing.assert_allclose(sigmas(given), [*(problem.sigma() for problem in given[:-1]), 1.0])


def test_each_row_is_sampled_by_its_own_probabilities() -> None:
    rows = np.array([[0.0, 1.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 0.5, 0.5]])
    states = sampled_states(rows, 40_000, np.random.default_rng(0))
    shares = np.array([np.bincount(row, minlength=4) / 40_000 for row in states])
    np.testing.assert_allclose(shares, rows, atol=0.01)
    assert np.all(shares[rows == 0] == 0)


def test_the_descent_takes_the_steepest_flip_until_none_is_lower() -> None:
    energies = np.array([[3.0, 2.0, 1.0, 5.0], [0.0, 0.5, 0.9, 1.0]])
    found = descended_states(energies, np.array([0, 3]), flips(2, mirrored=False))
    assert found.tolist() == [2, 0]
    assert flips(3, mirrored=True).tolist() == [1, 2, 4, 7]


def test_problems_of_several_sizes_are_refused() -> None:
    with pytest.raises(ProblemError, match=r"problems must be of one size in a call, got \[6, 7\] spins"):
        solve_batch([*problems(6, True), *problems(7, True)])
