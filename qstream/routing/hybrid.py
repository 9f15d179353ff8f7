"""HQC: a classical plan, improved by windows turn after turn; and the portfolio of a placement, of windows and such turns."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from qstream.errors import OptionError
from qstream.quantum.portfolio import Arm, Clock, Race, Step, race, race_record
from qstream.quantum.record import Remaining
from qstream.quantum.window import WindowSolver
from qstream.routing.window_model import Partition
from qstream.routing.windows import Improved, WindowRecord, WindowSettings, improve
from schemas.solver import CLASSICAL, Reason, SolverRecord
from schemas.wording import must_be

Partitions = tuple[Partition, ...]
_THRESHOLD: Final = 1e-3  # of the expectation: a turn that improves it by less has converged
_MAX_TURNS: Final = 64
_QAOA_SHARE: Final = 0.5  # of the time left, where HQC runs after it


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """Partitions after HQC, its windows, the expectation of the objective in each turn, and why it stopped early, if it did."""

    partitions: Partitions
    records: tuple[WindowRecord, ...]
    expectations: tuple[float, ...]
    reason: Reason | None


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A race of windows, and the record of every window in it."""

    race: Race[Partitions]
    records: tuple[WindowRecord, ...]


def hqc(
    partitions: Partitions,
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


def improve_placement(
    partitions: Partitions,
    settings: WindowSettings,
    *,
    qaoa: bool,
    hqc_turns: bool,
    deterministic: bool = True,
    deadline_s: float = math.inf,
    clock: Clock = time.perf_counter,
) -> Planned:
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
        Whether that plan may be the answer where no other arm answers; if not, ``race.answered`` is False then.
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
        raise OptionError(must_be("deterministic", "True where qaoa and hqc are off: no arm is left", deterministic))
    records: list[WindowRecord] = []
    arms: list[Arm[Partitions]] = []
    if qaoa:
        arms.append(Arm("qaoa", partial(_once, settings, records), _QAOA_SHARE if hqc_turns else 1.0))
    if hqc_turns:
        arms.append(Arm("hqc", partial(_turns, settings, records, qaoa)))
    found = race(partitions, _objective(partitions), arms, may_stand=deterministic, deadline_s=deadline_s, clock=clock)
    return Planned(found, tuple(records))


def placement_record(planned: Planned, settings: WindowSettings, given: SolverRecord) -> SolverRecord:
    """The race as the record of a plan, from the record of the plan that was `given` to it.

    `objective` is that of all layers together, `twin` that of the deterministic plan, `control` what it would be if every window
    of a circuit had gained what as many samples at p = 0 do.
    """
    records = planned.records
    circuits = any(record.circuit is not None for record in records)
    twin = planned.race.objective + sum(record.gain for record in records)
    return race_record(
        planned.race,
        given,
        seed=settings.seed,
        n=settings.size if records else None,
        control=twin - sum(record.control_gain or 0.0 for record in records) if circuits else None,
        twin=twin,
    )


def _once(
    settings: WindowSettings, records: list[WindowRecord], partitions: Partitions, circuits: bool, remaining_s: Remaining
) -> Step[Partitions]:
    """One turn of windows by circuits."""
    improved = improve(partitions, _solved_by(settings, circuits=circuits), remaining_s=remaining_s)
    records += improved.records
    return _step(improved.partitions, improved.records, settings, improved.reason)


def _turns(
    settings: WindowSettings,
    records: list[WindowRecord],
    qaoa: bool,
    partitions: Partitions,
    circuits: bool,
    remaining_s: Remaining,
) -> Step[Partitions]:
    """HQC from its second turn on: the windows of the first are QAOA's, and need not be tried again."""
    turns = hqc(partitions, _solved_by(settings, circuits=qaoa and circuits), first_turn=1, remaining_s=remaining_s)
    records += turns.records
    return _step(turns.partitions, turns.records, settings, turns.reason)


def _step(
    partitions: Partitions, records: tuple[WindowRecord, ...], settings: WindowSettings, reason: Reason | None
) -> Step[Partitions]:
    circuits = any(record.circuit is not None for record in records)
    kept = [record for record in records if record.gain > 0]
    executions = [record.circuit.execution for record in kept if record.circuit is not None]
    return Step(
        partitions if records or reason is None else None,
        _objective(partitions),
        tried=len(records),
        kept=len(kept),
        execution=executions[0] if executions else CLASSICAL,
        depth=settings.layers if circuits else None,
        shots=settings.shots if circuits else None,
        reason=reason,
    )


def _solved_by(settings: WindowSettings, *, circuits: bool) -> WindowSettings:
    """The settings with circuits, or without any."""
    classical: WindowSolver = "exact" if settings.solver == "qaoa" else settings.solver
    return replace(settings, solver="qaoa" if circuits else classical)


def _objective(partitions: Partitions) -> float:
    return sum(partition.objective() for partition in partitions)


def _expectation(improved: Improved) -> float:
    """See `hqc`."""
    above = sum(record.gain - record.mean_gain for record in improved.records)
    return improved.objective() + above / max(len(improved.records), 1)
