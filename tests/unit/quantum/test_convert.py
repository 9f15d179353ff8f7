"""Every form of a problem has the same energies, in both directions."""

from __future__ import annotations

import itertools
import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.quantum.convert import (
    coloring_of,
    from_bqm,
    from_networkx,
    from_qubo,
    from_terms,
    to_bqm,
    to_qubo,
    to_terms,
)
from qstream.quantum.ising import IsingProblem, basis_spins, indices_of, spins_of
from qstream.quantum.onehot import OneHotProblem

# Eighths: sums and products of few of them are exact in binary.
numbers = st.integers(-64, 64).map(lambda number: number / 8)


@st.composite
def problems(draw, most=7):
    n = draw(st.integers(1, most))
    couplings = np.zeros((n, n))
    for i, j in itertools.combinations(range(n), 2):
        couplings[i, j] = draw(numbers)
    return IsingProblem(n, couplings, np.array([draw(numbers) for _ in range(n)]), draw(numbers))


def all_bits(n: int) -> np.ndarray:
    return np.array(list(itertools.product((0, 1), repeat=n)))


@given(problems())
def test_the_diagonal_lists_states_with_qubit_0_first(problem):
    spins = np.array(list(itertools.product((1, -1), repeat=problem.n)))  # 00..0, 00..1, ... as bits
    assert np.array_equal(problem.diagonal(), problem.energies(spins))
    assert np.array_equal(spins_of(np.arange(1 << problem.n), problem.n), spins)
    assert np.array_equal(indices_of(spins), np.arange(1 << problem.n))


@given(problems())
def test_a_qubo_and_back_is_the_same_problem(problem):
    qubo, offset = to_qubo(problem)
    x = all_bits(problem.n)
    assert np.array_equal(np.einsum("si,ij,sj->s", x, qubo, x) + offset, problem.diagonal())
    assert from_qubo(qubo, offset).digest() == problem.digest()


@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(numbers, min_size=n, max_size=n), min_size=n, max_size=n)), numbers)
def test_any_square_matrix_is_a_qubo(rows, offset):
    matrix = np.array(rows)
    x = all_bits(len(matrix))
    expected = np.einsum("si,ij,sj->s", x, matrix, x) + offset
    assert np.array_equal(from_qubo(matrix, offset).diagonal(), expected)
    named = {(f"x{i}", f"x{j}"): value for (i, j), value in np.ndenumerate(matrix)}
    problem = from_qubo(named, offset)
    assert problem.labels == tuple(f"x{i}" for i in range(len(matrix)))
    assert np.array_equal(problem.diagonal(), expected)


@given(problems())
def test_terms_and_back_are_the_same_problem(problem):
    assert from_terms(problem.n, to_terms(problem)).digest() == problem.digest()


def test_equal_terms_add_up_in_any_order():
    problem = from_terms(3, [((2, 0), 1), ((0, 2), 0.5), ((1,), 2), ((), 3), ((), 1)])
    assert problem.J[0, 2] == 1.5
    assert problem.h.tolist() == [0, 2, 0]
    assert problem.offset == 4


@given(problems(), st.sampled_from(["SPIN", "BINARY"]))
def test_biases_by_name_and_back_are_the_same_problem(problem, vartype):
    named = IsingProblem(problem.n, problem.J, problem.h, problem.offset, tuple(f"q{i}" for i in range(problem.n)))
    linear, quadratic, offset = to_bqm(named, vartype)
    values = basis_spins(problem.n) if vartype == "SPIN" else all_bits(problem.n)
    at = {name: i for i, name in enumerate(named.labels)}
    energies = offset + sum(bias * values[:, at[name]] for name, bias in linear.items())
    energies = energies + sum(bias * values[:, at[u]] * values[:, at[v]] for (u, v), bias in quadratic.items())
    assert np.array_equal(energies, problem.diagonal())
    back = from_bqm(linear, quadratic, offset, vartype)
    assert back.labels == named.labels
    assert back.digest() == problem.digest()


@given(problems(), st.data())
def test_a_gauge_moves_energies_to_the_flipped_states_and_undoes_itself(problem, data):
    flips = np.array(data.draw(st.lists(st.booleans(), min_size=problem.n, max_size=problem.n)))
    turned = problem.gauge(flips)
    spins = basis_spins(problem.n)
    assert np.array_equal(turned.energies(spins), problem.energies(np.where(flips, -spins, spins)))
    assert turned.gauge(flips).digest() == problem.digest()
    assert turned.sigma() == problem.sigma()


@given(problems(), st.data())
def test_another_order_of_the_spins_has_the_same_energies(problem, data):
    order = data.draw(st.permutations(range(problem.n)))
    back = [order.index(i) for i in range(problem.n)]
    moved = from_terms(problem.n, [(tuple(back[i] for i in at), value) for at, value in to_terms(problem)])
    spins = basis_spins(problem.n)
    assert np.array_equal(moved.energies(spins[:, order]), problem.energies(spins))


@given(problems(), numbers)
def test_an_offset_shifts_all_energies_and_changes_the_digest(problem, shift):
    shifted = IsingProblem(problem.n, problem.J, problem.h, problem.offset + shift)
    assert np.array_equal(shifted.diagonal(), problem.diagonal() + shift)
    assert (shifted.digest() == problem.digest()) == (shift == 0)


