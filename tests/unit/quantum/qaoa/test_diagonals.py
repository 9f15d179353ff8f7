"""Energies of all states: stacked, halved and in levels, against one by one."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from qstream.quantum.ising import IsingProblem, basis_spins
from qstream.quantum.qaoa.diagonals import diagonal, diagonals, integer_levels


def dense(n: int, seed: int, fields: bool) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n) * fields, 3.0)


@pytest.mark.parametrize(("n", "mirrored"), [(1, False), (4, True), (6, False), (13, True)])
def test_stacked_energies_are_those_of_each_state_without_the_offset(n: int, mirrored: bool) -> None:
    problems = [dense(n, seed, not mirrored) for seed in range(3)]
    stacked = diagonals(problems, mirrored)
    spins = basis_spins(n)[: stacked.shape[1]]
    assert stacked.shape == (3, 1 << (n - mirrored))
    for row, problem in zip(stacked, problems, strict=True):
        np.testing.assert_allclose(row, problem.energies(spins) - 3.0, atol=1e-12)


def test_a_regular_graph_has_integer_levels() -> None:
    problem = IsingProblem(8, 0.3 * np.triu(nx.to_numpy_array(nx.cubical_graph()), 1))
    energies = diagonal(problem, mirrored=True)
    found = integer_levels(problem, energies)
    assert found is not None
    index, values = found
    np.testing.assert_allclose(values[index], energies, atol=1e-12)
    assert len(values) == 25  # from -12 to 12 edges


def test_gaussian_or_nearly_integer_couplings_have_no_levels() -> None:
    problem = dense(6, 0, fields=False)
    assert integer_levels(problem, diagonal(problem, mirrored=True)) is None
    close = IsingProblem(3, np.array([[0, 1, 1 + 1e-9], [0, 0, 1], [0, 0, 0]]))
    assert integer_levels(close, diagonal(close, mirrored=False)) is None
    empty = IsingProblem(3, np.zeros((3, 3)))
    assert integer_levels(empty, diagonal(empty, mirrored=True)) is None
