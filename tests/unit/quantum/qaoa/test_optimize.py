"""The search of angles against known optima."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest

from qstream.quantum.ising import IsingProblem
from qstream.quantum.qaoa.measure import distributions
from qstream.quantum.qaoa.optimize import optimised
from qstream.quantum.qaoa.schedule import Angles, tree
from qstream.quantum.qaoa.statevector import Statevector


def graph_problem(graph: nx.Graph, weight: float = 1.0) -> IsingProblem:
    return IsingProblem(len(graph), weight * np.triu(nx.to_numpy_array(graph), 1))


def expectation(circuit: Statevector, angles: Angles) -> float:
    circuit.reset()
    circuit.evolve(*angles)
    return distributions(circuit)[0].expectation


@pytest.mark.parametrize("weight", [1.0, 250.0])
def test_one_layer_on_the_petersen_graph_reaches_the_closed_form(weight: float) -> None:
    problem = graph_problem(nx.petersen_graph(), weight)
    circuit = Statevector([problem], np.float64)
    found = optimised(circuit, (np.array([0.1 / weight]), np.array([-0.1])), problem.sigma())
    assert 0.5 - expectation(circuit, found) / weight / 15 / 2 == pytest.approx(0.6924500897, abs=1e-7)
    assert found[0][0] * weight == pytest.approx(math.atan(1 / math.sqrt(2)) / 2, abs=1e-4)


def test_a_ring_of_eight_is_cut_as_the_theory_says() -> None:
    # Farhi, Goldstone, Gutmann, arXiv:1411.4028: (2p + 1) / (2p + 2) of a ring longer than 2p + 1.
    problem = graph_problem(nx.cycle_graph(8))
    circuit = Statevector([problem], np.float64)
    for p in (1, 2, 3):
        found = optimised(circuit, tree(p, problem.sigma(), 3), problem.sigma(), evaluations=200)
        assert 0.5 - expectation(circuit, found) / 16 == pytest.approx((2 * p + 1) / (2 * p + 2), abs=1e-4)


def test_it_is_never_worse_than_its_start_even_when_stopped_at_once() -> None:
    rng = np.random.default_rng(0)
    problem = IsingProblem(7, np.triu(rng.normal(size=(7, 7)), 1), rng.normal(size=7))
    circuit = Statevector([problem], np.float64)
    start = tree(3, problem.sigma())
    left = iter([1.0, 1.0, *[0.0] * 100])
    stopped = optimised(circuit, start, problem.sigma(), lambda: next(left))
    free = optimised(circuit, start, problem.sigma())
    assert expectation(circuit, free) < expectation(circuit, stopped) < expectation(circuit, start)
