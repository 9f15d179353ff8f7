"""Planner: from what is known of a domain to the target of each GPU, and to the memory of the plan that is in force then."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.energy import guard
from qstream.energy.allocation import Allocation, Status, allocate
from qstream.energy.demand import demand_of
from qstream.energy.folding import THROTTLED
from qstream.energy.levels import MARGIN, Bools, Floats
from qstream.energy.memory import LEVELS, Memory
from qstream.energy.options import EnergyOptions
from qstream.energy.simple import simple_clocks
from qstream.energy.view import View, choices, highest_w, job_groups, parked_w, view_of
from schemas.energy import ACTIVE, PARKED, RELEASED, TargetReason
from schemas.power import PowerDemand

ROUNDING_W: Final = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Limits that are wanted and who must be parked; `missing_w` is what a budget is short of even then; `bound` is that of
    `value`, the sum of speeds."""

    limit_w: Floats
    parked: Bools
    status: Status
    missing_w: float
    value: float
    bound: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What a plan says, by GPU of the topology; those that are not `named` are not in it.

    `upper_w` is charged to the budgets, `predicted_w` expected; `slowdown` is -1 where it is not known; `gain_w` are watts
    saved at equal work, of the `free_w` that a GPU draws at its default limit, without a cap.
    """

    view: View
    answer: Answer
    named: Bools
    limit_w: Floats
    clock_mhz: Floats
    state: NDArray[np.uint8]
    reason: list[TargetReason]
    upper_w: Floats
    predicted_w: Floats
    slowdown: Floats
    gain_w: Floats
    free_w: Floats
    simple_w: Floats
    simple_mhz: Floats
    status: Status
    missing_w: float


def choose(memory: Memory, options: EnergyOptions, now_ns: int, *, in_turn: bool = True) -> Choice:
    """Close measurements, then choose targets. The memory learns; the plan in force stays until `adopt`.

    `in_turn` is for a plan that follows others, whose targets change gently; without, the targets are the final ones.
    """
    view = view_of(memory, options, now_ns)
    answer = _budgeted(view) if options.deterministic else _alone(view)
    limit = _paced(view, options, answer) if in_turn else answer.limit_w
    return _choice(view, options, answer, limit)


def _alone(view: View) -> Answer:
    """The simple scheduler's limits as the answer."""
    simple = view.simple_w
    missing = max(0.0, float((view.charged_w(simple) - view.tree.budget_w).max()))
    status: Status = "infeasible" if missing > ROUNDING_W else "feasible"
    value = float(view.speed_at(simple)[view.movable].sum())
    return Answer(simple, np.zeros(len(simple), bool), status, missing, value, None)


def _budgeted(view: View) -> Answer:
    """Limits that keep every budget, at a sum of speeds no lower than the simple scheduler's, and who must be parked."""
    tree, rows = view.tree, np.flatnonzero(view.movable)
    limit, parked = view.fixed_w.copy(), np.zeros(len(view.fixed_w), bool)
    room = tree.budget_w - tree.charged_w(np.where(view.movable, 0.0, view.fixed_w))
    short = float(np.maximum(-room, 0.0).max())
    if not len(rows):
        return Answer(limit, parked, "infeasible" if short > ROUNDING_W else "optimal", short, 0.0, 0.0)
    idle = np.where(view.movable, parked_w(view), 0.0)
    left = room - (tree.charged_w(idle) - tree.overhead_w)
    charge, worth = choices(view, rows)
    above, group = tree.above[rows], job_groups(view.now.job, rows)
    found = allocate(np.maximum(charge - idle[rows, None], 0.0), worth, above, np.maximum(left, 0.0), group=group)
    found = _no_worse(view, rows, found, charge, worth)
    parked[rows] = found.level < 0
    limit[rows] = view.limits[rows][np.arange(len(rows)), np.maximum(found.level, 0)]
    limit = np.where(limit >= view.peak_w, np.maximum(limit, highest_w(view)), limit)
    limit[parked] = view.limits[parked, 0]
    missing = max(float((found.missing_w + np.maximum(-left, 0.0)).max()), short)
    return Answer(limit, parked, "infeasible" if missing > ROUNDING_W else found.status, missing, found.value, found.bound)


def _no_worse(view: View, rows: NDArray[np.int64], found: Allocation, charge: Floats, worth: Floats) -> Allocation:
    """The allocation, or the simple scheduler's levels where these keep the budgets and are worth more: few GPUs leave the search
    few combinations of levels, between which it may lose more than it finds."""
    limits, at = view.limits[rows], np.arange(len(rows))
    level = (limits < view.even_w[rows, None]).sum(1)
    total, drawn = float(worth[at, level].sum()), view.fixed_w.copy()
    if not total > found.value:  # NaN where a cap forbids one of them
        return found
    drawn[rows] = charge[at, level]
    if (view.tree.charged_w(drawn) > view.tree.budget_w + ROUNDING_W).any():
        return found
    return replace(found, level=level, value=total, status="feasible")


