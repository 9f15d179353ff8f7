"""A fleet under nested power budgets: its checked arrays, with each group of GPUs as one unit that takes one level.

Axes: GPUs G, levels K, budgets above a GPU D, budgets B, units U, entries E: a unit and one of the budgets above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import array, read_only
from qstream.errors import ProblemError
from schemas.wording import Shown, must_be

ROUNDING_W: Final = 1e-9  # a charge that is over a budget by less than this, and the next by a part, is rounding
_ROUNDING: Final = 1e-12

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """Units and what each of their levels charges to the budgets above them.

    `unit_of` [G]; `power_w` and `value` [U, K], sums over a unit's GPUs, NaN where one of them has no such level; the entries
    of unit u are ``first[u]`` to ``first[u + 1]``, each with its `budget` [E] and what it is charged, `charge_w` [E, K]; those
    of a single GPU begin with its smallest budget. `room_w` [B] are the budgets with a little for rounding.
    """

    unit_of: Ints
    power_w: Floats
    value: Floats
    first: Ints
    budget: Ints
    charge_w: Floats
    room_w: Floats

    def __post_init__(self) -> None:
        # In one form, so that each kernel is compiled once.
        for name in ("power_w", "value", "first", "budget", "charge_w"):
            object.__setattr__(self, name, read_only(np.ascontiguousarray(getattr(self, name))))

    @property
    def least(self) -> Ints:
        """The level of each unit that draws least, of equal ones that of most value: int64 [U]."""
        power = np.where(np.isnan(self.power_w), np.inf, self.power_w)
        lowest = power == power.min(1, keepdims=True)
        found: Ints = np.where(lowest, np.nan_to_num(self.value, nan=-np.inf), -np.inf).argmax(1)
        return found

    def charged_w(self, level: Ints) -> Floats:
        """Watts charged to each budget, float64 [B]; a unit at level -1 charges none."""
        owner = np.repeat(np.arange(len(level)), np.diff(self.first))
        watts = np.where(level[owner] >= 0, self.charge_w[np.arange(len(owner)), level[owner]], 0.0)
        found: Floats = np.bincount(self.budget, watts, minlength=len(self.room_w)).astype(np.float64)
        return found

    def total(self, level: Ints) -> float:
        """Value of all units; one at level -1 has none."""
        return float(np.where(level >= 0, self.value[np.arange(len(level)), level], 0.0).sum())


def fleet_of(power_w: ArrayLike, value: ArrayLike, domain: ArrayLike, budget_w: ArrayLike, group: ArrayLike | None) -> Fleet:
    """The checked arguments of `allocate`; `ProblemError` names the argument and the rule that it breaks."""
    power, worth = array("power_w", power_w, np.float64, "G K"), array("value", value, np.float64, "G K")
    above, budgets = array("domain", domain, np.int64, "G D"), array("budget_w", budget_w, np.float64, "B")
    if not power.size:
        raise ProblemError(must_be("power_w", "of 1 or more GPUs with 1 or more levels", Shown(f"shape {power.shape}")))
    if worth.shape != power.shape:
        raise ProblemError(must_be("value", f"of shape {power.shape}, as power_w", Shown(f"shape {worth.shape}")))
    if len(above) != len(power):
        raise ProblemError(must_be("domain", f"one row for each of {len(power)} GPUs", Shown(f"{len(above)} rows")))
    _check_levels(power, worth)
    if np.isnan(budgets).any():
        raise ProblemError(must_be(f"budget_w[{int(np.isnan(budgets).argmax())}]", "a number of watts", Shown("NaN")))
    above = _nested(above, len(budgets))
    room = budgets + np.where(np.isfinite(budgets), _ROUNDING * np.abs(budgets), 0.0) + ROUNDING_W
    if group is None:
        rows, columns = np.nonzero(above >= 0)
        first = np.concatenate(([0], np.cumsum((above >= 0).sum(1))))
        return Fleet(np.arange(len(power)), power, worth, first, above[rows, columns], power[rows], room)
    return _grouped(power, worth, above, room, array("group", group, np.int64, "G"))


def _grouped(power: Floats, worth: Floats, above: Ints, room: Floats, group: Ints) -> Fleet:
    """Units are the groups in ascending order of their numbers."""
    if group.shape != (len(power),):
        raise ProblemError(must_be("group", f"one number for each of {len(power)} GPUs", Shown(f"shape {group.shape}")))
    names, unit_of = np.unique(group, return_inverse=True)
    joint_w, joint_worth = _sums(power, unit_of), _sums(worth, unit_of)
    bare = np.isnan(joint_w).all(1)
    if bare.any():
        named = names[int(bare.argmax())]
        raise ProblemError(must_be(f"power_w of group {named}", "given at a level that all its GPUs have", Shown("none")))
    rows, columns = np.nonzero(above >= 0)
    size = np.bincount(above[rows, columns], minlength=len(room))
    smallest = np.argsort(size, kind="stable")  # budgets by their members, in the order of a unit's entries
    place = np.argsort(smallest)
    pairs, entry = np.unique(unit_of[rows] * len(room) + place[above[rows, columns]], return_inverse=True)
    charge = _sums(power[rows], entry)
    owner, budget = np.divmod(pairs, max(len(room), 1))
    budget = smallest[budget]
    first = np.searchsorted(owner, np.arange(len(names) + 1)).astype(np.int64)
    return Fleet(unit_of, joint_w, joint_worth, first, budget, charge, room)


def _sums(rows: Floats, number: Ints) -> Floats:
    """Sums of the rows [N, K] of each number, which are 0, 1, 2 and so on: float64 [numbers, K]."""
    order = np.argsort(number, kind="stable")
    if not len(order):
        return np.empty((0, rows.shape[1]))
    found: Floats = np.add.reduceat(rows[order], np.flatnonzero(np.diff(number[order], prepend=-1)))
    return found


def _check_levels(power: Floats, worth: Floats) -> None:
    """Every GPU has a level, and watts and value are given at the same ones."""
    missing = np.isnan(power)
    if (missing != np.isnan(worth)).any():
        gpu, level = np.argwhere(missing != np.isnan(worth))[0]
        shown = Shown(f"{power[gpu, level]:g} and {worth[gpu, level]:g}")
        raise ProblemError(must_be(f"power_w and value [{gpu}, {level}]", "both numbers or both NaN (no such level)", shown))
    if missing.all(1).any():
        raise ProblemError(must_be(f"power_w[{int(missing.all(1).argmax())}]", "given at 1 or more levels", Shown("NaN only")))
    for name, given, low in (("power_w", power, 0.0), ("value", worth, -np.inf)):
        wrong = ~missing & ~(np.isfinite(given) & (given >= low))
        if wrong.any():
            gpu, level = np.argwhere(wrong)[0]
            allowed = "a finite number" if low < 0 else "a finite number of 0 W or more"
            raise ProblemError(must_be(f"{name}[{gpu}, {level}]", allowed, float(given[gpu, level])))


def _nested(above: Ints, budgets: int) -> Ints:
    """The same rows from the smallest budget to the largest; refused unless each has one other directly above it, or none."""
    if above.size and (above.min() < -1 or above.max() >= budgets):
        gpu, column = np.argwhere((above < -1) | (above >= budgets))[0]
        allowed = f"-1 (none) or a budget from 0 to {budgets - 1}"
        raise ProblemError(must_be(f"domain[{gpu}, {column}]", allowed, int(above[gpu, column])))
    if not budgets:
        return above
    size = np.bincount(above[above >= 0], minlength=budgets)
    # Ascending by members, equal ones by number; what is absent last.
    rank = np.where(above >= 0, size[above] * (budgets + 1) + above, np.iinfo(np.int64).max)
    chain = np.take_along_axis(above, rank.argsort(1, kind="stable"), 1)
    twice = (chain[:, 1:] == chain[:, :-1]) & (chain[:, 1:] >= 0)
    if twice.any():
        gpu, column = np.argwhere(twice)[0]
        raise ProblemError(must_be(f"domain[{gpu}]", "different budgets", Shown(f"budget {chain[gpu, column]} twice")))
    lower, upper = chain[:, :-1].ravel(), chain[:, 1:].ravel()
    lower, upper = lower[lower >= 0], upper[lower >= 0]
    parent = np.full(budgets, -1)
    parent[lower] = upper
    if (parent[lower] != upper).any():
        at = int((parent[lower] != upper).argmax())
        shown = Shown(f"budgets {upper[at]} and {parent[lower[at]]}, which share GPUs and neither holds the other")
        raise ProblemError(must_be("domain", "of nested budgets", shown))
    return chain
