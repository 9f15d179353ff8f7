"""The portfolio of a plan: arms improve one answer in turn under one deadline; the best so far always stands.

An answer is anything that has an objective to be lowered: the partitions of a placement, a schedule, a choice of blocks. For one
small problem of spins or levels see `qstream.quantum.window`; `qstream.quantum.solvers.solve` measures one solver on it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from qstream.quantum.record import Remaining
from schemas.solver import CLASSICAL, Execution, Reason, SolverName, SolverRecord

T = TypeVar("T")
Clock = Callable[[], float]
_LATE: Final = (Reason.TIMEOUT, Reason.DEADLINE_INSUFFICIENT)


@dataclass(frozen=True, slots=True, eq=False)
class Step(Generic[T]):
    """What an arm came to: its answer (None where it has none), its objective, and what stopped it, if anything.

    `tried` and `kept` count the parts, such as windows, that it worked on and whose answers it took. `execution` is how the parts
    that were kept were solved; `depth` and `shots` are those of circuits, and absent where there were none.
    """

    answer: T | None
    objective: float
    tried: int | None = None
    kept: int | None = None
    execution: Execution = CLASSICAL
    depth: int | None = None
    shots: int | None = None
    reason: Reason | None = None

    @property
    def failure(self) -> Reason | None:
        """The reason, unless it is only that the time ended after there was an answer."""
        return None if self.answer is not None and self.reason in _LATE else self.reason


@dataclass(frozen=True, slots=True, eq=False)
class Arm(Generic[T]):
    """One way to improve an answer.

    Parameters
    ----------
    name
        Of the solver, for the record.
    improve
        Takes the best answer so far, whether circuits may be asked (False once they failed in this race), and the seconds
        left, to be looked at between units of work. Its step's objective must be that of its answer.
    share
        Of the time that is left when it begins.
    """

    name: SolverName
    improve: Callable[[T, bool, Remaining], Step[T]]
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Tried(Generic[T]):
    """An arm after its turn: where the objective stood, its seconds and its step."""

    name: SolverName
    wall_s: float
    step: Step[T]


@dataclass(frozen=True, slots=True, eq=False)
class Race(Generic[T]):
    """The best answer of a race, who lowered it last (None: it is the given one), and all arms in their order.

    `answered` is False where the given answer may not stand and no arm answered: `answer` is the given one then.
    `fallback_reason` says why the first arm that failed did; a time that ended after an answer is not one. `wall_s` is None
    without a deadline, so that equal inputs give equal records.
    """

    answer: T
    objective: float
    given: float
    winner: SolverName | None
    tried: tuple[Tried[T], ...]
    answered: bool
    fallback_reason: Reason | None
    wall_s: float | None


def race(
    given: T,
    objective: float,
    arms: Sequence[Arm[T]],
    *,
    may_stand: bool = True,
    deadline_s: float = math.inf,
    clock: Clock = time.perf_counter,
) -> Race[T]:
    """Let arms improve an answer, each from the best so far.

    No arm makes the answer worse, and no fault that a solver reports (`Step.reason`) loses it. Without a deadline equal inputs
    give equal answers; with one, arms are to stop by the seconds they see left.

    Parameters
    ----------
    given
        The answer that is there before, such as the classical plan, with its `objective`.
    may_stand
        Whether `given` counts as an answer where no arm has one.
    deadline_s
        From the call.
    clock
        Seconds that only rise.
    """
    start = clock()
    best, lowest, winner, circuits = given, objective, None, True
    tried: list[Tried[T]] = []
    for arm in arms:
        began = clock()
        end = deadline_s if arm.share == 1.0 else began - start + arm.share * (deadline_s - (began - start))
        step = arm.improve(best, circuits, _left(start + end, clock))
        if step.answer is not None and step.objective < lowest:
            best, lowest, winner = step.answer, step.objective, arm.name
        tried.append(Tried(arm.name, clock() - began, step))
        circuits = circuits and step.failure is None
    failures = [each.step.failure for each in tried if each.step.failure is not None]
    return Race(
        best,
        lowest,
        objective,
        winner,
        tuple(tried),
        may_stand or any(each.step.answer is not None for each in tried),
        failures[0] if failures else None,
        None if deadline_s == math.inf else clock() - start,
    )


def race_record(
    outcome: Race[T],
    given: SolverRecord,
    *,
    seed: int,
    n: int | None = None,
    exact: float | None = None,
    control: float | None = None,
    twin: float | None = None,
) -> SolverRecord:
    """The race as the record of a plan, from the record of the answer that was `given` to it; its variant is kept."""
    steps = [each.step for each in outcome.tried]
    won = next((each.step for each in reversed(outcome.tried) if each.name == outcome.winner), None)
    circuits = [step for step in steps if step.depth is not None]
    parts = [(step.tried, step.kept) for step in steps if step.tried is not None and step.kept is not None]
    return SolverRecord(
        solver=given.solver if outcome.winner is None else outcome.winner,
        variant=given.variant,
        execution=CLASSICAL if won is None else won.execution,
        asked=tuple(each.name for each in outcome.tried),
        n=n,
        depth=circuits[0].depth if circuits else None,
        shots=circuits[0].shots if circuits else None,
        seed=seed,
        wall_ms=None if outcome.wall_s is None else 1e3 * outcome.wall_s,
        objective=outcome.objective,
        exact=exact,
        control=control,
        twin=twin,
        tried=sum(count for count, _ in parts) if parts else None,
        kept=sum(count for _, count in parts) if parts else None,
    )


def _left(end: float, clock: Clock) -> Remaining:
    return lambda: end - clock()
