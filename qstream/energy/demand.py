"""Demand: what watts are worth to a domain, for the domain that allots them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qstream.energy.budgets import Tree
from qstream.energy.curves import value_curve
from qstream.energy.levels import Floats
from qstream.energy.memory import EnergyState
from qstream.errors import ProblemError
from schemas.power import MAX_POINTS, PowerDemand

APART_W = 1.0  # points of a curve that are nearer say nothing, and rounding would show in the slope


def demand_of(
    now: EnergyState,
    tree: Tree,
    at_ns: int,
    *,
    watts: Floats,
    value: Floats,
    rows: NDArray[np.int64],
    fixed_w: Floats,
    upper_w: Floats,
) -> PowerDemand:
    """The curve of a domain and what it may draw now.

    Parameters
    ----------
    watts, value
        float64 [rows, K]: what may be chosen of each GPU or child of `rows`, NaN where a level is missing.
    fixed_w, upper_w
        float64 [GPUs or children]: what those draw that cannot be changed (0 for `rows`), and the most of each.
    """
    points, worth = _curve(tree, watts, value, rows, fixed_w)
    held = [budget.ts_ns for budget in now.budgets if budget.source == now.topology.parent]
    return PowerDemand(
        domain=now.topology.parent,
        ts_ns=at_ns,
        child=now.topology.domain,
        least_w=float(points[0]),
        upper_w=float(tree.charged_w(upper_w)[0]),
        held_w=float(tree.budget_w[0]),
        held_ns=max(held, default=0),
        watts=points,
        value=worth,
    )


def _curve(tree: Tree, watts: Floats, value: Floats, rows: NDArray[np.int64], fixed_w: Floats) -> tuple[Floats, Floats]:
    """Within the budgets inside the domain; only the first point where these are below what must be drawn."""
    fixed = tree.charged_w(fixed_w)
    if not len(rows):
        return fixed[:1], np.zeros(1)
    room = np.maximum(tree.budget_w - fixed, 0.0)
    room[0] = np.inf
    try:
        points, worth = value_curve(watts, value, tree.above[rows], room, points=MAX_POINTS)
    except ProblemError:
        least = np.nanargmin(watts, axis=1)[:, None]
        points, worth = (np.take_along_axis(each, least, 1).sum(keepdims=True)[0] for each in (watts, value))
    kept = [0]
    for at in range(1, len(points)):
        if points[at] - points[kept[-1]] >= APART_W:
            kept.append(at)
    return fixed[0] + points[kept], np.maximum.accumulate(worth[kept])
