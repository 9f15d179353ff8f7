"""HQC and the race: a classical plan, improved by windows turn after turn, under a deadline; the best so far always stands."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

from qstream.errors import OptionError
from qstream.quantum.record import Remaining
from qstream.routing.window_model import Partition
from qstream.routing.windows import Improved, WindowRecord, WindowSettings, WindowSolver, improve
from schemas.solver import CLASSICAL, Reason, SolverRecord

ArmName = Literal["deterministic", "qaoa", "hqc"]
Clock = Callable[[], float]
DETERMINISTIC: Final = "deterministic"
_THRESHOLD: Final = 1e-3  # of the expectation: a turn that improves it by less has converged
_MAX_TURNS: Final = 64
_LATE: Final = (Reason.TIMEOUT, Reason.DEADLINE_INSUFFICIENT)
_QAOA_SHARE: Final = 0.5  # of the time left, where HQC runs after it


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """Partitions after HQC, its windows, the expectation of the objective in each turn, and why it stopped early, if it did."""

    partitions: tuple[Partition, ...]
    records: tuple[WindowRecord, ...]
    expectations: tuple[float, ...]
    reason: Reason | None


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to plan: the objective where it ended, seconds, windows tried and accepted, and what stopped it, if anything."""

    name: ArmName
    objective: float
    wall_s: float
    windows: int = 0
    accepted: int = 0
    turns: int = 0
    reason: Reason | None = None

    @property
    def answered(self) -> bool:
        return self.reason is None or self.windows > 0

    @property
    def failure(self) -> Reason | None:
        """The reason, unless it is only that the time ended after some windows."""
        return None if self.windows and self.reason in _LATE else self.reason


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The best partitions of a race, which arm lowered them last, and all arms in their order.

    `fallback_reason` says why an arm that was asked for failed; that the time ended after some windows is no failure.
    `answered` is False where every arm that was asked for failed: then `partitions` are those that were given. `wall_s` is
    None without a deadline, so that the record is the same each time.
    """

    partitions: tuple[Partition, ...]
    winner: ArmName
    arms: tuple[Arm, ...]
    records: tuple[WindowRecord, ...]
    answered: bool
    fallback_reason: Reason | None
    wall_s: float | None


def hqc(
    partitions: tuple[Partition, ...],
    settings: WindowSettings,
    *,
    first_turn: int = 0,
    threshold: float = _THRESHOLD,
    max_turns: int = _MAX_TURNS,
    remaining_s: Remaining = lambda: math.inf,
) -> Turns:
    """Iterate windows from a classical plan until they promise no more.

    Each turn tries `settings.count` windows a layer. A circuit starts around the plan, weighted by the number of exchanges that
    lead away from it and perturbed a little by the seed. A turn's expectation is the objective that it reached and what the
    mean sample of a window is above what was kept; for a classical solver that is 0. HQC ends with the first turn that lowers
    the expectation by less than `threshold` of it, after `max_turns`, or at the deadline. Never returns worse partitions than
    it was given.
    """
    warm = replace(settings, warm=True)
    now = partitions
    records: list[WindowRecord] = []
    expectations: list[float] = []
    reason = None
    for turn in range(first_turn, first_turn + max_turns):
        improved = improve(now, warm, turn=turn, remaining_s=remaining_s)
        now, reason = improved.partitions, improved.reason
        records += improved.records
        if reason is not None or not improved.records:
            break
        expectations.append(_expectation(improved))
        if len(expectations) > 1 and expectations[-2] - expectations[-1] < threshold * abs(expectations[-2]):
            break
    return Turns(now, tuple(records), tuple(expectations), reason)


def race(
    partitions: tuple[Partition, ...],
    settings: WindowSettings,
    *,
    qaoa: bool,
    hqc_turns: bool,
    deterministic: bool = True,
    deadline_s: float = math.inf,
    clock: Clock = time.perf_counter,
) -> Outcome:
    """Let the arms that are switched on improve the deterministic plan; the best so far is the answer at any time.

    QAOA is one turn of windows by circuits from their uniform start. HQC is turns of warm-started windows, from the best so
    far: by circuits where `qaoa` is on, else by `settings.solver`, or enumeration if that is circuits too. With a deadline
    QAOA gets half of the time if HQC follows, and no arm begins another window, or another layer of a simulated circuit, after
    it; without one, equal arguments give equal bytes.

    Parameters
    ----------
    partitions
        Of the deterministic plan, which is there before the race.
    deterministic
        Whether that plan may be the answer where no other arm answers; if not, `Outcome.answered` is False then.
    deadline_s
        From the call.
    clock
        Seconds that only rise.

    Raises
    ------
    OptionError
        No arm is switched on.
    """
    if not (qaoa or hqc_turns or deterministic):
        raise OptionError("deterministic is False with qaoa and hqc off, allowed is True: no arm is left")
    start = clock()
    now = partitions
    winner: ArmName = DETERMINISTIC
    arms = [Arm(DETERMINISTIC, _objective(partitions), 0.0)] if deterministic else []
    records: list[WindowRecord] = []
    broken = False
    asked: tuple[tuple[ArmName, bool], ...] = (("qaoa", qaoa), ("hqc", hqc_turns))
    for name in (name for name, on in asked if on):
        began = clock()
        end = deadline_s if name == "hqc" or not hqc_turns else began - start + _QAOA_SHARE * (deadline_s - (began - start))
        turns = _run(name, now, _solved_by(settings, circuits=qaoa and not broken), _left(start + end, clock))
        if _objective(turns.partitions) < _objective(now):
            now, winner = turns.partitions, name
        records += turns.records
        arms.append(_arm(name, turns, clock() - began))
        # Circuits that failed are not asked for again.
        broken = arms[-1].failure is not None
    failed = [arm.failure for arm in arms if arm.failure is not None]
    answered = any(arm.answered for arm in arms)
    wall_s = None if deadline_s == math.inf else clock() - start
    return Outcome(now, winner, tuple(arms), tuple(records), answered, failed[0] if failed else None, wall_s)


def solver_record(outcome: Outcome, settings: WindowSettings, given: SolverRecord) -> SolverRecord:
    """The race as the record of a plan, from the record of the plan that was `given` to it.

    `objective` is that of all layers together, `twin` that of the deterministic plan, `control` what it would be if every window
    of a circuit had gained what as many samples at p = 0 do.
    """
    records = outcome.records
    circuits = [record.circuit for record in records if record.circuit is not None]
    objective = _objective(outcome.partitions)
    twin = objective + sum(record.gain for record in records)
    kept = [record for record in records if record.gain > 0]
    executions = {record.circuit.execution for record in kept if record.circuit is not None}
    return SolverRecord(
        solver=given.solver if outcome.winner == DETERMINISTIC else outcome.winner,
        variant=given.variant,
        execution=executions.pop() if executions else CLASSICAL,
        asked=tuple(arm.name for arm in outcome.arms if arm.name != DETERMINISTIC),
        n=settings.size if records else None,
        depth=settings.layers if circuits else None,
        shots=settings.shots if circuits else None,
        seed=settings.seed,
        wall_ms=None if outcome.wall_s is None else 1e3 * outcome.wall_s,
        objective=objective,
        control=twin - sum(record.control_gain or 0.0 for record in records) if circuits else None,
        twin=twin,
        tried=len(records),
        kept=len(kept),
    )


def _arm(name: ArmName, turns: Turns, wall_s: float) -> Arm:
    accepted = sum(record.gain > 0 for record in turns.records)
    return Arm(name, _objective(turns.partitions), wall_s, len(turns.records), accepted, len(turns.expectations), turns.reason)


def _solved_by(settings: WindowSettings, *, circuits: bool) -> WindowSettings:
    """The settings with circuits, or without any."""
    classical: WindowSolver = "exact" if settings.solver == "qaoa" else settings.solver
    return replace(settings, solver="qaoa" if circuits else classical)


def _left(end: float, clock: Clock) -> Remaining:
    return lambda: end - clock()


def _run(name: ArmName, partitions: tuple[Partition, ...], settings: WindowSettings, remaining_s: Remaining) -> Turns:
    if name == "hqc":
        # Turn 0 is QAOA's, whose windows need not be tried again.
        return hqc(partitions, settings, first_turn=1, remaining_s=remaining_s)
    improved = improve(partitions, settings, remaining_s=remaining_s)
    expectations = (_expectation(improved),) if improved.records else ()
    return Turns(improved.partitions, improved.records, expectations, improved.reason)


def _objective(partitions: tuple[Partition, ...]) -> float:
    return sum(partition.objective() for partition in partitions)


def _expectation(improved: Improved) -> float:
    """See `hqc`."""
    above = sum(record.gain - record.mean_gain for record in improved.records)
    return improved.objective() + above / max(len(improved.records), 1)