def demanded(choice: Choice) -> PowerDemand:
    """What watts are worth to the domain, for the one that allots them, and what it may draw now."""
    view = choice.view
    rows = np.flatnonzero(view.movable)
    watts, value = choices(view, rows)
    upper = np.where(choice.state == PARKED, choice.upper_w, np.maximum(choice.upper_w, view.charge_w(view.enforced_w)))
    fixed = np.where(view.movable, 0.0, view.fixed_w)
    return demand_of(view.now, view.tree, view.now_ns, watts=watts, value=value, rows=rows, fixed_w=fixed, upper_w=upper)


def _paced(view: View, options: EnergyOptions, answer: Answer) -> Floats:
    """Limits that change gently, and so that no budget is passed while some nodes are quicker than others."""
    now, tree, wanted = view.now, view.tree, answer.limit_w
    default = now.topology.limit_default_w
    in_force = np.where(now.target_w > 0, now.target_w, default)
    if options.mode == "apply":
        in_force = np.where(now.limit_w > 0, now.limit_w, in_force)
    applied = np.where(view.movable, in_force, wanted).astype(np.float64)
    before = np.where(now.before_w > 0, now.before_w, default).astype(np.float64)
    forced, limit = answer.parked.copy(), wanted
    rows, ranks = np.flatnonzero(view.movable), np.full(len(wanted), -1, np.int64)
    if (group := job_groups(now.job, rows)) is not None:
        ranks[rows] = group
    for _ in range(2):
        limit = guard.paced(
            wanted, applied, before, now.changed_ns, view.now_ns, forced=forced,
            dwell_s=options.dwell_s, deadband_w=options.deadband_w, max_lowered=options.max_lowered, job=ranks,
        )  # fmt: skip
        limit = np.where(now.hot == 1, np.minimum(limit, applied), limit)
        if not (view.charged_w(limit) > tree.budget_w + ROUNDING_W).any():
            break
        forced = forced | (wanted < applied)
    elapsed_s = (view.now_ns - now.published_ns) / 1e9 if now.published_ns else np.inf
    enforced = view.enforced_w if options.mode == "apply" else applied
    limit = _raised_last(view, limit, enforced)
    return guard.ramped(limit, applied, ramp_w_s=tree.ramp_w_s, elapsed_s=elapsed_s)  # what it holds back only falls later


def _raised_last(view: View, limit: Floats, applied: Floats) -> Floats:
    """Hold raises under a budget of several nodes that a raise before the others' falls could pass; so is letting go of a GPU."""
    held, tree, node = limit.copy(), view.tree, view.now.topology.node_of_gpu
    for budget in np.flatnonzero(view.charged_w(np.maximum(limit, applied)) > tree.budget_w + ROUNDING_W):
        under = (tree.above == budget).any(1)
        if len(np.unique(node[under])) > 1:
            held[under] = np.minimum(held[under], applied[under])
    return held


