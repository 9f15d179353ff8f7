"""Simulated quantum engines, devices by name, and the classical solvers that keep their record honest; see README.md."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from qstream.quantum.convert import from_networkx as from_networkx
    from qstream.quantum.convert import from_qubo as from_qubo
    from qstream.quantum.ising import IsingProblem as IsingProblem
    from qstream.quantum.onehot import OneHotProblem as OneHotProblem
    from qstream.quantum.record import Reason as Reason
    from qstream.quantum.record import SolveMeta as SolveMeta
    from qstream.quantum.record import SolveRequest as SolveRequest
    from qstream.quantum.record import SolveResult as SolveResult
    from qstream.quantum.runtime import QuantumRuntime as QuantumRuntime
    from qstream.quantum.solvers import solve as solve
    from qstream.quantum.solvers import warm as warm

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
]

# What a user types most, by the module that has it; imported on first use, so that importing the package costs nothing.
_NAMES: Final = {
    "IsingProblem": "ising",
    "OneHotProblem": "onehot",
    "QuantumRuntime": "runtime",
    "Reason": "record",
    "SolveMeta": "record",
    "SolveRequest": "record",
    "SolveResult": "record",
    "from_networkx": "convert",
    "from_qubo": "convert",
    "solve": "solvers",
    "warm": "solvers",
}


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
