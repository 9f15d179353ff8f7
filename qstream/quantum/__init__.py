"""Simulated quantum engines, devices by name, and the classical solvers that keep their record honest; see README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy import lazy_names

if TYPE_CHECKING:
    from qstream.quantum.convert import from_networkx as from_networkx
    from qstream.quantum.convert import from_qubo as from_qubo
    from qstream.quantum.ising import IsingProblem as IsingProblem
    from qstream.quantum.onehot import OneHotProblem as OneHotProblem
    from qstream.quantum.qaoa.fixed_weight import weight_state as weight_state
    from qstream.quantum.record import SolveMeta as SolveMeta
    from qstream.quantum.record import SolveRequest as SolveRequest
    from qstream.quantum.record import SolveResult as SolveResult
    from qstream.quantum.runtime import QuantumRuntime as QuantumRuntime
    from qstream.quantum.solvers import solve as solve
    from qstream.quantum.solvers import warm as warm
    from schemas.solver import Reason as Reason

__all__ = [
    "IsingProblem",
    "OneHotProblem",
    "QuantumRuntime",
    "Reason",
    "SolveMeta",
    "SolveRequest",
    "SolveResult",
    "from_networkx",
    "from_qubo",
    "solve",
    "warm",
    "weight_state",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "IsingProblem": ".ising",
        "OneHotProblem": ".onehot",
        "QuantumRuntime": ".runtime",
        "Reason": ".record",
        "SolveMeta": ".record",
        "SolveRequest": ".record",
        "SolveResult": ".record",
        "from_networkx": ".convert",
        "from_qubo": ".convert",
        "solve": ".solvers",
        "warm": ".solvers",
        "weight_state": ".qaoa.fixed_weight",
    },
)
