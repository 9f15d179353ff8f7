"""Random fleets under random trees of budgets, and their linear relaxation by HiGHS."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

Fleet = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def random_fleet(rng: np.random.Generator, gpus: int, levels: int = 6, tight: tuple[float, float] = (0.1, 1.0)) -> Fleet:
    """Powers and values [G, K] with NaN, neither sorted nor concave; budgets that nest, in any order, some GPUs under fewer."""
    power = rng.uniform(50, 400, (gpus, levels))
    value = rng.choice([1.0, 2.0, 4.0], (gpus, 1)) * np.sqrt(power / 400) + rng.normal(0, 0.05, (gpus, levels))
    missing = rng.random((gpus, levels)) < 0.2
    missing[:, rng.integers(levels)] = False
    power[missing] = value[missing] = np.nan
    depth = int(rng.integers(1, 4))
    order, above, count = rng.permutation(gpus), np.full((gpus, depth), -1), 0
    cuts: set[int] = set()
    for column in range(depth):
        cuts |= set(rng.integers(1, gpus, rng.integers(0, 3)).tolist()) if gpus > 1 else set()
        for part in np.split(order, sorted(cuts)):
            if column == 0 or rng.random() < 0.7:
                above[part, column] = count
                count += 1
    low, high = np.nanmin(power, 1), np.nanmax(power, 1)
    budget = np.zeros(count)
    for b in range(count):
        under = (above == b).any(1)
        share = rng.uniform(*tight)
        budget[b] = ((1 - share) * low[under] + share * high[under]).sum()
    return power, value, rng.permuted(above, axis=1), budget


def used_w(power: np.ndarray, above: np.ndarray, level: np.ndarray, budgets: int) -> np.ndarray:
    """Watts under each budget [B], parked GPUs draw none."""
    watts = np.where(level >= 0, power[np.arange(len(level)), level], 0.0)
    return np.array([watts[(above == b).any(1)].sum() for b in range(budgets)])


def relaxation(fleet: Fleet) -> float:
    """The optimum of the linear relaxation."""
    power, value, above, budget = fleet
    gpus, levels = power.shape
    has = ~np.isnan(power.ravel())
    under = np.array([np.repeat((above == b).any(1), levels) for b in range(len(budget))])
    one = np.repeat(np.eye(gpus), levels, axis=1)
    found = linprog(
        -value.ravel()[has],
        A_ub=(under * np.nan_to_num(power.ravel()))[:, has],
        b_ub=budget,
        A_eq=one[:, has],
        b_eq=np.ones(gpus),
        method="highs",
    )
    assert found.status == 0
    return float(-found.fun)
