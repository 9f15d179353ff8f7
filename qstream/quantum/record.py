"""What is asked of a solver and what it answers, with the record that keeps the answer honest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import real_number, whole_number
from qstream.errors import ProblemError
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from schemas.solver import CLASSICAL, DEVICE, Execution, Reason, SolverRecord
from schemas.wording import Shown, must_be

Problem = IsingProblem | OneHotProblem
Solution = NDArray[np.int8] | NDArray[np.int64]
Schedule = Literal["auto", "tree", "ramp", "optimize"]
ProducedBy = Literal["sample", "polish", "incumbent", "search"]
Remaining = Callable[[], float]
_WHOLE: Final = {"seed": (0, 2**63 - 1), "shots": (1, 1_000_000), "p": (1, 1024)}


class Refused(Exception):
    """A solver cannot serve this request: operational, never a fault of the problem's form."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[Refused], tuple[Reason, str]]:
        return type(self), (self.reason, self.detail)


@dataclass(frozen=True, eq=False)
class SolveRequest:
    """One problem and the terms of its solution.

    Parameters
    ----------
    deadline_s
        Wall-clock budget; infinite by default, and then the work is fixed and the answer reproducible to the byte.
    shots
        Samples that a quantum solver takes; a device takes at most those that its pool allows, and the record says how many.
    p
        Layers of a quantum circuit; by default what fits the deadline.
    schedule
        Angles: ``tree`` (transferred, p <= 5), ``ramp`` (linear), ``optimize`` (L-BFGS, offline), or ``auto``.
    device
        Name in the device pool, for the solver ``device:NAME``.
    noise
        Probability of depolarising per gate and qubit, of a simulated noisy device.
    warm_start
        A solution to start from, which a solver that cannot refuses; `incumbent` is one to beat, and to return if it is not
        beaten.

    Raises
    ------
    ProblemError
        A field is of the wrong type or out of range, or a given solution does not fit the problem.
    """

    problem: Problem
    deadline_s: float = math.inf
    seed: int = 0
    shots: int = 256
    p: int | None = None
    schedule: Schedule = "auto"
    device: str | None = None
    noise: float | None = None
    warm_start: Solution | None = None
    incumbent: Solution | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.problem, (IsingProblem, OneHotProblem)):
            raise ProblemError(
                must_be("problem", "an IsingProblem or OneHotProblem", Shown(f"type {type(self.problem).__name__}"))
            )
        for name, (low, high) in _WHOLE.items():
            if name != "p" or self.p is not None:
                object.__setattr__(self, name, whole_number(name, getattr(self, name), low, high))
        object.__setattr__(self, "deadline_s", real_number("deadline_s", self.deadline_s))
        if self.deadline_s <= 0:
            raise ProblemError(must_be("deadline_s", "above 0 seconds", self.deadline_s))
        if self.noise is not None:
            object.__setattr__(self, "noise", real_number("noise", self.noise, 0, 1))
            if self.noise == 1:
                raise ProblemError(must_be("noise", "below 1", 1))
        if self.schedule not in get_args(Schedule):
            raise ProblemError(must_be("schedule", f"one of {', '.join(get_args(Schedule))}", self.schedule))
        if self.device is not None and not isinstance(self.device, str):
            raise ProblemError(must_be("device", "a name of the device pool", self.device))
        for name in ("warm_start", "incumbent"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, checked_solution(name, self.problem, given))
        # Both read the whole problem, and are kept by it: here, so that no deadline runs.
        self.problem.digest()
        self.problem.magnitude()


@dataclass(frozen=True, eq=False)
class Answer:
    """What a solver found, before it is compared with others.

    `samples` are distinct solutions [S, n] with `energies` [S] and `counts` [S]; `expectation` and `p_opt` are exact where
    the simulated state is at hand. `produced_by` says what found the solution. `n_2q` counts two-qubit gates of the circuit.
    """

    solution: Solution
    energy: float
    produced_by: ProducedBy
    execution: Execution = CLASSICAL
    engine: str = "numpy"
    samples: Solution | None = None
    energies: NDArray[np.float64] | None = None
    counts: NDArray[np.int64] | None = None
    shots: int | None = None
    p: int | None = None
    n_2q: int | None = None
    schedule: str | None = None
    expectation: float | None = None
    p_opt: float | None = None
    optimum: float | None = None
    control: Control | None = None


@dataclass(frozen=True)
class Control:
    """The same number of shots of the circuit at p = 0: of uniformly random solutions, or of the warm start's distribution."""

    best_energy: float
    mean_energy: float
    p_opt: float | None = None


@dataclass(frozen=True)
class AttemptFigures:
    """One solver that was tried on the problem: what it reached and what it cost, or why it did not answer."""

    solver: str
    energy: float | None
    wall_ms: float
    cpu_ms: float
    reason: Reason | None = None


@dataclass(frozen=True)
class Fallback:
    """That another solver answered than the one requested."""

    from_solver: str
    to_solver: str
    reason: Reason
    detail: str


