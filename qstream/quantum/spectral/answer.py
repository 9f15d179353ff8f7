"""What a simulated spectral solver answers: the solution, its classical twin, and the record that keeps it honest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from qstream.quantum.spectral.matrices import Array
from schemas.solver import Simulation

Clock = Callable[[], float]
Method = Literal["hhl", "qsvt-inverse", "qsvt-sign", "qsvt-filter"]


@dataclass(frozen=True)
class SpectralRecord:
    """How an answer came about.

    Attributes
    ----------
    execution
        ``simulated-spectral``: the circuit's action on each eigenvalue or singular value, in closed form.
        ``simulated-gates``: the product of the circuit's unitaries.
    needs
        What the simulation has to know beforehand.
    n_qubits
        Of the circuit that is simulated, ancillas included.
    queries
        Applications of the matrix's unitary one after the other: of ``exp(2 pi i A)`` in HHL, of the block encoding in
        QSVT, where it is the degree of the polynomial.
    success_probability
        That one run passes the post-selection. Reading the solution out takes many runs; none is sampled here.
    relative_residual
        ``|A x - b| / |b|`` of a linear system; of a sign or filter the distance from its definition, see the function.
    relative_error
        ``|x - twin| / |twin|``.
    condition
        Ratio of the largest to the smallest singular value; infinite where the method accepts a singular matrix.
    wall_ms, twin_ms
        Simulation and classical twin, each without the other.
    """

    method: Method
    execution: Simulation
    needs: str
    n_qubits: int
    queries: int
    success_probability: float
    relative_residual: float
    relative_error: float
    condition: float
    wall_ms: float
    twin: str
    twin_ms: float
    label: Literal["simulated"] = "simulated"

    def as_dict(self) -> dict[str, Any]:
        """The record as plain data."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class SpectralAnswer:
    """A solution, what the classical twin says of the same problem, and the record."""

    solution: Array
    twin: Array
    record: SpectralRecord


@dataclass(frozen=True, eq=False)
class Simulated:
    """What a simulated circuit leaves after post-selection: the rescaled solution and the probability to get there."""

    solution: Array
    success_probability: float


@dataclass(frozen=True, eq=False)
class Run:
    """One simulation and what it says of itself; the fields are those of `SpectralRecord`."""

    simulated: Simulated
    n_qubits: int
    queries: int
    condition: float


def with_twin(
    simulate: Callable[[], Run],
    twin: Callable[[], Array],
    residual: Callable[[Array], float],
    *,
    method: Method,
    execution: Simulation,
    needs: str,
    twin_name: str,
    timer: Clock,
) -> SpectralAnswer:
    """Run a simulation and its classical twin one after the other, and record both."""
    started = timer()
    run = simulate()
    between = timer()
    expected = twin()
    ended = timer()
    solution = run.simulated.solution
    record = SpectralRecord(
        method=method,
        execution=execution,
        needs=needs,
        n_qubits=run.n_qubits,
        queries=run.queries,
        success_probability=run.simulated.success_probability,
        relative_residual=residual(solution),
        relative_error=relative(solution - expected, expected),
        condition=run.condition,
        wall_ms=(between - started) * 1e3,
        twin=twin_name,
        twin_ms=(ended - between) * 1e3,
    )
    return SpectralAnswer(solution, expected, record)


def relative(difference: Array, whole: Array) -> float:
    """Euclidean norm of `difference` by that of `whole`."""
    return float(np.linalg.norm(difference) / np.linalg.norm(whole))
