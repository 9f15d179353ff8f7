"""Budgets filled step by step, most value a watt first: whole steps for an answer, parts of steps for its bound.

On nested budgets the fractional greedy is the optimum of the linear relaxation, as the budgets form a polymatroid (Edmonds 1970).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qstream.energy.fleet import Fleet, Floats, Ints
from qstream.energy.hulls import Steps
from qstream.kernels import compiled

TOGETHER = 16  # units whose levels are exchanged in pairs
_PASSES = 2  # a third changes next to nothing


def fill_parts(fleet: Fleet, steps: Steps, slack_w: Floats) -> Floats:
    """The part of each step that the slack [B] has room for, float64 [S], where steps may be cut."""
    part, level = np.zeros(len(steps.unit)), np.full(len(fleet.power_w), -1)
    fill(steps.unit, steps.lower, steps.upper, fleet.first, fleet.budget, fleet.charge_w, slack_w.copy(), False, level, part)
    return part


def fill_whole(fleet: Fleet, steps: Steps, slack_w: Floats, level: Ints) -> Ints:
    """Levels [U] after whole steps from `level`, after what fits besides, and after exchanges of pairs under one budget.

    `slack_w` [B] is what the charges at `level` leave.
    """
    found, slack, part = level.copy(), slack_w.copy(), np.zeros(len(steps.unit))
    fill(steps.unit, steps.lower, steps.upper, fleet.first, fleet.budget, fleet.charge_w, slack, True, found, part)
    inner = np.full(len(level), -1)
    has = np.diff(fleet.first) > 0
    inner[has] = fleet.budget[fleet.first[:-1][has]]
    turn = np.argsort(inner, kind="stable")
    exchange(
        turn, inner, steps.unit, fleet.power_w, fleet.value, fleet.first, fleet.budget, fleet.charge_w, slack, found, _PASSES
    )
    return found


@compiled
def fill(
    unit: Any, lower: Any, upper: Any, first: Any, budget: Any, charge: Any, slack: Any, whole: bool, level: Any, part: Any
) -> None:
    """Take the steps in their order, each whole or as far as there is room; a unit whose step was cut takes no more."""
    full = np.zeros(len(level), np.bool_)
    for s in range(len(unit)):
        u = unit[s]
        if full[u]:
            continue
        share = 1.0
        for e in range(first[u], first[u + 1]):
            more, room = charge[e, upper[s]] - charge[e, lower[s]], slack[budget[e]]
            if more > room:
                share = min(share, max(room, 0.0) / more)
        if share < 1.0:
            full[u] = True
            if whole:
                continue
        else:
            level[u] = upper[s]
        part[s] = share
        for e in range(first[u], first[u + 1]):
            slack[budget[e]] -= share * (charge[e, upper[s]] - charge[e, lower[s]])


@compiled
def move(u: Any, old: Any, new: Any, first: Any, budget: Any, charge: Any, slack: Any) -> Any:
    """Charge a unit for a new level; whether all of its budgets have room for it."""
    fits = True
    for e in range(first[u], first[u + 1]):
        slack[budget[e]] -= charge[e, new] - charge[e, old]
        fits = fits and slack[budget[e]] >= 0.0
    return fits


@compiled
def exchange(
    turn: Any,
    inner: Any,
    order: Any,
    power: Any,
    value: Any,
    first: Any,
    budget: Any,
    charge: Any,
    slack: Any,
    level: Any,
    passes: int,
) -> None:
    """Raise units, in `order`, to the best level that fits; then pairs within `TOGETHER` of `turn` that have one `inner` budget.

    Units at level -1 stay there.
    """
    units, levels = power.shape
    highest = np.full(units, -np.inf)
    for u in range(units):
        for k in range(levels):
            highest[u] = max(highest[u], value[u, k]) if value[u, k] == value[u, k] else highest[u]  # not NaN
    for _ in range(passes):
        changed, seen = False, np.zeros(units, np.bool_)
        for s in range(len(order)):
            u = order[s]
            at = to = level[u]
            if seen[u] or at < 0:
                continue
            seen[u] = True
            e = first[u]
            room = slack[budget[e]] if e < first[u + 1] else np.inf
            for k in range(levels):
                if value[u, k] > value[u, to] and (room == np.inf or charge[e, k] - charge[e, at] <= room):
                    if move(u, at, k, first, budget, charge, slack):
                        to = k
                    move(u, k, at, first, budget, charge, slack)
            if to != at:
                move(u, at, to, first, budget, charge, slack)
                level[u] = to
                changed = True
        for i in range(units):
            u, begin = turn[i], i - i % TOGETHER
            for j in range(begin, min(begin + TOGETHER, units)):
                w = turn[j]
                if level[u] >= 0 and value[u, level[u]] == highest[u]:
                    break
                if u != w and inner[u] == inner[w] and level[u] >= 0 and level[w] >= 0:
                    changed |= swap(u, w, power, value, highest[u], first, budget, charge, slack, level)
        if not changed:
            break


@compiled
def swap(
    u: Any, w: Any, power: Any, value: Any, highest: Any, first: Any, budget: Any, charge: Any, slack: Any, level: Any
) -> Any:
    """Raise u, worth at most `highest`, and lower w as is worth most, if anything; their first entries are of one budget."""
    best, up, down, here = 1e-9, -1, -1, first[u] < first[u + 1]
    old_u, old_w = level[u], level[w]
    room = slack[budget[first[u]]] if here else np.inf
    for m in range(power.shape[1]):
        loss = value[w, old_w] - value[w, m]
        if not power[w, m] < power[w, old_w] or highest - value[u, old_u] - loss <= best:
            continue
        freed = charge[first[w], old_w] - charge[first[w], m] if here else 0.0
        for k in range(power.shape[1]):
            if not value[u, k] - value[u, old_u] - loss > best:
                continue
            if here and charge[first[u], k] - charge[first[u], old_u] - freed > room:
                continue
            lowered = move(w, old_w, m, first, budget, charge, slack)  # a group may draw less in all and more in one budget
            if move(u, old_u, k, first, budget, charge, slack) and lowered:
                best, up, down = value[u, k] - value[u, old_u] - loss, k, m
            move(u, k, old_u, first, budget, charge, slack)
            move(w, m, old_w, first, budget, charge, slack)
    if up < 0:
        return False
    move(w, old_w, down, first, budget, charge, slack)
    move(u, old_u, up, first, budget, charge, slack)
    level[u], level[w] = up, down
    return True
