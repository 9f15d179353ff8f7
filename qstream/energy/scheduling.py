"""Schedule: when tasks start, and in which power mode, so that the highest draw in a window is as low as it can be, or nearly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from qstream.arguments import instance, real_number, whole_number
from qstream.energy.allocation import Status
from qstream.energy.building import Tasks, build_to
from qstream.energy.fleet import Ints
from qstream.energy.refine import QaoaTerms, refined
from qstream.energy.window import TaskWindow, peak_bound_w, tasks_of
from qstream.errors import ProblemError
from qstream.quantum.record import Remaining
from qstream.quantum.window import Runtime
from schemas.solver import Reason, SolverRecord
from schemas.wording import must_be

# Between the bound and the best so far, tried in turn: what may be reached at once, and what surely gets a little better.
_CAPS: Final = (0.5, 0.75, 0.9, 0.97, 1 - 1e-9, 0.0)
_TRIES: Final = 300  # at one cap, or fewer
_LEAST_CAPS: Final = 13  # that are tried, however many tasks there are
_NOISE: Final = 2.0  # slots
_MOST_TRIES: Final = 12_000
_WORK: Final = 2.5e8  # about a quarter of a second: tries x units x (units + _FIXED), or x slots where these are more
_FIXED: Final = 100
_SCANNED: Final = 2
_PATIENCE: Final = 50  # caps in a row that were not reached
ROUNDING: Final = 1e-9


class ScheduleTerms(QaoaTerms, Protocol):
    """What a schedule reads of the module's options."""

    @property
    def deterministic(self) -> bool: ...
    @property
    def qaoa(self) -> bool: ...
    @property
    def hqc(self) -> bool: ...


@dataclass(frozen=True, slots=True, eq=False)
class WindowPlan:
    """Starts and modes of the tasks, int64 [N] each.

    `peak_w`, the highest draw in a slot; `bound_w`, below which no schedule comes; `simple_peak_w`, with all tasks as soon as
    possible; `status`, ``optimal`` where the bound is reached, ``infeasible`` where the tasks `at_fault` cannot meet their
    deadlines: the starts are then the soonest. `solver`, who answered, with its twin and its control; `fallback_reason`, why
    circuits that were asked for did not answer, if they did not.
    """

    start: Ints
    mode: Ints
    peak_w: float
    bound_w: float
    simple_peak_w: float
    status: Status
    solver: SolverRecord
    at_fault: tuple[int, ...] = ()
    fallback_reason: Reason | None = None


