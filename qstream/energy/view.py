"""View: what a domain is at one time, as its planner sees it: who may be limited, to what, and what each is charged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.energy import guard
from qstream.energy.budgets import Tree, tree_of
from qstream.energy.enforced import default_w, enforced_w, held_until_ns, runs_out, unheeded
from qstream.energy.levels import Bools, Floats, Knobs, between, knobs_of, limits_of, speeds
from qstream.energy.measure import measure
from qstream.energy.memory import LEVELS, EnergyState, Memory
from qstream.energy.options import EnergyOptions
from qstream.energy.simple import simple_limits

PEAK_HORIZON: Final = 2  # of the outlook: 10 s
IDLE_PART: Final = 0.15  # of the default limit: data-centre GPUs without work draw .09 to .15
STUCK_NS: Final = 60_000_000_000  # for which a GPU whose actuator refused is left as it is


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A domain at one time. `movable` GPUs may get another limit; the others keep `held_w` and are charged `fixed_w`.
    `enforced_w` is what each may draw at most until the next plan, `peak_w` what it is expected to, infinite with a rail;
    `simple_w` is the limit of the simple scheduler, `even_w` the lowest of these in each job, whose ranks wait for the slowest.
    `limits` [gpus, levels] are those to choose from, `even_w` one of them, ascending, each with its `speed`; `age` is that of the
    newest readings."""

    now: EnergyState
    now_ns: int
    knobs: Knobs
    tree: Tree
    age: NDArray[np.int8]
    movable: Bools
    held_w: Floats
    fixed_w: Floats
    enforced_w: Floats
    peak_w: Floats
    simple_w: Floats
    even_w: Floats
    limits: Floats
    speed: Floats

    def charge_w(self, limit_w: Floats) -> Floats:
        """What GPUs with these limits [gpus] or [gpus, levels] are charged: the limits, or the peaks where these are lower."""
        peak = self.peak_w if limit_w.ndim == 1 else self.peak_w[:, None]
        return np.minimum(limit_w, peak)

    def charged_w(self, limit_w: Floats) -> Floats:
        """What GPUs with these limits charge to each budget: float64 [B]."""
        return self.tree.charged_w(self.charge_w(limit_w))

    def speed_at(self, limit_w: Floats) -> Floats:
        """Speed of each GPU at its limit, linear between the known ones."""
        return between(limit_w, self.limits, self.speed)


def view_of(memory: Memory, options: EnergyOptions, now_ns: int) -> View:
    """Close measurements, and look at the domain."""
    topology = memory.now.topology
    knobs = knobs_of(topology)
    age_s = np.where(memory.now.seen_ns > 0, (now_ns - memory.now.seen_ns) / 1e9, np.inf)
    age = guard.ages(age_s, memory.now.unfit, stale_s=options.stale_s, lost_s=options.lost_s)
    fresh = age == guard.Age.FRESH
    if options.deterministic:
        measure(memory, knobs, options, fresh)
    memory.edit("stuck_ns")[unheeded(memory.now, options)] = max(now_ns, 1)
    now, grid = memory.now, limits_of(topology, knobs)
    enforced = enforced_w(now, options, now_ns, age_s)
    stuck = (now.stuck_ns > 0) & (now_ns - now.stuck_ns < STUCK_NS)
    saving = (now.level >= 0) & (now.level == now.accepted) & (now.level < LEVELS - 1)
    heard = (now.peak_w >= 0).sum(1) > 1  # for more than a moment
    expiring = runs_out(now, options, now_ns) & (now.applied_ns > 0)  # nothing is set in a dry run
    movable = knobs.targetable & fresh & ~stuck & ~expiring
    want = np.where(saving, now.want_w, np.maximum(now.want_w, now.draw_w[:, -1])).astype(np.float64)
    fixed = np.where(age == guard.Age.LOST, np.maximum(enforced, default_w(now)), enforced)
    tree = tree_of(topology, now.budgets, now_ns, held_until_ns(options, now_ns))
    simple = simple_limits(tree, grid[:, 0], grid[:, -1], movable, fixed)
    even = np.where(movable, np.clip(_of_jobs(now.job, simple), grid[:, 0], grid[:, -1]), grid[:, -1])
    limits = np.sort(np.column_stack((grid, even)), axis=1)
    return View(
        now=now,
        now_ns=now_ns,
        knobs=knobs,
        tree=tree,
        age=age,
        movable=movable,
        held_w=np.where(now.limit_w > 0, now.limit_w, default_w(now)).astype(np.float64),
        fixed_w=fixed,
        enforced_w=enforced,
        peak_w=np.where(movable & (not options.rail), _peak_w(now), np.inf),
        simple_w=simple,
        even_w=even,
        limits=limits,
        speed=speeds(limits, np.where(heard, want, -1.0)),
    )


def _peak_w(now: EnergyState) -> Floats:
    """The most that each GPU is expected to draw until the next plan, whatever its limit: float64 [gpus], infinite if unknown.

    Its greatest recent power; more in proportion where the bound of the domain's maximum is above the sum of these.
    """
    want = np.where(now.want_w > 0, now.want_w, np.inf).astype(np.float64)
    overhead = 0.0 if now.topology.overhead_w is None else float(np.maximum(now.topology.overhead_w, 0).sum())
    total = float(want[np.isfinite(want)].sum())
    upper = 0.0 if now.outlook is None else float(now.outlook.upper_w[PEAK_HORIZON]) - overhead
    return want * max(1.0, upper / max(total, 1.0))


def _of_jobs(job: tuple[str, ...], limit_w: Floats) -> Floats:
    """The lowest limit of the GPUs of each job: its ranks wait for the slowest."""
    group = job_groups(job, np.arange(len(limit_w)))
    if group is None:
        return limit_w
    lowest = np.full(int(group.max()) + 1, np.inf)
    np.minimum.at(lowest, group, limit_w)
    return lowest[group]


def choices(view: View, rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """What these GPUs are charged at each limit that may be chosen, and their speeds: float64 [rows, levels], NaN where one
    may not."""
    limits = view.limits[rows]
    allowed = limits <= np.maximum(highest_w(view)[rows, None], limits[:, :1])
    return np.where(allowed, view.charge_w(view.limits)[rows], np.nan), np.where(allowed, view.speed[rows], np.nan)


def parked_w(view: View) -> Floats:
    """What a parked GPU is charged: as the topology says, else what it draws idle, else `IDLE_PART` of its default limit."""
    topology, none = view.now.topology, np.full(len(view.fixed_w), -1.0)
    parked = none if topology.parked_w is None else topology.parked_w
    idle = none if topology.idle_w is None else topology.idle_w
    drawn = np.where(parked >= 0, parked, np.where(idle >= 0, idle, IDLE_PART * view.limits[:, -1]))
    return np.minimum(drawn, view.limits[:, 0]).astype(np.float64)


def highest_w(view: View) -> Floats:
    """The highest limit of each GPU that may be chosen: a cap that is measured or accepted, where the knob is the limit."""
    level, knobs = view.now.level, view.knobs
    own = ~knobs.by_clock & (level >= 0) & (level < LEVELS - 1)
    cap = knobs.levels[np.arange(len(level)), np.maximum(level, 0)]
    return np.where(own, cap, view.limits[:, -1])


def job_groups(job: tuple[str, ...], rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """A number for each job; None if no two GPUs share one."""
    names = [job[row] or f"\0{row}" for row in rows.tolist()]
    if len(set(names)) == len(names):
        return None
    return np.unique(names, return_inverse=True)[1].astype(np.int64)