def _choice(view: View, options: EnergyOptions, answer: Answer, limit: Floats) -> Choice:
    """The targets, and what to expect of each."""
    now, knobs, rows = view.now, view.knobs, np.arange(len(limit))
    lost = (view.age == guard.Age.LOST) & knobs.targetable & (limit >= view.fixed_w - ROUNDING_W)
    level = np.maximum(now.level, 0)
    capped = knobs.by_clock & (now.level >= 0) & (now.level < LEVELS - 1) & view.movable & options.deterministic
    clock = np.where(capped, knobs.levels[rows, level], np.where(view.movable | lost, -1.0, now.target_mhz))
    simple_mhz = simple_clocks(knobs.levels, now.active, knobs.by_clock & view.movable & (now.works == 1))
    clock = clock if options.deterministic else np.where(view.movable, simple_mhz, clock)
    state = np.full(len(limit), ACTIVE, np.uint8)
    state[answer.parked], state[lost] = PARKED, RELEASED
    target = np.where(lost, -1.0, np.where(view.movable, limit, view.held_w))
    topology = now.topology
    ends = np.where(knobs.by_clock, knobs.levels[:, 0], -1.0), np.where(knobs.by_clock, knobs.levels[:, -1], -1.0)
    fault = guard.target_faults(target, clock, topology.limit_min_w, topology.limit_max_w, *ends, knobs.targetable)
    power = np.where(now.power_w >= 0, now.power_w, limit).astype(np.float64)
    draw = np.where((now.level >= 0) & (now.draw_w[rows, level] > 0), now.draw_w[rows, level], power)
    slow, predicted = _slowdown(view, limit, answer.parked), np.minimum(draw, limit)
    limited = (now.limit_w > 0) & (now.limit_w < view.limits[:, -1]) & (power >= THROTTLED * now.limit_w)
    likely = np.where(limited, np.maximum(power, now.want_w / MARGIN), power)  # what is not held back draws what it draws
    free = np.where(now.draw_w[:, -1] > 0, now.draw_w[:, -1], likely).astype(np.float64)
    free = np.where(knobs.targetable, np.minimum(free, view.limits[:, -1]), free)  # a limit that was raised by hand saves nothing
    upper = np.where(answer.parked, parked_w(view), view.charge_w(limit))
    over = float(np.maximum(view.tree.charged_w(upper) - view.tree.budget_w, 0.0).max())
    kept = over <= ROUNDING_W or answer.status == "infeasible"
    return Choice(
        view=view,
        answer=answer,
        named=fault == guard.Fault.NONE,
        limit_w=target,
        clock_mhz=clock,
        state=state,
        reason=_reasons(view, options, limit, answer.parked),
        upper_w=upper,
        predicted_w=predicted,
        slowdown=slow,
        gain_w=np.where(view.movable & ~answer.parked, free - predicted * (1 + np.maximum(slow, 0.0)), 0.0),
        free_w=free,
        simple_w=view.simple_w,
        simple_mhz=simple_mhz,
        status=answer.status if kept else "infeasible",
        missing_w=round(answer.missing_w if kept else over, 6),
    )


def _slowdown(view: View, limit: Floats, parked: Bools) -> Floats:
    """Expected of the cap, as it was measured, and of the limit, as past sweeps say; -1 where nothing is known."""
    now, rows = view.now, np.arange(len(limit))
    at, default = now.time_s[rows, np.maximum(now.level, 0)], now.time_s[:, -1]
    measured = (now.level >= 0) & (at > 0) & (default > 0)
    ratio = np.where(measured, at, 1.0) / np.where(measured, default, 1.0)
    theta = np.where(view.movable, np.maximum(view.speed_at(limit), 1e-6), 1.0)
    known = (measured | (now.level < 0) | (now.level == LEVELS - 1)) & ~parked
    return np.where(known, np.maximum(ratio / theta - 1, 0.0), -1.0).astype(np.float64)


def _reasons(view: View, options: EnergyOptions, limit: Floats, parked: Bools) -> list[TargetReason]:
    """Why each GPU has its target: the first rule that applies."""
    now, most = view.now, view.limits[:, -1]
    need = np.minimum(np.where(now.want_w > 0, MARGIN * now.want_w, most), most)
    rules = (
        ((view.age == guard.Age.LOST) & (limit >= view.fixed_w - ROUNDING_W), TargetReason.LOST),
        (~view.movable, TargetReason.HELD),
        (parked, TargetReason.PARKED),
        (now.hot == 1, TargetReason.THERMAL),
        (np.full(len(limit), not options.deterministic), TargetReason.SIMPLE),
        (now.probing == 1, TargetReason.PROBE),
        (limit < need - 1, TargetReason.BUDGET),
        ((now.accepted >= 0) & (now.accepted < LEVELS - 1), TargetReason.ACCEPTED),
    )
    chosen = [TargetReason.DEFAULT] * len(limit)
    for applies, reason in reversed(rules):
        for row in np.flatnonzero(applies).tolist():
            chosen[row] = reason
    return chosen


def is_in_force(memory: Memory, choice: Choice) -> bool:
    """Whether the plan in force has the same targets."""
    now, named = memory.now, choice.named
    same = np.abs(choice.limit_w - now.target_w) <= guard.ROUNDING_W
    return bool((same & (choice.clock_mhz.astype(np.float32) == now.target_mhz))[named].all())


def adopt(memory: Memory, choice: Choice) -> None:
    """Keep the targets of a plan that is published."""
    now, now_ns = memory.now, choice.view.now_ns
    limit, clock = choice.limit_w.astype(np.float32), choice.clock_mhz.astype(np.float32)
    moved = choice.named & (np.abs(limit - now.target_w) > guard.ROUNDING_W)
    changed = moved | (choice.named & (clock != now.target_mhz))
    memory.edit("before_w")[moved] = now.target_w[moved]
    memory.edit("changed_ns")[changed] = now_ns
    memory.edit("target_w")[choice.named] = limit[choice.named]
    memory.edit("target_mhz")[choice.named] = clock[choice.named]
    memory.set(published_ns=now_ns)
