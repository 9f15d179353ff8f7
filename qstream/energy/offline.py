"""plan_energy: one plan from a recording, without a server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import instance
from qstream.energy.folding import NONE_AWAITED
from qstream.energy.levels import knobs_of
from qstream.energy.measure import measure
from qstream.energy.memory import RECENT_S, Memory, fresh
from qstream.energy.options import EnergyOptions
from qstream.energy.plan import hold, plan_frame
from qstream.energy.planner import Choice, choose
from qstream.energy.readings import END_NS, fold
from qstream.energy.samples import Samples, gather
from qstream.errors import ProblemError
from schemas.energy import EnergyPlan
from schemas.power import GpuTelemetry, PowerBudget, PowerTopology
from schemas.wording import Shown, must_be

AT_ONCE: Final = 1000  # frames that are held and folded together


@dataclass(frozen=True, slots=True, eq=False)
class Offline:
    """A plan, the choice that it says, and what the recording taught."""

    plan: EnergyPlan
    choice: Choice
    memory: Memory


def plan_energy(
    topology: PowerTopology,
    telemetry: GpuTelemetry | Iterable[GpuTelemetry],
    *,
    budgets: PowerBudget | Iterable[PowerBudget] = (),
    options: EnergyOptions | None = None,
    seed: int = 0,
) -> EnergyPlan:
    """Plan the power limit and clock cap of each GPU of a domain that has opted in.

    The whole recording counts: a GPU is taken to want the greatest power that was recorded of it, and to draw the mean. The
    plan is made at the newest reading: GPUs without readings, and those not heard for `lost_s`, are charged at their default.
    Caps are not tried, since nothing is set; budgets may limit any GPU, by the curves of past sweeps.

    Parameters
    ----------
    topology
        The GPUs, their limits, and the budgets above them.
    telemetry
        Readings in any order; their own times count.
    budgets
        Further budgets on the domain, which hold from now on; of one source the last counts, of several sources the lowest.
    options
        The defaults without; `seed` replaces theirs.

    Returns
    -------
    EnergyPlan
        With `simple_power_limit_w` and the ``simple_`` values of `expected` for the simple scheduler. `status` is infeasible
        where budgets are below what can be set: then GPUs are `parked`, and `missing_w` says what the least limits lack.

    Raises
    ------
    ProblemError
        An argument is of another class; the topology has no GPU; a frame is of another domain, contradicts the topology, or is
        in another unit.
    """
    frames = [telemetry] if isinstance(telemetry, GpuTelemetry) else sorted(telemetry, key=lambda frame: frame.ts_ns)
    given = [budgets] if isinstance(budgets, PowerBudget) else budgets
    return plan_recorded(topology, frames, budgets=given, options=options, seed=seed).plan


def plan_recorded(
    topology: PowerTopology,
    telemetry: Iterable[GpuTelemetry],
    *,
    budgets: Iterable[PowerBudget] = (),
    options: EnergyOptions | None = None,
    seed: int = 0,
) -> Offline:
    """As `plan_energy`, of readings in the order of time, one after another, so that they may be more than memory holds."""
    if not topology.uuid:
        raise ProblemError(must_be("topology", "of 1 or more GPUs", Shown(f"domain {topology.domain!r} of children alone")))
    given = EnergyOptions() if options is None else instance("options", options, EnergyOptions)
    given = given.changed({"seed": seed})
    # A node whose recording ends a little earlier is not silent, and without an actuator no cap can be tried.
    given = given.model_copy(update={"stale_s": given.lost_s, "probe": False})
    memory = replayed(topology, telemetry, given)
    for budget in budgets:
        instance("budgets", budget, PowerBudget)
        _require_domain(budget.domain, topology.domain)
        hold(memory, budget.model_copy(update={"valid_from_ns": 0}))
    newest = memory.now.watermark_ns
    choice = choose(memory, given, newest, in_turn=False)
    plan_id = f"offline/{topology.domain}"
    plan = plan_frame(choice, memory, given, plan_id=plan_id, ts_ns=newest, version=1, base_version=0)
    return Offline(plan, choice, memory)


def replayed(topology: PowerTopology, telemetry: Iterable[GpuTelemetry], options: EnergyOptions) -> Memory:
    """What the readings teach: measured caps as in a stream, and of each GPU its mean and greatest power of all the time."""
    memory, gpus = fresh(topology), len(topology.uuid)
    memory.set(since_ns=NONE_AWAITED)  # also of nodes that are not in the recording
    total_w, samples, want_w = np.zeros(gpus), np.zeros(gpus, np.int64), np.full(gpus, -1, np.float32)
    first_ns = np.full(gpus, END_NS)
    frames = iter(telemetry)
    while some := list(islice(frames, AT_ONCE)):
        for frame in some:
            _require_domain(frame.domain, topology.domain)
        found = gather(some, [frame.ts_ns for frame in some], memory.now, senders=False)
        for fault in found.faults.values():
            raise fault
        _fold(memory, found, options, want_w)
        row = found.row[found.fit]
        np.add.at(total_w, row, found.power_w[found.fit])
        np.add.at(samples, row, 1)
        np.minimum.at(first_ns, row, np.repeat(found.at_ns, np.diff(found.first))[found.fit])
    now = memory.now
    np.maximum(want_w, now.want_w, out=want_w)
    long = (now.seen_ns - np.minimum(first_ns, now.seen_ns) >= RECENT_S * 1e9)[:, None]  # for more than a moment
    memory.edit("peak_w")[:] = np.where(long, want_w[:, None], now.peak_w)
    memory.edit("want_w")[:] = want_w
    memory.edit("power_w")[:] = np.where(samples > 0, total_w / np.maximum(samples, 1), -1)
    return memory


def _fold(memory: Memory, found: Samples, options: EnergyOptions, want_w: NDArray[np.float32]) -> None:
    """Take the samples in, as a stream does that measures every `plan_s`; `want_w` [gpus] keeps the greatest."""
    knobs, period_ns, taken = knobs_of(memory.now.topology), int(options.plan_s * 1e9), 0
    while taken < len(found.at_ns):
        planned_ns = memory.now.planned_ns
        taken = fold(memory, found, taken, (planned_ns // period_ns + 1) * period_ns)
        now = memory.now
        np.maximum(want_w, now.want_w, out=want_w)
        boundary_ns = now.watermark_ns // period_ns * period_ns
        if boundary_ns > planned_ns:
            memory.set(planned_ns=boundary_ns)
            measure(memory, knobs, options, (now.seen_ns > 0) & (now.watermark_ns - now.seen_ns <= options.stale_s * 1e9))


def _require_domain(found: str, wanted: str) -> None:
    if found != wanted:
        raise ProblemError(must_be("domain", f"{wanted!r}, as in the topology", found))