@given(problems(), st.data())
def test_fixed_spins_leave_the_energies_of_the_others(problem, data):
    fixed = data.draw(st.dictionaries(st.integers(0, problem.n - 1), st.sampled_from([-1, 1]), max_size=problem.n - 1))
    smaller = problem.fix(fixed)
    free = [i for i in range(problem.n) if i not in fixed]
    assert smaller.labels == tuple(free)
    spins = np.zeros((1 << len(free), problem.n))
    spins[:, free] = basis_spins(len(free))
    for i, spin in fixed.items():
        spins[:, i] = spin
    assert np.array_equal(smaller.diagonal(), problem.energies(spins))


@pytest.mark.parametrize("fixed", [{3: 1}, {-1: 1}, {0: 0}, {0: 1, 1: 1, 2: -1}])
def test_what_cannot_be_fixed_is_refused(fixed):
    with pytest.raises(ProblemError, match="fixed"):
        IsingProblem(3, np.zeros((3, 3))).fix(fixed)


def test_maxcut_counts_the_cut_of_networkx():
    graph = nx.gnp_random_graph(9, 0.5, seed=1)
    rng = np.random.default_rng(0)
    nx.set_edge_attributes(graph, {edge: float(rng.integers(1, 9)) for edge in graph.edges}, "weight")
    graph = nx.relabel_nodes(graph, {i: f"node {i}" for i in graph})
    problem = from_networkx(graph)
    for spins in spins_of(np.arange(512), 9)[::37]:
        side = {label for label, spin in zip(problem.labels, spins, strict=True) if spin < 0}
        assert problem.energy(spins) == -nx.cut_size(graph, side, weight="weight")


def test_the_ising_kind_takes_couplings_of_edges_and_fields_of_nodes():
    graph = nx.Graph()
    graph.add_node("a", h=0.5)
    graph.add_edge("b", "a", weight=-2)
    problem = from_networkx(graph, "ising")
    assert problem.labels == ("a", "b")
    assert (problem.J[0, 1], *problem.h) == (-2, 0.5, 0)


def test_coloring_counts_conflicts():
    graph = nx.cycle_graph(5)
    problem = coloring_of(graph, 3)
    for levels in itertools.product(range(3), repeat=5):
        conflicts = sum(levels[u] == levels[v] for u, v in graph.edges)
        assert problem.energy(levels) == conflicts


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.data())
def test_one_bit_a_level_has_the_same_energies_and_the_same_optimum(sizes, data):
    def costs(*shape: int) -> np.ndarray:
        return np.array(data.draw(st.lists(numbers, min_size=math.prod(shape), max_size=math.prod(shape)))).reshape(shape)

    pair = {(i, j): costs(sizes[i], sizes[j]) for i, j in itertools.combinations(range(len(sizes)), 2)}
    problem = OneHotProblem(tuple(sizes), tuple(costs(k) for k in sizes), pair, data.draw(numbers))
    bits = problem.to_ising()
    assert bits.labels == tuple((i, a) for i, k in enumerate(sizes) for a in range(k))
    spins = basis_spins(bits.n)
    levels, valid = problem.decode(spins)
    energies = bits.energies(spins)
    assert valid.sum() == problem.states
    np.testing.assert_allclose(energies[valid], problem.energies(levels[valid]), atol=1e-9)
    assert energies[~valid].min(initial=np.inf) > problem.diagonal().min()


def test_the_penalty_is_paid_for_each_level_too_many_or_too_few():
    problem = OneHotProblem((2, 2))
    bits = problem.to_ising(penalty=3)
    assert bits.energy([-1, -1, -1, 1]) == 3
    assert bits.energy([1, 1, 1, 1]) == 6
    levels, valid = problem.decode([[1, 1, 1, -1], [-1, 1, 1, -1]])
    assert levels.tolist() == [[0, 1], [0, 1]]
    assert valid.tolist() == [False, True]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: from_qubo(np.zeros((2, 3))), "shape"),
        (lambda: from_qubo({}), "the problem must be of 1 to 4096 variables, got 0"),
        (lambda: from_qubo({("a", "b"): math.nan}), "nan"),
        (lambda: from_qubo([[1, "x"], [0, 1]]), "Q must be an array of numbers"),
        (lambda: from_qubo([[10**400]]), "Q must be an array of numbers"),
        (lambda: from_terms(0, []), "n must be .*got 0"),
        (lambda: from_terms(2, [((0, 0), 1)]), "two different spins"),
        (lambda: from_terms(2, [((0, 2), 1)]), "two different spins"),
        (lambda: from_terms(4, [((0, 1, 2), 1)]), "two different spins"),
        (lambda: from_terms(2, [((0, 1), 10**400)]), r"term \(0, 1\) must be a number"),
        (lambda: from_bqm({"a": 1}, {("a", "a"): 1}), "two different variables"),
        (lambda: from_bqm({"a": 1}, {}, 0, "TERNARY"), "SPIN or BINARY"),
        (lambda: from_networkx(nx.DiGraph([(0, 1)])), "directed"),
        (lambda: from_networkx(nx.Graph([(0, 0)])), "itself"),
        (lambda: from_networkx(nx.Graph()), "the graph must be of 1 to 4096 nodes, got 0"),
        (lambda: from_networkx(nx.path_graph(2), "cut"), "maxcut or ising"),
        (lambda: coloring_of(nx.path_graph(2), 0), "colors must be .*got 0"),
        (lambda: OneHotProblem((2,)).to_ising(penalty=0), "penalty"),
        (lambda: IsingProblem(2, np.zeros((2, 2))).gauge([1, 0]), "mask"),
    ],
)
def test_wrong_input_is_named(build, message):
    with pytest.raises(ProblemError, match=message):
        build()
