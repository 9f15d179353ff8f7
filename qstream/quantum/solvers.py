"""The table of solvers, and `solve`: ask one, compare it with its classical twin, return the best and keep the record."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, ParamSpec, TypeVar, cast

import numpy as np

from qstream.errors import ProblemError
from qstream.install import install_hint
from qstream.metrics import bounded_label
from qstream.quantum.attempt import Clock
from qstream.quantum.ising import IsingProblem
from qstream.quantum.observe import count_request
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.order import AUTO, solve_in_order
from qstream.quantum.record import Answer, Problem, Refused, Remaining, Solver, SolveRequest, SolveResult
from schemas.solver import DEVICE, Reason
from schemas.wording import Shown, must_be

Given = ParamSpec("Given")
Found = TypeVar("Found")

# name -> module and object; a module is imported when its solver is asked for the first time.
SOLVERS: Final[Mapping[str, str]] = {
    "exact": "qstream.quantum.classical.exact:EXACT",
    "greedy": "qstream.quantum.classical.greedy:GREEDY",
    "sa": "qstream.quantum.classical.anneal:ANNEAL",
    "dsb": "qstream.quantum.classical.bifurcation:BIFURCATION",
    "qaoa": "qstream.quantum.qaoa.solver:QAOA",
    "qaoa-xy": "qstream.quantum.qaoa.subspace_solver:QAOA_XY",
    "rqaoa": "qstream.quantum.qaoa.rqaoa:RQAOA",
}
# Seconds that a first use may take, where it is not a blink: numba, calibration of the engine, tables of angles.
LOAD_S: Final[Mapping[str, float]] = {"sa": 2.0, "qaoa": 2.0, "qaoa-xy": 1.0, "rqaoa": 1.0}
DEVICE_LOAD_S: Final = 5.0
ENTRY_POINTS: Final = "qstream.solvers"
# What an entry point's solver, which is not ours, may raise without ending the solve.
_FOREIGN_FAULTS: Final = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


def solve(problem: Problem | SolveRequest, solver: str = AUTO, *, clock: Clock = time.perf_counter, **terms: Any) -> SolveResult:
    """Solve a problem and say honestly how.

    Greedy answers first; then the solver asked for; then its classical twin, within the time that it took; then the exact
    optimum where it can be enumerated in time. The best answer is returned; of equal ones that of the solver asked for.

    Parameters
    ----------
    problem
        An IsingProblem, a OneHotProblem, or a SolveRequest.
    solver
        A name of `solver_names()`, ``device:NAME``, or ``auto``: exact where it fits the deadline, else annealing and
        bifurcation.
    clock
        Seconds that only rise.
    terms
        Fields of SolveRequest, as ``deadline_s=0.05, seed=7``.

    Raises
    ------
    ProblemError
        The problem, a term or the solver's name is wrong. A solver that cannot answer is not an error: another does, and
        ``result.meta.fallback`` says why.
    """
    request, name = asked(problem, solver, terms)
    if not is_known(name):
        raise ProblemError(must_be("solver", f"{AUTO}, {', '.join(solver_names())}, {DEVICE}NAME", name))
    result = solve_in_order(request, name, find_solver, clock)
    count_request(bounded_label("solver", name), result.meta)
    return result


def asked(problem: Problem | SolveRequest, solver: str, terms: Mapping[str, Any]) -> tuple[SolveRequest, str]:
    """The request of a problem and its terms, and the solver by its own name or by the device that the request names."""
    if not isinstance(problem, (IsingProblem, OneHotProblem, SolveRequest)):
        raise ProblemError(
            must_be("problem", "an IsingProblem, OneHotProblem or SolveRequest", Shown(f"type {type(problem).__name__}"))
        )
    if not isinstance(solver, str):
        raise ProblemError(must_be("solver", "a name", solver))
    if solver.startswith(DEVICE):
        terms = {**terms, "device": solver.removeprefix(DEVICE)}
    if not isinstance(problem, SolveRequest):
        request = SolveRequest(problem, **terms)
    else:
        request = replace(problem, **terms) if terms else problem
    return request, f"{DEVICE}{request.device}" if request.device and solver == AUTO else solver


def solver_names() -> tuple[str, ...]:
    """The solvers of the table, and those that installed packages add by entry points."""
    return (*SOLVERS, *sorted(_extras().keys() - SOLVERS.keys()))


def is_known(name: str) -> bool:
    """Whether `solve` takes this name. Entry points are looked up last: to scan what is installed takes milliseconds."""
    return name == AUTO or name.startswith(DEVICE) or name in SOLVERS or name in _extras()


def find_solver(name: str, left_s: float = math.inf) -> Solver:
    """Load a solver within `left_s` seconds; `Refused` if it is not installed or loads too slowly, `ProblemError` if unknown."""
    if name.startswith(DEVICE):
        solver = cast(Solver, _load("qstream.quantum.devices.solver:device_solver")(name.removeprefix(DEVICE)))
        if left_s < DEVICE_LOAD_S and "pennylane" not in sys.modules and importlib.util.find_spec("pennylane"):
            device = name.removeprefix(DEVICE)
            detail = f"PennyLane loads in up to {DEVICE_LOAD_S} s, {left_s:.3g} s left: call warm({device!r}) at start"
            raise Refused(Reason.NOT_READY, detail)
        return solver
    if name in SOLVERS:
        if left_s < LOAD_S.get(name, -math.inf) and SOLVERS[name].partition(":")[0] not in sys.modules:
            raise Refused(Reason.NOT_READY, f"{name} loads in up to {LOAD_S[name]} s, {left_s:.3g} s left: call warm() at start")
        return cast(Solver, _load(SOLVERS[name]))
    extra = _extras().get(name)
    if extra is None:
        raise ProblemError(must_be("solver", f"one of {', '.join(solver_names())}", name))
    return _Foreign(name, extra)


def warm(*devices: str) -> None:
    """Load and run each solver once, so that no request waits for that; on a new machine this compiles for seconds.

    Devices that run in this process, as by `solve`, are warmed by name: that loads PennyLane, for seconds. One that does not
    run is left to the request, whose record says why.
    """
    for device in devices:
        with contextlib.suppress(Refused):
            find_solver(DEVICE + device).run(SolveRequest(IsingProblem(1, np.zeros((1, 1))), shots=1, p=1), lambda: 60.0)
    for problem in (IsingProblem(2, np.triu(np.ones((2, 2)), 1)), OneHotProblem((2, 2))):
        request = SolveRequest(problem, shots=1, p=1)
        for solver in map(find_solver, SOLVERS):
            if solver.refusal(request) is None:
                solver.estimate_ms(request)
                solver.run(request, lambda: 60.0)


def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as exc:
        if exc.name is not None and exc.name.startswith("qstream"):
            raise
        raise Refused(Reason.NOT_INSTALLED, f"{exc}: {install_hint('quantum')}") from exc


def _extras() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


class _Foreign:
    """A solver of another package: its faults are refusals."""

    def __init__(self, name: str, entry: EntryPoint) -> None:
        self.name = name
        self._solver: Solver = self._guarded(entry.load)
        self.path = self._solver.path

    def refusal(self, request: SolveRequest) -> Refused | None:
        return self._guarded(self._solver.refusal, request)

    def estimate_ms(self, request: SolveRequest) -> float:
        return self._guarded(self._solver.estimate_ms, request)

    def run(self, request: SolveRequest, remaining_s: Remaining) -> Answer:
        return self._guarded(self._solver.run, request, remaining_s)

    def _guarded(self, call: Callable[Given, Found], *args: Given.args, **kwargs: Given.kwargs) -> Found:
        try:
            return call(*args, **kwargs)
        except ImportError as exc:
            raise Refused(Reason.NOT_INSTALLED, f"solver {self.name}: {exc}") from exc
        except _FOREIGN_FAULTS as exc:
            raise Refused(Reason.ERROR, f"solver {self.name}: {type(exc).__name__}: {exc}") from exc
