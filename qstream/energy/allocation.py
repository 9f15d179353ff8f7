"""Allocate: one level for each GPU, the most value under nested power budgets, with a bound on what any answer can reach."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.energy.fleet import Fleet, Floats, Ints, fleet_of
from qstream.energy.greedy import fill_parts, fill_whole
from qstream.energy.hulls import steps_of
from qstream.energy.prices import priced

Status = Literal["optimal", "feasible", "infeasible"]
_PROVEN: Final = 1e-9  # of the bound: nearer to it is rounding


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """Levels under budgets.

    `level` int64 [G], -1 for a parked GPU; `planned_w` float64 [B], what they charge to each budget; `value`, the sum of their
    values; `bound`, which no allocation exceeds; `status`, ``optimal`` where the bound is reached, ``infeasible`` where budgets
    are too small for the least levels of their GPUs; `missing_w` float64 [B], by how many watts each is.
    """

    level: Ints
    planned_w: Floats
    value: float
    bound: float
    status: Status
    missing_w: Floats


def allocate(
    power_w: ArrayLike, value: ArrayLike, domain: ArrayLike, budget_w: ArrayLike, *, group: ArrayLike | None = None
) -> Allocation:
    """Choose a level of each GPU so that every budget holds and the sum of values is as large as it can be, or nearly.

    Greedy along the concave hulls of value over watts, then what fits, then exchanges of pairs under one budget; the bound is
    the linear relaxation's optimum. Groups under different budgets are also solved by prices of these, and the better stands.

    Where a budget is below the sum of the least levels under it, its GPUs take these, and those of the lowest value (at their
    best level) are parked until it holds; `bound` then counts parking as a level of 0 W. A parked GPU is charged 0 W: subtract
    what it draws from its powers and budgets beforehand.

    Parameters
    ----------
    power_w : float64 [G, K]
        Watts charged for each level of a GPU, at least 0; NaN where it has no such level.
    value : float64 [G, K]
        What a level is worth, such as weight times relative speed; NaN where `power_w` is.
    domain : int [G, D]
        Every budget above a GPU, in any order, numbered through; -1 for none. Budgets are nested.
    budget_w : float64 [B]
        Watts of each budget; infinite for none.
    group : int [G], optional
        GPUs with the same number take the same level, such as the ranks of one synchronous job.

    Raises
    ------
    ProblemError
        A shape, a number or the nesting breaks a rule.
    """
    fleet = single = fleet_of(power_w, value, domain, budget_w, None)
    if group is not None:
        fleet = fleet_of(power_w, value, domain, budget_w, group)
    least = fleet.least
    charged = fleet.charged_w(least)
    missing = np.where(charged > fleet.room_w, charged - fleet.room_w, 0.0)
    if missing.any():
        level, bound = _parked(fleet, least, missing > 0), _bound(_with_parking(single))
    else:
        steps, slack = steps_of(fleet.power_w, fleet.value, least), fleet.room_w - charged
        level = fill_whole(fleet, steps, slack, least)
        if _is_laminar(fleet, single):
            bound = fleet.total(least) + float(fill_parts(fleet, steps, slack) @ steps.gain)
        else:
            level, bound = priced(fleet, least, level, _bound(single))
    found = fleet.total(level)
    status: Status = "optimal" if found >= bound - _PROVEN * max(1.0, abs(bound)) else "feasible"
    return Allocation(
        level[fleet.unit_of],
        fleet.charged_w(level),
        found,
        max(bound, found),
        "infeasible" if missing.any() else status,
        missing,
    )


def _is_laminar(fleet: Fleet, single: Fleet) -> bool:
    """Whether the GPUs of each unit have the same budgets above them, so that the greedy's bound is that of the units."""
    return bool((np.diff(fleet.first)[fleet.unit_of] == np.diff(single.first)).all())


def _bound(fleet: Fleet) -> float:
    """The optimum of the linear relaxation, where every GPU chooses for itself."""
    least = fleet.least
    steps = steps_of(fleet.power_w, fleet.value, least)
    part = fill_parts(fleet, steps, fleet.room_w - fleet.charged_w(least))
    return fleet.total(least) + float(part @ steps.gain)


def _with_parking(fleet: Fleet) -> Fleet:
    """The fleet with one more level, of 0 W and no value."""
    power, worth, charge = (np.pad(each, ((0, 0), (0, 1))) for each in (fleet.power_w, fleet.value, fleet.charge_w))
    return replace(fleet, power_w=power, value=worth, charge_w=charge)


def _parked(fleet: Fleet, least: Ints, short: NDArray[np.bool_]) -> Ints:
    """Levels where `short` budgets [B] cannot hold the least: units are parked, others there stay at least, the rest goes up."""
    level = least.copy()
    owner = np.repeat(np.arange(len(least)), np.diff(fleet.first))
    weight, members = np.nanmax(fleet.value, axis=1), np.bincount(fleet.budget, minlength=len(short))
    charged = fleet.charged_w(level)
    for budget in sorted(np.flatnonzero(short), key=lambda budget: members[budget]):
        under = owner[fleet.budget == budget]
        for unit in under[np.argsort(weight[under], kind="stable")]:
            if charged[budget] <= fleet.room_w[budget]:
                break
            level[unit] = -1
            charged = fleet.charged_w(level)
    free = np.ones(len(least), np.bool_)
    free[owner[short[fleet.budget]]] = False
    steps = steps_of(np.where(free[:, None], fleet.power_w, np.nan), fleet.value, least)
    return np.where(free, fill_whole(fleet, steps, fleet.room_w - charged, np.where(free, level, -1)), level)
