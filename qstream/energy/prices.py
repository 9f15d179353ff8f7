"""Prices of budgets (Lagrange): a bound and a second answer where groups of GPUs over several nodes must take one level.

Such groups break the polymatroid, and with it the greedy's optimality. Subgradient method with Polyak's steps (Polyak 1969).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from qstream.energy.fleet import Fleet, Floats, Ints
from qstream.energy.greedy import fill_whole
from qstream.energy.hulls import steps_of

_ROUNDS: Final = 60
_PATIENCE: Final = 5  # rounds without a lower bound, after which steps are halved
_CHEAP: Final = 1e-6  # of the mean price: what a watt costs where no budget binds


def priced(fleet: Fleet, least: Ints, level: Ints, bound: float) -> tuple[Ints, float]:
    """The better of the given levels [U] and of those by prices, and the lower of the given bound and of the prices'."""
    worth = np.where(np.isnan(fleet.value), -np.inf, fleet.value)
    charge = np.nan_to_num(fleet.charge_w)
    limited = np.isfinite(fleet.room_w)
    best, price, chosen = fleet.total(level), np.zeros(len(limited)), np.zeros(len(limited))
    stride, waited = 1.0, 0
    for _ in range(_ROUNDS):
        cost = _cost(fleet, charge, price)
        choice = (worth - cost).argmax(1)
        held = float((worth - cost)[np.arange(len(choice)), choice].sum() + price[limited] @ fleet.room_w[limited])
        waited += 1
        if held < bound:
            bound, chosen, waited = held, price, 0
        elif waited >= _PATIENCE:
            stride, waited, price = stride / 2, 0, chosen
            continue
        over = np.where(limited, fleet.charged_w(choice) - np.where(limited, fleet.room_w, 0.0), 0.0)
        length = float(over @ over)
        if held - best <= 0 or length == 0:
            break
        price = np.maximum(price + stride * (held - best) / length * over, 0.0)
    if not chosen.any():
        return level, bound
    cost = _cost(fleet, charge, chosen) + _CHEAP * chosen.mean() * fleet.power_w
    slack = fleet.room_w - fleet.charged_w(least)
    other = fill_whole(fleet, steps_of(cost, fleet.value, least), slack, least)
    return (other if fleet.total(other) > best else level), bound


def _cost(fleet: Fleet, charge_w: Floats, price: Floats) -> Floats:
    """What each level of each unit costs at the prices [B], float64 [U, K]; `charge_w` [E, K] is 0 where there is no level."""
    cost = np.zeros(fleet.power_w.shape)
    limited = np.diff(fleet.first) > 0
    if limited.any():
        cost[limited] = np.add.reduceat(price[fleet.budget][:, None] * charge_w, fleet.first[:-1][limited])
    return cost