@dataclass(frozen=True)
class SolveMeta:
    """The record of one answer.

    `solver` gave the solution and `requested` was asked for. `baseline` is the classical twin, `tried` are all solvers that
    ran, `optimum` the exact minimum where it is known, `ratio` is ``(E_max - E) / (E_max - E_min)`` of the expectation where
    both are known, `p_opt` the probability of an optimal state, `control` what the circuit at p = 0 gives
    at equal shots: random solutions, or after a warm start those around it.
    """

    solver: str
    requested: str
    path: Literal["quantum", "classical"]
    execution: Execution
    engine: str
    device: str | None
    digest: str
    n: int
    seed: int
    shots: int | None
    p: int | None
    n_2q: int | None
    schedule: str | None
    wall_ms: float
    cpu_ms: float
    queue_ms: float
    deadline_ms: float | None
    expectation: float | None
    ratio: float | None
    p_opt: float | None
    optimum: float | None
    control: Control | None
    baseline: AttemptFigures
    tried: tuple[AttemptFigures, ...]
    produced_by: ProducedBy
    fallback: Fallback | None = None

    @property
    def label(self) -> str:
        """``simulated``, ``device`` or ``classical``: what gave the solution, which a reader must know first."""
        if self.execution == CLASSICAL or self.path == "classical":
            return "classical"
        return "device" if self.execution.startswith(DEVICE) else "simulated"

    def as_dict(self) -> dict[str, Any]:
        """The record as plain data, with its label."""
        return {"label": self.label, **asdict(self)}


@dataclass(frozen=True, eq=False)
class SolveResult:
    """A solution (spins +1/-1 [n], or levels [m] of a one-hot problem), its energy, what was sampled, and the record."""

    solution: Solution
    energy: float
    meta: SolveMeta
    samples: Solution | None = None
    energies: NDArray[np.float64] | None = field(default=None)
    counts: NDArray[np.int64] | None = field(default=None)


def solver_record(result: SolveResult) -> SolverRecord:
    """The answer in the one vocabulary of plans. Without a deadline equal requests give equal records."""
    meta = result.meta
    solver, _, device = meta.solver.partition(":")
    return SolverRecord(
        solver=solver,
        variant=device or None,
        execution=CLASSICAL if meta.label == "classical" else meta.execution,
        asked=() if meta.requested == "auto" else (meta.requested.partition(":")[0],),
        n=meta.n,
        depth=meta.p,
        shots=meta.shots,
        seed=meta.seed,
        wall_ms=None if meta.deadline_ms is None else meta.wall_ms,
        objective=result.energy,
        exact=meta.optimum,
        control=None if meta.control is None else meta.control.best_energy,
        twin=meta.baseline.energy,
    )


class Solver(Protocol):
    """A way to solve: pure, deterministic for request and seed unless the deadline cuts it short."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> Literal["quantum", "classical"]: ...

    def refusal(self, request: SolveRequest) -> Refused | None:
        """Why this solver cannot serve the request by its kind or size, or None."""
        ...

    def estimate_ms(self, request: SolveRequest) -> float:
        """Expected wall time of the cheapest useful run."""
        ...

    def run(self, request: SolveRequest, remaining_s: Remaining) -> Answer:
        """Solve. `remaining_s` gives the seconds left, to be asked between units of work; raises `Refused`."""
        ...


def no_spins() -> Refused:
    """What a solver of spins says of a problem of levels."""
    return Refused(Reason.UNSUPPORTED, "the problem must be of spins, got one-hot variables")


def spin_problem(request: SolveRequest) -> IsingProblem:
    """The request's problem; `Refused` if it has no spins."""
    if not isinstance(request.problem, IsingProblem):
        raise no_spins()
    return request.problem


def checked_solution(name: str, problem: Problem, solution: object) -> Solution:
    """A solution of the problem's form as an array of its dtype; `ProblemError` if it is not one."""
    try:
        array = np.asarray(solution)
    except ValueError as exc:
        raise ProblemError(must_be(name, "an array of numbers", Shown(exc))) from exc
    if array.dtype.kind not in "iuf":
        raise ProblemError(must_be(name, "of whole numbers", Shown(f"dtype {array.dtype}")))
    if isinstance(problem, IsingProblem):
        if array.shape != (problem.n,) or not np.isin(array, (-1, 1)).all():
            raise ProblemError(must_be(name, f"{problem.n} spins of +1 or -1", Shown(f"{array.tolist()}")))
        return array.astype(np.int8)
    sizes = np.array(problem.sizes)
    if array.shape != sizes.shape or np.any(array != np.floor(array)) or np.any(array < 0) or np.any(array >= sizes):
        raise ProblemError(
            must_be(name, f"{len(sizes)} levels, each from 0 to below its variable's size", Shown(f"{array.tolist()}"))
        )
    return array.astype(np.int64)
