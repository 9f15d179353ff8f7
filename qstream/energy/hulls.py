"""Concave hulls of value over watts: the steps from level to level, each worth less a watt than the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qstream.arguments import read_only
from qstream.energy.fleet import Floats, Ints
from qstream.kernels import compiled

_LEAST_W = 1e-9  # a step of fewer watts is none


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Steps of all units, most value a watt first: `unit`, the levels `lower` and `upper`, `watts` and `gain`, each [S]."""

    unit: Ints
    lower: Ints
    upper: Ints
    watts: Floats
    gain: Floats


def steps_of(power_w: Floats, value: Floats, least: Ints) -> Steps:
    """The hull steps of units [U, K] from their least levels [U]; NaN are levels that do not exist."""
    units, levels = power_w.shape
    upper = np.full((units, levels), -1)
    # In one form, so that the kernel is compiled once.
    hull_rows(read_only(np.ascontiguousarray(power_w)), read_only(np.ascontiguousarray(value)), least, upper)
    lower = np.concatenate((least[:, None], upper[:, :-1]), axis=1)
    unit, at = np.nonzero(upper >= 0)
    low, high = lower[unit, at], upper[unit, at]
    watts, gain = power_w[unit, high] - power_w[unit, low], value[unit, high] - value[unit, low]
    order = np.argsort(-gain / watts, kind="stable")
    return Steps(unit[order], low[order], high[order], watts[order], gain[order])


@compiled
def hull_rows(power_w: Any, value: Any, least: Any, upper: Any) -> None:
    """Fill `upper` [U, K] with the levels that the hull of each unit reaches in turn; the rest stays -1."""
    units, levels = power_w.shape
    for u in range(units):
        at, found = least[u], 0
        while True:
            best, to = 0.0, -1
            for k in range(levels):
                more = power_w[u, k] - power_w[u, at]
                if not more > _LEAST_W:  # NaN is not
                    continue
                slope = (value[u, k] - value[u, at]) / more
                if slope > best or (to >= 0 and slope == best and power_w[u, k] > power_w[u, to]):
                    best, to = slope, k
            if to < 0:
                break
            upper[u, found] = to
            found += 1
            at = to
