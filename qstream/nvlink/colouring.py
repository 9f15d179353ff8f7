"""Colouring of graphs: as few colours as possible, or as little weight as possible between vertices of one of k colours.

Vertices that share an edge should not do a thing at once: GPUs that share links, or transfers that share ports; colours are the
slots in which they do it. Axes: n vertices, k colours.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import array, real_number, whole_number
from qstream.errors import ProblemError
from qstream.nvlink import colour_kernels as kernels
from qstream.nvlink.colour_windows import Coloured, recoloured
from qstream.nvlink.options import NvlinkOptions
from qstream.quantum.portfolio import Clock
from qstream.quantum.record import Remaining
from qstream.quantum.window import Runtime
from schemas.solver import Execution, Reason, SolverName, SolverRecord
from schemas.wording import Shown, must_be

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
MAX_VERTICES: Final = 2048
STEPS: Final = 400_000  # moves of tabu search at one number of colours, without a deadline
_MOST: Final = 1_000_000_000  # elementary steps of them
_CHUNK: Final = 40_000_000  # elementary steps between two looks at the clock, about .05 s
_BRANCHES: Final = 60_000_000  # elementary steps of branch and bound
_CLIQUES: Final = 40  # vertices that cliques grow from
_SMALL: Final = 1e-12  # of all weight together: what sums may differ by


@dataclass(frozen=True, slots=True, eq=False)
class Colouring:
    """The colour of each vertex, int32 [n], and how good that is.

    colours : how many there are to choose from, and, where that was to be found, how many are used
    weight : of edges between equal colours; 0 for a proper colouring
    bound : no colouring has fewer colours, or, where their number was given, less weight
    proven : whether the bound is reached
    solver : the record of the answer; its `objective` is the number of colours, or the weight where the number was given
    candidates : the same of each way that was tried; of windows the weight, at the colours that `variant` says
    fallback_reason : why circuits that were asked for did not answer
    circuits : how circuits ran, whatever gave the answer; None without
    """

    colour: NDArray[np.int32]
    colours: int
    weight: float
    bound: float
    proven: bool
    solver: SolverRecord
    candidates: tuple[SolverRecord, ...]
    fallback_reason: Reason | None = None
    circuits: Execution | None = None


def colour_graph(
    adjacency: ArrayLike,
    *,
    colours: int | None = None,
    options: NvlinkOptions | None = None,
    deadline_s: float | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    clock: Clock = time.perf_counter,
) -> Colouring:
    """Colour the vertices of a graph.

    Without `colours`, minimises their number: saturation order (DSATUR), branch and bound within a fixed number of steps, which
    proves the optimum of small graphs, then tabu search at one colour less, again and again. With `colours`, minimises the
    weight of edges between vertices of one colour, by the same three. Without a deadline the steps are fixed, and equal
    arguments give equal bytes.

    Parameters
    ----------
    adjacency : float or bool [n, n]
        Weight of each edge, symmetric, finite and >= 0, with zeros on the diagonal; at most 2,048 vertices.
    colours
        How many there are, 1 to 2,048; none: as few as possible, and weights do not matter.
    options
        `qaoa`: circuits colour the whole graph where k^n is at most 65,536 (`circuit_layers` deep, by default as many as
        colours), else windows of vertices in conflict; at one colour less than were needed, where their number is open. Their
        answer counts only if the weight falls; the record has exact optimum, control at depth 0 and annealing beside it. `hqc`:
        turn after turn until none wins, by enumeration without `qaoa`.
    deadline_s
        From the call, by `clock`: tabu search goes on until then. It may be missed by some hundredths of a second.
    seed
        Of everything that is drawn.
    runtime
        Where ``options.device`` is to be found.

    Raises
    ------
    ProblemError
        The matrix or a number breaks one of these rules.
    """
    terms = options or NvlinkOptions()
    graph = _graph(adjacency)
    seed = whole_number("seed", seed, 0, 2**63 - 1)
    end_s = None if deadline_s is None else real_number("deadline_s", deadline_s, 0)
    k = None if colours is None else whole_number("colours", colours, 1, MAX_VERTICES)
    began = clock()
    search = _Search(graph, seed, (lambda: math.inf) if end_s is None else (lambda: end_s - (clock() - began)))
    if k is None:
        answer, windowed = _fewest(search)
    else:
        answer = windowed = _lightest(search, k)
    done = recoloured(graph.matrix, windowed.colour, windowed.k, terms, seed, search.remaining_s, runtime)
    return _colouring(search, answer, windowed, done, fixed=k is not None, timed=None if end_s is None else clock() - began)


def saturated(adjacency: ArrayLike) -> Colouring:
    """The peer, and the first step of `colour_graph`: saturation order alone (DSATUR). Errors as there."""
    search = _Search(_graph(adjacency), 0, lambda: math.inf)
    answer, _ = _saturated(search, None)
    search.bound, search.tried["dsatur"] = 1.0, answer.k
    return _colouring(search, answer, answer, Coloured(answer.colour), fixed=False, timed=None)


@dataclass(frozen=True, slots=True, eq=False)
class _Graph:
    """A graph by its matrix and in compressed rows, as in `colour_kernels`."""

    matrix: Floats
    first: Ints
    neighbour: Ints
    weight: Floats
    small: float

    @property
    def n(self) -> int:
        return len(self.matrix)

    @property
    def rows(self) -> tuple[Ints, Ints, Floats]:
        return self.first, self.neighbour, self.weight

    def cost(self, colour: NDArray[np.integer]) -> float:
        """Weight of edges between equal colours; exactly 0 without any."""
        return float(self.matrix[colour[:, None] == colour].sum() / 2)


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """Colours of vertices among `k`, their weight, and what found them."""

    colour: Ints
    k: int
    weight: float
    solver: SolverName


@dataclass(slots=True, eq=False)
class _Search:
    """What is known so far: the bound, whether it was reached, and the objective of each way that was tried."""

    graph: _Graph
    seed: int
    remaining_s: Remaining
    bound: float = 0.0
    tried: dict[SolverName, float] = field(default_factory=dict)

    def has_time(self) -> bool:
        return self.remaining_s() > 0


def _graph(adjacency: ArrayLike) -> _Graph:
    given = np.asarray(adjacency)
    matrix = array("adjacency", given.astype(np.float64) if given.dtype == np.bool_ else given, np.float64, "vertices vertices")
    n = len(matrix)
    if matrix.shape != (n, n) or not 1 <= n <= MAX_VERTICES:
        raise ProblemError(must_be("adjacency", f"square, of 1 to {MAX_VERTICES} vertices", Shown(f"shape {matrix.shape}")))
    if not np.isfinite(matrix).all() or matrix.min() < 0:
        raise ProblemError(must_be("adjacency", "finite and at least 0", Shown("what is not")))
    if matrix.diagonal().any():
        at = int(np.flatnonzero(matrix.diagonal())[0])
        raise ProblemError(must_be("adjacency", "0 on the diagonal", Shown(f"{matrix[at, at]:g} at vertex {at}")))
    if not np.array_equal(matrix, matrix.T):
        a, b = np.argwhere(matrix != matrix.T)[0]
        shown = Shown(f"{matrix[a, b]:g} at {a}, {b} and {matrix[b, a]:g} at {b}, {a}")
        raise ProblemError(must_be("adjacency", "symmetric", shown))
    joined = matrix > 0
    entry = np.flatnonzero(joined)
    first = np.concatenate([[0], np.count_nonzero(joined, axis=1).cumsum()])
    return _Graph(matrix, first, entry % n, matrix.ravel()[entry], _SMALL * float(matrix.sum()))


def _fewest(search: _Search) -> tuple[_Answer, _Answer]:
    """A proper colouring of few colours, and that at one colour less with the least weight, where that was looked for."""
    graph = search.graph
    proper, order = _saturated(search, None)
    search.tried["dsatur"] = proper.k
    search.bound = max(1, len(_clique(graph)))
    short = proper
    while proper.k > search.bound:
        below, proven = _branched(search, order, proper.k - 1, float(graph.weight.min()) / 2)  # the lightest edge is too much
        if below is not None:
            proper = short = below
            search.tried["exact"] = proper.k
        elif proven:
            search.bound = proper.k
            search.tried["exact"] = proper.k
        else:
            break
    while proper.k > search.bound and search.has_time():
        short = _tabu(search, _without_smallest(graph, proper), proper.k - 1)
        if short.weight > 0:
            break
        proper = short
        search.tried["tabu"] = proper.k
    return proper, short


def _lightest(search: _Search, k: int) -> _Answer:
    """A colouring of k colours with little weight."""
    graph = search.graph
    best, order = _saturated(search, k)
    search.tried["dsatur"] = best.weight
    search.bound = _least(graph, _clique(graph), k)
    if best.weight <= search.bound + graph.small:
        return best
    found, proven = _branched(search, order, k, best.weight)
    best = found or best
    if proven:
        search.bound = search.tried["exact"] = best.weight
        return best
    if search.has_time():
        tabu = _tabu(search, best.colour, k)
        search.tried["tabu"] = tabu.weight
        best = tabu if tabu.weight < best.weight - graph.small else best
    return best


def _saturated(search: _Search, k: int | None) -> tuple[_Answer, Ints]:
    """DSATUR with k colours, or as many as it takes, and the order in which it coloured."""
    graph = search.graph
    most = int(np.diff(graph.first).max()) + 1
    colour, order = np.empty(graph.n, np.int64), np.empty(graph.n, np.int64)
    used = int(kernels.dsatur(*graph.rows, most if k is None else k, colour, order))
    return _Answer(colour, used if k is None else k, graph.cost(colour), "dsatur"), order


def _clique(graph: _Graph) -> Ints:
    """Vertices of a large clique."""
    found = np.empty(graph.n, np.int64)
    starts = np.argsort(-np.diff(graph.first), kind="stable")[:_CLIQUES]
    size = kernels.clique(graph.first, graph.neighbour, starts, found)
    return found[:size]


def _least(graph: _Graph, clique: Ints, k: int) -> float:
    """Weight that no colouring of k colours has less of: the lightest edges of the clique, as many as must have one colour."""
    each, rest = divmod(len(clique), k)
    edges = k * each * (each - 1) // 2 + rest * each
    inside = graph.matrix[np.ix_(clique, clique)][np.triu_indices(len(clique), 1)]
    return float(np.sort(inside)[:edges].sum())


def _branched(search: _Search, order: Ints, k: int, lowest: float) -> tuple[_Answer | None, bool]:
    """What branch and bound finds below `lowest`, and whether it looked at everything."""
    graph = search.graph
    steps = _BRANCHES // (len(graph.weight) // graph.n + k + 10)
    best = np.full(graph.n, -1)
    _, proven = kernels.branch(*graph.rows, order, k, steps, graph.small, lowest, best)
    found = None if best[0] < 0 else _Answer(best, k, graph.cost(best), "exact")
    return found, bool(proven)


def _without_smallest(graph: _Graph, proper: _Answer) -> Ints:
    """Colours less the one of fewest vertices, whose vertices take the colour that they feel least of."""
    sizes = np.bincount(proper.colour, minlength=proper.k)
    gone = int(sizes.argmin())
    colour = np.where(proper.colour == proper.k - 1, gone, proper.colour)
    for v in np.flatnonzero(proper.colour == gone).tolist():
        others = np.flatnonzero(proper.colour != gone)
        colour[v] = np.bincount(colour[others], graph.matrix[v, others], proper.k - 1).argmin()
    return colour


def _tabu(search: _Search, colour: Ints, k: int) -> _Answer:
    """The lightest that tabu search finds from a colouring: in fixed steps, or for as long as there is time."""
    graph = search.graph
    now, best = colour.copy(), colour.copy()
    until, lowest, step = np.zeros((graph.n, k), np.int64), math.inf, 0
    timed, a_move = search.remaining_s() < math.inf, len(graph.weight) // graph.n + 20 * k
    chunk = max(1000, _CHUNK // a_move) if timed else min(STEPS, _MOST // a_move)
    while step == 0 or (timed and lowest > graph.small and search.has_time()):
        seed = np.uint64(search.seed * 1_000_003 + k * 10_007 + step & 2**64 - 1)
        lowest = float(kernels.tabu(*graph.rows, now, until, best, lowest, graph.small, step, chunk, seed))
        step += chunk
    return _Answer(best, k, graph.cost(best), "tabu")


def _colouring(
    search: _Search, answer: _Answer, windowed: _Answer, done: Coloured, *, fixed: bool, timed: float | None
) -> Colouring:
    """The answer, or that of windows where it is better, with its records."""
    graph = search.graph
    turned = _Answer(done.colour, windowed.k, graph.cost(done.colour), done.solver)
    lighter = turned.weight < answer.weight - graph.small
    better = lighter if fixed else turned.weight == 0 and turned.k < answer.k
    best = turned if better else answer
    value = best.weight if fixed else float(best.k)
    proven = value <= search.bound + graph.small
    records = [
        SolverRecord(solver=name, n=graph.n, objective=float(reached), bound=search.bound, seed=search.seed)
        for name, reached in search.tried.items()
    ]
    record = SolverRecord(
        solver=best.solver,
        execution=done.execution if better else "classical",
        asked=done.asked,
        n=graph.n,
        depth=done.depth if better else None,
        shots=done.shots if better else None,
        objective=value,
        bound=search.bound,
        exact=value if proven else None,
        seed=search.seed,
        wall_ms=None if timed is None else 1e3 * timed,
    )
    return Colouring(
        best.colour.astype(np.int32),
        best.k,
        best.weight,
        search.bound,
        proven,
        record,
        (*records, *done.records),
        done.fallback_reason,
        done.circuits,
    )