def schedule(
    window: TaskWindow,
    *,
    options: ScheduleTerms | None = None,
    deadline_s: float | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> WindowPlan:
    """Level the draw of a window of tasks.

    Tasks are placed one by one below caps between a proven bound and the best peak so far. With `qaoa`, or `hqc` turn after turn,
    circuits then rearrange the tasks around the peak; what they propose counts only if the true peak falls. With `deterministic`
    off they begin with all tasks as soon as possible, which is the answer where nothing else is on. Without a deadline
    equal arguments give equal plans, in about a quarter of a second.

    Parameters
    ----------
    options
        `EnergyOptions`; only those of circuits are read. By default no circuits run.
    deadline_s
        Seconds from the call; the best schedule at hand is returned.
    runtime
        Runs circuits on a device, where the options name one.
    clock
        Seconds that only rise.

    Raises
    ------
    ProblemError
        An argument breaks a rule. A deadline of a task that cannot be met is a status, not an error.
    """
    instance("window", window, TaskWindow)
    if options is not None and not hasattr(options, "deterministic"):
        raise ProblemError(must_be("options", "EnergyOptions, or None", options))
    began, drawn = clock(), whole_number("seed", seed, 0, 2**63 - 1)
    end_s = math.inf if deadline_s is None else real_number("deadline_s", deadline_s, 0.0)
    tasks, late = tasks_of(window)
    plan = plan_of(window, tasks, late, options, drawn, lambda: end_s - (clock() - began), runtime)
    if deadline_s is None:
        return plan
    return replace(plan, solver=plan.solver.model_copy(update={"wall_ms": 1e3 * (clock() - began)}))


def plan_of(
    window: TaskWindow,
    tasks: Tasks,
    late: tuple[int, ...],
    options: ScheduleTerms | None,
    seed: int,
    remaining_s: Remaining,
    runtime: Runtime | None,
    given: tuple[Ints, Ints] | None = None,
) -> WindowPlan:
    """`schedule` of checked arguments, from the `given` starts [U] and modes [N] or from the soonest."""
    soonest = (tasks.release.copy(), window.fastest())
    if late:
        return plan_soonest(window, soonest[0][window.unit], soonest[1], late, seed)
    simple = float(window.load_w(soonest[0][window.unit], soonest[1]).max())
    bound = peak_bound_w(window, tasks)
    start, mode = soonest if given is None else given
    search = options is None or options.deterministic
    if search:
        start, mode = levelled(window, tasks, bound, (start, mode), seed, remaining_s)
    peak = float(window.load_w(start[window.unit], mode).max())
    name = "list" if search else "soonest"
    record = SolverRecord(solver=name, seed=seed, n=len(window.unit), objective=peak, bound=min(bound, peak))
    reason = None
    if options is not None and (options.qaoa or options.hqc) and peak > bound * (1 + ROUNDING):
        turns = None if options.hqc else 1
        (start, mode), record, reason = refined(
            window, tasks, (start, mode), record, options, turns=turns, seed=seed, remaining_s=remaining_s, runtime=runtime
        )
        peak = float(window.load_w(start[window.unit], mode).max())
    proven = peak <= bound * (1 + ROUNDING)
    bound = min(bound, peak)
    return WindowPlan(start[window.unit], mode, peak, bound, simple, "optimal" if proven else "feasible", record, (), reason)


def plan_soonest(window: TaskWindow, start: Ints, mode: Ints, at_fault: tuple[int, ...] = (), seed: int = 0) -> WindowPlan:
    """These starts and modes [N], without a search, as a plan with a quick bound; infeasible where tasks are `at_fault`."""
    peak = float(window.load_w(start, mode).max())
    watts = np.where(window.exists(), window.power_w, np.inf)
    energy = np.where(window.exists(), window.power_w * window.duration, np.inf)
    least = (float(energy.min(1).sum()) + float(window.base.sum())) / window.slots
    bound = min(peak, max(least, float(window.base.max()), float(watts.min(1).max() + window.base.min())))
    if at_fault:
        bound = peak
    proven = peak <= bound * (1 + ROUNDING)
    status: Status = "infeasible" if at_fault else "optimal" if proven else "feasible"
    record = SolverRecord(solver="soonest", seed=seed, n=len(start), objective=peak, bound=bound)
    return WindowPlan(start, mode, peak, bound, peak, status, record, at_fault)


def levelled(
    window: TaskWindow, tasks: Tasks, bound: float, given: tuple[Ints, Ints], seed: int, remaining_s: Remaining
) -> tuple[Ints, Ints]:
    """Starts [U] and modes [N] of a lower peak than the given ones, or these."""
    start, mode = given
    best, units = float(window.load_w(start[window.unit], mode).max()), len(tasks.release)
    each_try = max(units * (units + _FIXED), _SCANNED * units * window.slots) + tasks.room.size // 4
    left = max(_LEAST_CAPS, min(_MOST_TRIES, int(_WORK / each_try)))
    turn, failed, each = 0, 0, max(1, min(_TRIES, left // _LEAST_CAPS))
    while left > 0 and failed < _PATIENCE and remaining_s() > 0 and best > bound * (1 + ROUNDING):
        cap = bound + _CAPS[failed % len(_CAPS)] * (best - bound)
        tried, chosen = start.copy(), mode.copy()
        rank, tries = tasks.latest.astype(np.float64), min(each, left)
        drawn = np.uint64(np.random.SeedSequence([seed, turn]).generate_state(1, np.uint64)[0])
        if build_to(tasks, cap * (1 + 1e-12), tries, _NOISE, drawn, window.base, rank, tried, chosen):
            start, mode, failed = tried, chosen, 0
            best = float(window.load_w(start[window.unit], mode).max())
        else:
            failed += 1
        turn, left = turn + 1, left - tries
    return start, mode
