"""Continuous-time quantum walks on graphs, and their classical twin, the heat kernel.

``exp(-i L t)`` and ``exp(-L t)`` of one symmetric generator L [n, n], usually `laplacian`; an adjacency matrix walks too. The
eigendecomposition of the last few generators is kept. Source: Farhi and Gutmann 1998.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import real_number
from qstream.errors import ProblemError
from qstream.quantum.ising import MAX_NUMBER, finite_array
from schemas.wording import Shown, must_be

if TYPE_CHECKING:
    import networkx as nx

MAX_NODES: Final = 1024
_SPAN: Final = (-MAX_NUMBER, MAX_NUMBER)


def adjacency(graph: nx.Graph) -> NDArray[np.float64]:
    """Edge weights [n, n] of an undirected graph in the order of its nodes; an edge without a weight counts 1.

    `ProblemError` for a directed graph.
    """
    if graph.is_directed():
        raise ProblemError(must_be("graph", "undirected", Shown("a directed one")))
    at = {node: position for position, node in enumerate(graph)}
    weights = np.zeros((len(at), len(at)))
    for u, v, weight in graph.edges(data="weight", default=1.0):
        weights[at[u], at[v]] += weight
        if u != v:
            weights[at[v], at[u]] += weight
    return weights


def laplacian(graph: nx.Graph | ArrayLike) -> NDArray[np.float64]:
    """``D - W`` [n, n] of a networkx graph, or of symmetric weights W [n, n], whose diagonal is left out."""
    weights = _symmetric("weights", adjacency(graph) if hasattr(graph, "adj") else graph)
    off = weights - np.diag(np.diag(weights))
    result: NDArray[np.float64] = np.diag(off.sum(1)) - off
    return result


def propagator(generator: ArrayLike, t: float) -> NDArray[np.complex128]:
    """The unitary ``exp(-i L t)`` [n, n]."""
    values, vectors = spectrum(generator)
    result: NDArray[np.complex128] = (vectors * np.exp(-1j * values * real_number("t", t, *_SPAN))) @ vectors.T
    return result


def heat_kernel(generator: ArrayLike, t: float) -> NDArray[np.float64]:
    """``exp(-L t)`` [n, n] for t >= 0; for a Laplacian each column is a distribution."""
    values, vectors = spectrum(generator)
    result: NDArray[np.float64] = (vectors * np.exp(-values * real_number("t", t, 0, MAX_NUMBER))) @ vectors.T
    return result


def amplitudes(generator: ArrayLike, t: ArrayLike, source: int | ArrayLike) -> NDArray[np.complex128]:
    """The walker's state [..., n] at the times [...], from a node or from a state [n].

    `ProblemError` if a time is not finite, or the node or the state's shape does not fit.
    """
    values, vectors = spectrum(generator)
    start = vectors.T @ _start(source, len(values))
    phases = np.exp(-1j * np.multiply.outer(_times(t), values))
    result: NDArray[np.complex128] = (phases * start) @ vectors.T
    return result


def probabilities(generator: ArrayLike, t: ArrayLike, source: int | ArrayLike) -> NDArray[np.float64]:
    """Where the walker is found [..., n] at the times [...]; each row sums to 1 for a unit start."""
    return np.abs(amplitudes(generator, t, source)) ** 2


def heat(generator: ArrayLike, t: ArrayLike, source: int | ArrayLike) -> NDArray[np.float64]:
    """The classical twin [..., n] of `probabilities`: heat from a node or from a real distribution [n].

    `ProblemError` if a time is below 0, when heat is not a distribution, or what `amplitudes` refuses, or a complex source.
    """
    values, vectors = spectrum(generator)
    begin = _start(source, len(values))
    if begin.imag.any():
        raise ProblemError(must_be("source", "a node or a real distribution", Shown("complex numbers")))
    times = _times(t)
    if (times < 0).any():
        raise ProblemError(must_be("t", ">= 0", Shown(f"{times.min()}")))
    start = vectors.T @ begin.real
    decays = np.exp(-np.multiply.outer(times, values))
    result: NDArray[np.float64] = (decays * start) @ vectors.T
    return result


def mean_probabilities(generator: ArrayLike, source: int) -> NDArray[np.float64]:
    """The limit [n] of the time average of `probabilities`; eigenvalues closer than 1e-9 of the largest count as one.

    Source: Aharonov et al. 2001. Unlike heat it remembers where it started.
    """
    values, vectors = spectrum(generator)
    _start(source, len(values))
    gaps = np.diff(values) > 1e-9 * max(1.0, float(np.abs(values).max()))
    starts = np.concatenate(([0], np.flatnonzero(gaps) + 1))
    columns = np.add.reduceat(vectors * vectors[source], starts, axis=1)
    result: NDArray[np.float64] = (columns**2).sum(1)
    return result


def spectrum(generator: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues [n], ascending, and eigenvectors [n, n] in columns; kept for the last eight generators.

    `ProblemError` if the generator is not square, not finite, not symmetric, or above 1,024 nodes.
    """
    return _spectrum(_Keyed(_symmetric("generator", generator)))


class _Keyed:
    """A matrix that is known by its digest, so that a cache can hold what follows from it."""

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        self.matrix = matrix
        self.digest = hashlib.sha256(np.ascontiguousarray(matrix).tobytes()).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@lru_cache(maxsize=8)
def _spectrum(generator: _Keyed) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, vectors = np.linalg.eigh(generator.matrix)
    for array in (values, vectors):
        array.flags.writeable = False
    return values, vectors


def _symmetric(name: str, value: ArrayLike) -> NDArray[np.float64]:
    matrix = np.array(value, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not 1 <= len(matrix) <= MAX_NODES:
        raise ProblemError(must_be(name, f"a square matrix of 1 to {MAX_NODES} nodes", Shown(f"shape {matrix.shape}")))
    if not np.isfinite(matrix).all():
        raise ProblemError(must_be(name, "of finite numbers", Shown("one that is not")))
    if not np.allclose(matrix, matrix.T, rtol=1e-12, atol=0):
        raise ProblemError(must_be(name, "symmetric, as of an undirected graph", Shown("another matrix")))
    return matrix


def _times(t: ArrayLike) -> NDArray[np.float64]:
    return finite_array("t", t, np.shape(t))


def _start(source: int | ArrayLike, n: int) -> NDArray[np.complex128]:
    if isinstance(source, (int, np.integer)):
        if not 0 <= source < n:
            raise ProblemError(must_be("source", f"a node, 0 to {n - 1}", source))
        state = np.zeros(n, np.complex128)
        state[source] = 1
        return state
    try:
        state = np.asarray(source, np.complex128)
    except (TypeError, ValueError) as exc:
        raise ProblemError(must_be("source", "a node or a state", Shown(exc))) from exc
    if state.shape != (n,) or not np.isfinite(state).all():
        raise ProblemError(must_be("source", f"a node or a finite state ({n},)", Shown(f"shape {state.shape}")))
    return state
