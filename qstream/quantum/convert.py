"""Other forms of a problem, both ways: QUBO, terms, graphs, and linear and quadratic biases by name."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from qstream.quantum.ising import MAX_SPINS, IsingProblem, finite_array
from qstream.quantum.onehot import MAX_LEVELS, MAX_VARIABLES, OneHotProblem
from schemas.wording import Shown, must_be

MAX_PAIR_COSTS: Final = 1 << 25  # 256 MiB
Vartype = Literal["SPIN", "BINARY"]


def from_qubo(qubo: ArrayLike | Mapping[tuple[Hashable, Hashable], float], offset: float = 0.0) -> IsingProblem:
    """Minimise ``x^T Q x + offset`` over bits x: bit 0 is spin +1, bit 1 is spin -1.

    Parameters
    ----------
    qubo : float64 [n, n], or (u, v) to value
        Any square matrix; entries (i, j) and (j, i) add up. Of a dict, the names in order of appearance are the labels.

    Raises
    ------
    ProblemError
        The matrix is not square or a number is not finite.
    """
    if isinstance(qubo, Mapping):
        labels = _names(pair for pair in qubo)
        at = {label: i for i, label in enumerate(labels)}
        matrix = np.zeros((len(labels), len(labels)))
        for (u, v), value in qubo.items():
            matrix[at[u], at[v]] += _number(f"Q[{u!r}, {v!r}]", value)
    else:
        labels = ()
        matrix = np.asarray(qubo)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not 1 <= len(matrix) <= MAX_SPINS:
            raise ProblemError(must_be("Q", f"a square matrix of 1 to {MAX_SPINS} bits", Shown(f"shape {matrix.shape}")))
        matrix = finite_array("Q", matrix, matrix.shape)
    # x = (1 - s) / 2, so x_i x_j = (1 - s_i - s_j + s_i s_j) / 4 and x_i^2 = x_i = (1 - s_i) / 2
    pairs = np.triu(matrix, 1) + np.tril(matrix, -1).T
    linear = np.diag(matrix)
    fields = -linear / 2 - (pairs.sum(0) + pairs.sum(1)) / 4
    return IsingProblem(len(matrix), pairs / 4, fields, offset + float(linear.sum() / 2 + pairs.sum() / 4), labels)


def to_qubo(problem: IsingProblem) -> tuple[NDArray[np.float64], float]:
    """Upper triangular Q [n, n] and the offset, so that ``x^T Q x + offset`` is the energy of the spins ``1 - 2 x``."""
    qubo = 4 * problem.J
    np.fill_diagonal(qubo, -2 * (problem.h + problem.symmetric().sum(1)))
    return qubo, problem.offset + float(problem.h.sum() + problem.J.sum())


def from_terms(n: int, terms: Iterable[tuple[Sequence[int], float]], labels: tuple[Hashable, ...] = ()) -> IsingProblem:
    """Sum of products of spins: ``((), c)`` a constant, ``((i,), h)`` a field, ``((i, j), J)`` a coupling; equal ones add up."""
    couplings, fields, offset = _empty(n)
    for at, value in terms:
        weight = _number(f"term {tuple(at)}", value)
        if any(not 0 <= i < n for i in at) or len(at) > 2 or len(set(at)) < len(at):
            raise ProblemError(must_be("a term", f"of at most two different spins from 0 to {n - 1}", tuple(at)))
        if len(at) == 2:
            couplings[min(at), max(at)] += weight
        elif len(at) == 1:
            fields[at[0]] += weight
        else:
            offset += weight
    return IsingProblem(n, couplings, fields, offset, labels)


def to_terms(problem: IsingProblem) -> list[tuple[tuple[int, ...], float]]:
    """What `from_terms` reads, without terms that are 0."""
    terms: list[tuple[tuple[int, ...], float]] = [((), problem.offset)]
    terms += [((i,), float(value)) for i, value in enumerate(problem.h)]
    terms += [((int(i), int(j)), float(problem.J[i, j])) for i, j in np.argwhere(problem.J)]
    return [(at, value) for at, value in terms if value]


def from_networkx(graph: Any, kind: Literal["maxcut", "ising"] = "maxcut", weight: str = "weight") -> IsingProblem:
    """The problem of an undirected networkx graph; the nodes are the labels, an edge without `weight` has 1.

    ``maxcut``: the energy is minus the weight of the edges between +1 and -1. ``ising``: edges are couplings J, the nodes'
    attribute ``h`` is the field.
    """
    labels, edges = graph_edges(graph, weight)
    if kind == "maxcut":
        return maxcut(labels, edges)
    if kind != "ising":
        raise ProblemError(must_be("kind", "maxcut or ising", kind))
    fields = [((i,), value) for i, (_, value) in enumerate(graph.nodes(data="h", default=0.0))]
    return from_terms(len(labels), [*fields, *(((i, j), value) for i, j, value in edges)], labels)


def coloring_of(graph: Any, colors: int, weight: str = "weight") -> OneHotProblem:
    """Colour a networkx graph's nodes, in their order, with few conflicts: the energy is the weight of edges of one colour."""
    labels, edges = graph_edges(graph, weight)
    return coloring(len(labels), edges, colors)


