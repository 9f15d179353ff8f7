"""The runtime: every request is answered by its deadline, whatever the solver that was asked for does."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, Self

from qstream.arguments import whole_number
from qstream.errors import ProblemError
from qstream.quantum.devices.circuits import PROBE, Circuit, Rotations, Samples
from qstream.quantum.devices.keeper import Keeper
from qstream.quantum.devices.lanes import Lanes
from qstream.quantum.devices.pool import DEFAULT_POOL, DevicePool, DeviceSpec
from qstream.quantum.devices.sample import sample
from qstream.quantum.devices.slot import Slots
from qstream.quantum.devices.solver import DeviceSolver, device_solver
from qstream.quantum.observe import count_late, count_request
from qstream.quantum.order import AUTO, solve_in_order
from qstream.quantum.record import Answer, Problem, Refused, Remaining, Solver, SolveRequest, SolveResult
from qstream.quantum.solvers import asked, find_solver, solver_names, warm
from schemas.solver import DEVICE, Execution, Reason
from schemas.wording import Shown, must_be

UNKNOWN: Final = f"{DEVICE}unknown"


@dataclass
class Spent:
    """What a request spent outside of its own thread."""

    queue_s: float = 0.0
    cpu_s: float = 0.0


@dataclass(frozen=True, eq=False)
class InLane:
    """A solver of this process that runs in a lane and is left there at the deadline."""

    solver: Solver
    lanes: Lanes
    spent: Spent

    @property
    def name(self) -> str:
        return self.solver.name

    @property
    def path(self) -> Literal["quantum", "classical"]:
        return self.solver.path

    def refusal(self, request: SolveRequest) -> Refused | None:
        return self.solver.refusal(request)

    def estimate_ms(self, request: SolveRequest) -> float:
        return self.solver.estimate_ms(request)

    def run(self, request: SolveRequest, remaining_s: Remaining) -> Answer:
        work = partial(self.solver.run, request)
        answer, queue_s, cpu_s = self.lanes.run(work, remaining_s, self.solver.estimate_ms(request) / 1e3)
        self.spent.queue_s += queue_s
        self.spent.cpu_s += cpu_s
        return answer


class Ticket:
    """The promise of a late answer to a submitted request, to be taken once; `refused` if the runtime did not accept it."""

    def __init__(self, solver: str, digest: str, future: Future[SolveResult], refused: Refused | None = None) -> None:
        self.solver = solver
        self.digest = digest
        self.refused = refused
        self._future = future
        self._taken = False

    @property
    def done(self) -> bool:
        """Whether there is an answer, or never will be one."""
        return self._future.done()

    def wait(self, timeout_s: float) -> bool:
        """Wait until `done`, for so many seconds at most."""
        ended = threading.Event()
        self._future.add_done_callback(lambda _: ended.set())
        return ended.wait(timeout_s)

    def take(self, problem: Problem, energy: float) -> SolveResult | None:
        """The answer, if it is there, is of this problem still, and is lower than `energy`; else it is counted and dropped.

        None from then on.

        Parameters
        ----------
        problem
            The problem in force now.
        energy
            Of the solution in force.
        """
        if self._taken or not self._future.done():
            return None
        self._taken = True
        result = None if self._future.cancelled() else self._future.result()
        outcome = "failed"
        if result is not None and result.meta.fallback is None:
            stale = problem.digest() != self.digest
            outcome = "stale" if stale else "applied" if result.energy < energy else "worse"
        count_late(self.solver, outcome)
        return result if outcome == "applied" else None


class QuantumRuntime:
    """Solvers and devices behind deadlines, queues, breakers and worker processes. Thread-safe; close it, or use ``with``.

    To begin takes a second or more, as all solvers are loaded then and not by a request. It serves the process that made it:
    in a forked child, which would share its devices' sockets, only classical solvers answer; make another there.

    Parameters
    ----------
    pool
        Devices by name; each is started when it is first asked for, or by `prepare`.
    threads, queue_limit
        How many simulations run in this process at a time, and how many may wait.
    late_jobs
        How many submitted requests may be under way.

    Raises
    ------
    ProblemError
        The pool is not a `DevicePool`, or a number is out of range.
    """

    def __init__(self, pool: DevicePool = DEFAULT_POOL, *, threads: int = 2, queue_limit: int = 8, late_jobs: int = 4) -> None:
        if not isinstance(pool, DevicePool):
            raise ProblemError(must_be("pool", "a DevicePool", Shown(f"type {type(pool).__name__}")))
        threads = whole_number("threads", threads, 1, 1024)
        queue_limit = whole_number("queue_limit", queue_limit, 0, 10_000)
        late_jobs = whole_number("late_jobs", late_jobs, 0, 10_000)
        self._pid = os.getpid()
        self._pool = pool
        self._keeper = Keeper()
        self._lanes = Lanes(threads, queue_limit)
        self._lock = threading.Lock()
        self._devices: dict[str, Slots] = {}
        self._late: set[threading.Thread] = set()
        self._late_jobs = late_jobs
        self._closed = False
        warm()
        for name in solver_names():
            with contextlib.suppress(Refused):
                find_solver(name)

    def solve(self, problem: Problem | SolveRequest, solver: str = AUTO, **terms: Any) -> SolveResult:
        """Answer by the deadline, or up to 20 ms later; whatever hinders the solver asked for is in ``result.meta.fallback``.

        Above 2,048 spins the two evaluations of the first answer, which nothing interrupts, may take longer: 8 ms each at 4,096.
        The time counts from this call; the request has taken the problem's digest before.

        Greedy answers first, so that there is always something to return; the order of the rest is that of
        `qstream.quantum.solvers.solve`, as are the parameters.

        Raises
        ------
        ProblemError
            The problem or a term is wrong, or there is no solver of this name.
        """
        return self._solve(*asked(problem, solver, terms), late=False)

    def submit(self, problem: Problem | SolveRequest, solver: str = AUTO, **terms: Any) -> Ticket:
        """Solve in the background, for answers that come after the decision: of devices in a queue, above all.

        The deadline of the request is that of the background work.

        Raises
        ------
        ProblemError
            The problem or a term is wrong, or there is no solver of this name.
        """
        request, name = asked(problem, solver, terms)
        digest = request.problem.digest()
        if name != AUTO and not name.startswith(DEVICE):
            with contextlib.suppress(Refused):
                find_solver(name)
        future: Future[SolveResult] = Future()
        if (refused := self._elsewhere()) is not None:
            future.cancel()
            return Ticket(self._label(name), digest, future, refused)
        with self._lock:
            if self._closed:
                refused = Refused(Reason.UNAVAILABLE, "the runtime is closed")
            elif len(self._late) >= self._late_jobs:
                refused = Refused(Reason.OVERLOADED, f"{len(self._late)} late requests are under way")
            if refused is not None:
                future.cancel()
                return Ticket(self._label(name), digest, future, refused)
            thread = threading.Thread(target=self._run_late, args=(request, name, future), name="qstream late", daemon=True)
            self._late.add(thread)
            thread.start()
        return Ticket(self._label(name), digest, future)

    def measure(self, device: str, circuits: Sequence[Rotations], deadline_s: float) -> tuple[list[Samples], Execution]:
        """Samples of each circuit from a device, through its slots and breaker, and the label of the answers.

        Each has at most the shots that the pool allows.

        Raises
        ------
        Refused
            Not all circuits were measured by the deadline, whatever the reason.
        """
        if (refused := self._elsewhere()) is not None:
            raise refused
        spec = self._pool.device(device)
        if spec.mode == "late":
            raise Refused(Reason.DEADLINE_INSUFFICIENT, f"{spec.name} answers late")
        if (wires := max(circuit.n for circuit in circuits)) > spec.max_wires:
            raise Refused(Reason.TOO_LARGE, must_be("circuits", f"of at most {spec.max_wires} qubits on {spec.name}", wires))
        due = time.monotonic() + deadline_s

        def run(circuit: Rotations) -> Samples:
            if spec.mode == "inline":
                return self._lanes.run(lambda _: sample(spec, circuit), lambda: due - time.monotonic(), 0.0)[0]
            return self._slots(spec).sample(circuit, lambda: due - time.monotonic())[0]

        within = [replace(circuit, shots=min(circuit.shots, spec.shots)) for circuit in circuits]
        return [run(circuit) for circuit in within], spec.execution(None)

    def prepare(self, *names: str, timeout_s: float = 60.0) -> dict[str, bool]:
        """Start devices and wait until each is ready, or is known not to be.

        Raises
        ------
        Refused
            The pool has no device of that name, or another process made the runtime.
        """
        if (refused := self._elsewhere()) is not None:
            raise refused
        due = time.monotonic() + timeout_s
        specs = [self._pool.device(name) for name in names]
        started = {spec.name: self._slots(spec) for spec in specs if spec.mode != "inline"}
        here = {spec.name: opens(spec) for spec in specs if spec.mode == "inline"}
        return here | {name: slots.wait_ready(due) for name, slots in started.items()}

    def health(self) -> dict[str, object]:
        """The state of lanes and of started devices as plain data."""
        with self._lock:
            devices, late = dict(self._devices), len(self._late)
        return {
            "closed": self._closed,
            "lanes": self._lanes.health(),
            "late": {"jobs": late, "limit": self._late_jobs},
            "devices": {name: slots.health() for name, slots in devices.items()},
        }

    def close(self) -> None:
        """Stop all work, end all processes and threads. Requests that are under way, or come later, get what greedy found."""
        if self._elsewhere() is not None:
            return
        with self._lock:
            self._closed = True
            late = list(self._late)
        self._keeper.close()
        self._lanes.close()
        for thread in late:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _elsewhere(self) -> Refused | None:
        """Why a forked child cannot use what belongs to its parent: processes, sockets, threads, and locks that they hold."""
        return None if os.getpid() == self._pid else Refused(Reason.UNAVAILABLE, "another process made this runtime")

    def _solve(self, request: SolveRequest, name: str, *, late: bool) -> SolveResult:
        spent = Spent()

        def find(wanted: str, _: float) -> Solver:
            return self._find(wanted, spent, late=late)

        result = solve_in_order(request, name, find, time.monotonic)
        meta = result.meta
        tried = (replace(each, cpu_ms=each.cpu_ms + 1e3 * spent.cpu_s) if each.solver == name else each for each in meta.tried)
        meta = replace(meta, queue_ms=1e3 * spent.queue_s, cpu_ms=meta.cpu_ms + 1e3 * spent.cpu_s, tried=tuple(tried))
        count_request(self._label(name), meta)
        return replace(result, meta=meta)

    def _find(self, name: str, spent: Spent, *, late: bool) -> Solver:
        solver = None if name.startswith(DEVICE) else find_solver(name)
        if solver is not None and solver.path == "classical":
            return solver
        if (refused := self._elsewhere()) is not None:
            raise refused
        if solver is not None:
            return InLane(solver, self._lanes, spent)
        spec = self._pool.device(name.removeprefix(DEVICE))
        if spec.mode == "inline":
            return InLane(device_solver(spec.name, self._pool), self._lanes, spent)
        if spec.mode == "late" and not late:
            raise Refused(Reason.DEADLINE_INSUFFICIENT, f"{spec.name} answers late: submit the request instead")
        slots = self._slots(spec)

        def sampler(circuit: Circuit, remaining_s: Remaining) -> Samples:
            samples, queue_s = slots.sample(circuit, remaining_s)
            spent.queue_s += queue_s
            spent.cpu_s += samples.cpu_s
            return samples

        return DeviceSolver(spec, sampler)

    def _slots(self, spec: DeviceSpec) -> Slots:
        with self._lock:
            slots = self._devices.get(spec.name)
            if slots is None:
                slots = self._devices[spec.name] = self._keeper.add(spec)
            return slots

    def _run_late(self, request: SolveRequest, name: str, future: Future[SolveResult]) -> None:
        try:
            future.set_result(self._solve(request, name, late=True))
        finally:
            future.cancel()
            with self._lock:
                self._late.discard(threading.current_thread())

    def _label(self, name: str) -> str:
        """The solver as a metric's label, of which there are as many as solvers and devices of the pool."""
        known = {device.name for device in self._pool.devices}
        return UNKNOWN if name.startswith(DEVICE) and name.removeprefix(DEVICE) not in known else name


def opens(spec: DeviceSpec) -> bool:
    """Whether a device runs a small circuit in this process, which has PennyLane loaded then."""
    try:
        sample(spec, PROBE)
    except Refused:
        return False
    return True
