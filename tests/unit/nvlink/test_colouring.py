"""Colourings: proper, as few or as light as enumeration, bounded by cliques, and what circuits say about themselves."""

from __future__ import annotations

import itertools
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.nvlink import Colouring, colour_graph, generate
from qstream.nvlink.colour_windows import window_problem
from qstream.nvlink.options import NvlinkOptions
from schemas.solver import Reason


def drawn(n: int, density: float, seed: int, *, weighted: bool = False) -> Any:
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((n, n)) < density, 1) * (rng.lognormal(0, 1, (n, n)) if weighted else 1.0)
    return upper + upper.T


def queens(n: int) -> Any:
    row, column = np.divmod(np.arange(n * n), n)
    a, b = np.abs(row[:, None] - row), np.abs(column[:, None] - column)
    return ((a == 0) | (b == 0) | (a == b)) & ~np.eye(n * n, dtype=bool)


def nvlinks() -> Any:
    box = generate("dgx-1v")
    weights = np.zeros((8, 8))
    fast = box.link_kind == 0
    weights[box.link_src[fast], box.link_dst[fast]] = box.link_gb_s[fast]
    return weights


def weight(matrix: Any, colour: Any) -> float:
    return float(sum(matrix[i, j] for i, j in itertools.combinations(range(len(colour)), 2) if colour[i] == colour[j]))


def least(matrix: Any, k: int) -> float:
    return min(weight(matrix, colour) for colour in itertools.product(range(k), repeat=len(matrix)))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.integers(0, 1000))
def test_colourings_are_proper_and_not_below_the_bound(n: int, density: float, seed: int) -> None:
    graph = drawn(n, density, seed)
    found = colour_graph(graph, seed=seed)
    assert weight(graph, found.colour) == found.weight == 0
    assert len(set(found.colour.tolist())) == found.colours
    assert found.bound <= found.colours <= min(n, int(graph.sum(axis=0).max()) + 1)
    peer = nx.greedy_color(nx.from_numpy_array(graph), "DSATUR")
    assert found.colours <= len(set(peer.values()))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 7), st.integers(1, 3), st.floats(0.2, 1), st.integers(0, 1000))
def test_few_vertices_have_the_least_weight_and_it_is_proven(n: int, k: int, density: float, seed: int) -> None:
    graph = drawn(n, density, seed, weighted=True)
    found = colour_graph(graph, colours=k)
    assert found.proven
    assert found.weight == pytest.approx(least(graph, k), abs=1e-9)
    assert found.weight == pytest.approx(weight(graph, found.colour), abs=1e-9)
    assert found.colour.max() < k


@pytest.mark.parametrize(
    ("graph", "colours"),
    [
        (queens(5), 5),
        (queens(6), 7),
        (nx.to_numpy_array(nx.mycielski_graph(5)), 5),  # no triangle, so that cliques prove nothing
        (nx.to_numpy_array(nx.petersen_graph()), 3),
        (nx.to_numpy_array(nx.cycle_graph(9)), 3),
        (np.ones((6, 6)) - np.eye(6), 6),
        (np.zeros((4, 4)), 1),
    ],
)
def test_known_chromatic_numbers_are_found_and_proven(graph: Any, colours: int) -> None:
    found = colour_graph(graph)
    assert (found.colours, found.bound, found.proven) == (colours, colours, True)
    assert weight(graph, found.colour) == 0


def test_tabu_search_goes_below_saturation_order_and_a_deadline_goes_on() -> None:
    graph = drawn(100, 0.5, 1)
    found = colour_graph(graph)
    ways = {record.solver: record.objective for record in found.candidates}
    assert found.solver.solver == "tabu"
    assert found.colours < ways["dsatur"]
    ticks = itertools.count()
    timed = colour_graph(graph, deadline_s=20, clock=lambda: float(next(ticks)))
    assert timed.colours <= found.colours
    assert timed.solver.wall_ms is not None