def maxcut(labels: Sequence[Hashable], edges: Iterable[tuple[int, int, float]]) -> IsingProblem:
    """Minus the weight of the cut, over edges (i, j, weight) between numbered nodes."""
    terms: list[tuple[tuple[int, ...], float]] = []
    for i, j, value in edges:
        half = _number(f"edge ({i}, {j})", value) / 2
        terms += [((i, j), half), ((), -half)]
    return from_terms(len(labels), terms, tuple(labels))


def coloring(n: int, edges: Iterable[tuple[int, int, float]], colors: int) -> OneHotProblem:
    """The weight of edges (i, j, weight) whose nodes have one colour, over `colors` colours for each of n nodes."""
    if not 1 <= colors <= MAX_LEVELS:
        raise ProblemError(must_be("colors", f"1 to {MAX_LEVELS}", colors))
    if n > MAX_VARIABLES:
        raise ProblemError(must_be("the graph", f"of at most {MAX_VARIABLES} nodes to be coloured", n))
    edges = list(edges)
    if len(edges) * colors**2 > MAX_PAIR_COSTS:
        raise ProblemError(
            must_be(
                "colors", f"so few that edges have at most {MAX_PAIR_COSTS} costs", Shown(f"{len(edges)} edges of {colors}^2")
            )
        )
    pair: dict[tuple[int, int], NDArray[np.float64]] = {}
    same = np.eye(colors)
    for i, j, value in edges:
        if not (0 <= i < n and 0 <= j < n and i != j):
            raise ProblemError(must_be("an edge", f"between two different nodes from 0 to {n - 1}", (i, j)))
        at = (min(i, j), max(i, j))
        pair[at] = pair.get(at, 0) + _number(f"edge ({i}, {j})", value) * same
    return OneHotProblem((colors,) * n, pair=pair)


def graph_edges(graph: Any, weight: str) -> tuple[tuple[Hashable, ...], list[tuple[int, int, float]]]:
    """Nodes in order and edges by their numbers; `ProblemError` for a directed graph, a loop or too many nodes."""
    if graph.is_directed():
        raise ProblemError(must_be("the graph", "undirected", Shown("a directed one")))
    labels = tuple(graph.nodes)
    if not 1 <= len(labels) <= MAX_SPINS:
        raise ProblemError(must_be("the graph", f"of 1 to {MAX_SPINS} nodes", len(labels)))
    at = {label: i for i, label in enumerate(labels)}
    edges = [(at[u], at[v], _number(f"edge ({u!r}, {v!r})", w)) for u, v, w in graph.edges(data=weight, default=1.0)]
    if loops := [labels[i] for i, j, _ in edges if i == j]:
        raise ProblemError(must_be("an edge", "between two nodes", Shown(f"one of {loops[0]!r} to itself")))
    return labels, edges


def from_bqm(
    linear: Mapping[Hashable, float],
    quadratic: Mapping[tuple[Hashable, Hashable], float],
    offset: float = 0.0,
    vartype: Vartype = "SPIN",
) -> IsingProblem:
    """Linear and quadratic biases by name, as dimod's binary quadratic models hold them; bit 0 is spin +1."""
    if vartype not in ("SPIN", "BINARY"):
        raise ProblemError(must_be("vartype", "SPIN or BINARY", vartype))
    if same := [pair for pair in quadratic if pair[0] == pair[1]]:
        raise ProblemError(must_be("quadratic", "of two different variables each", same[0]))
    labels = _names([*((name,) for name in linear), *quadratic])
    if vartype == "BINARY":
        diagonal = {(name, name): linear.get(name, 0.0) for name in labels}
        return from_qubo(diagonal | dict(quadratic), offset)
    at = {label: i for i, label in enumerate(labels)}
    terms = [((at[name],), value) for name, value in linear.items()]
    couplings = [((at[u], at[v]), value) for (u, v), value in quadratic.items()]
    return from_terms(len(labels), [((), offset), *terms, *couplings], labels)


def to_bqm(
    problem: IsingProblem, vartype: Vartype = "SPIN"
) -> tuple[dict[Hashable, float], dict[tuple[Hashable, Hashable], float], float]:
    """What `from_bqm` reads: linear and quadratic biases by label, and the offset."""
    if vartype == "BINARY":
        matrix, offset = to_qubo(problem)
        diagonal, pairs = np.diag(matrix), np.triu(matrix, 1)
    else:
        diagonal, pairs, offset = problem.h, problem.J, problem.offset
    names = problem.labels
    quadratic = {(names[i], names[j]): float(pairs[i, j]) for i, j in np.argwhere(pairs)}
    return dict(zip(names, diagonal.tolist(), strict=True)), quadratic, offset


def _names(groups: Iterable[Iterable[Hashable]]) -> tuple[Hashable, ...]:
    """All names in order of appearance."""
    names = tuple(dict.fromkeys(name for group in groups for name in group))
    if not 1 <= len(names) <= MAX_SPINS:
        raise ProblemError(must_be("the problem", f"of 1 to {MAX_SPINS} variables", len(names)))
    return names


def _empty(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= MAX_SPINS:
        raise ProblemError(must_be("n", f"1 to {MAX_SPINS} spins", n))
    return np.zeros((n, n)), np.zeros(n), 0.0


def _number(name: str, value: Any) -> float:
    return float(finite_array(name, value, ()))