def test_a_given_number_of_colours_leaves_the_lightest_edges() -> None:
    graph = drawn(80, 0.3, 2, weighted=True)
    found = colour_graph(graph, colours=4)
    ways = {record.solver: record.objective for record in found.candidates}
    assert found.weight == pytest.approx(weight(graph, found.colour))
    assert found.bound <= found.weight < ways["dsatur"]
    clique = np.ones((5, 5)) - np.eye(5)
    assert colour_graph(clique, colours=2).bound == 4  # 3 + 1 edges, of classes of 3 and 2


def test_the_same_arguments_give_the_same_colours() -> None:
    graph = drawn(70, 0.4, 3, weighted=True)
    first, second = (colour_graph(graph, colours=5, seed=9) for _ in range(2))
    assert first.colour.tobytes() == second.colour.tobytes()
    assert first.solver == second.solver


def record_of(found: Colouring, solver: str) -> Any:
    return next(record for record in found.candidates if record.solver == solver)


def test_circuits_colour_the_gpus_of_a_dgx_and_say_what_they_are() -> None:
    found = colour_graph(nvlinks(), colours=4, options=NvlinkOptions(qaoa=True, shots=128))
    assert found.weight == 0
    record = record_of(found, "qaoa-xy")
    assert record.execution == "simulated-subspace"
    assert (record.n, record.depth, record.shots, record.exact) == (8, 4, 128, 0.0)
    assert record.control is not None
    assert record.twin is not None
    assert found.solver.asked == ("qaoa-xy",)
    assert found.circuits == "simulated-subspace"
    three = colour_graph(nvlinks(), colours=3, options=NvlinkOptions(qaoa=True))
    assert record_of(three, "qaoa-xy").objective == three.weight == 50.0


def test_windows_make_a_colouring_no_heavier() -> None:
    graph = drawn(40, 0.5, 5, weighted=True)
    plain = colour_graph(graph, colours=3)
    for terms in (NvlinkOptions(qaoa=True, circuit_layers=2, shots=64), NvlinkOptions(hqc=True)):
        found = colour_graph(graph, colours=3, options=terms)
        assert found.weight <= plain.weight
        assert found.weight == pytest.approx(weight(graph, found.colour))
        assert len(found.candidates) > len(plain.candidates)


def test_energies_of_a_window_are_the_weight_of_the_whole_graph() -> None:
    rng = np.random.default_rng(0)
    graph, colour = drawn(12, 0.6, 6, weighted=True), rng.integers(0, 3, 12)
    inside = np.array([1, 4, 7, 8])
    problem = window_problem(graph, colour, inside, 3)
    for _ in range(10):
        now = colour.copy()
        now[inside] = rng.integers(0, 3, 4)
        assert problem.energy(now[inside]) == pytest.approx(weight(graph, now))


def test_too_many_colours_for_a_circuit_and_a_missing_device_are_told() -> None:
    many = colour_graph(drawn(90, 0.95, 0), colours=65, options=NvlinkOptions(qaoa=True))
    assert many.fallback_reason == Reason.TOO_LARGE
    absent = colour_graph(nvlinks(), colours=4, options=NvlinkOptions(qaoa=True, device="nowhere"))
    assert absent.fallback_reason is not None
    assert absent.weight == 0


@pytest.mark.parametrize(
    ("matrix", "colours", "message"),
    [
        (np.ones((2, 3)), None, "square"),
        (np.eye(3), None, "diagonal"),
        (np.triu(np.ones((3, 3)), 1), None, "symmetric"),
        ([[0, np.nan], [np.nan, 0]], None, "finite"),
        ([[0, -1], [-1, 0]], None, "at least 0"),
        (np.zeros((0, 0)), None, "1 to 2048"),
        (np.zeros((3, 3)), 0, "colours"),
    ],
)
def test_what_is_no_graph_is_named(matrix: Any, colours: int | None, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        colour_graph(matrix, colours=colours)
