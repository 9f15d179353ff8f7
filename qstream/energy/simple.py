"""Simple scheduler: each node alone, with its share of every budget by what it can draw at most, and a rule for a GPU's clock."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.energy.budgets import Tree

Floats = NDArray[np.float64]
EFFICIENT: Final = 0.6  # of the highest clock: where a GPU does most work for a joule, as long as nothing else is known


def simple_limits(tree: Tree, least_w: Floats, default_w: Floats, movable: NDArray[np.bool_], fixed_w: Floats) -> Floats:
    """Power limits: the same part of its default for each GPU of a node, as far as its lowest limit allows: float64 [gpus].

    A budget's watts, without overheads and GPUs that cannot be limited (`fixed_w`), are shared by default power; a GPU takes
    the smallest share of the budgets above it.
    """
    most = tree.charged_w(np.where(movable, default_w, 0.0)) - tree.overhead_w
    room = tree.budget_w - tree.charged_w(np.where(movable, 0.0, fixed_w))
    part = np.where(most > 0, np.maximum(room, 0.0) / np.maximum(most, 1e-9), 1.0)
    own = np.ones(len(least_w))
    for column in tree.above.T:
        own = np.minimum(own, np.where(column >= 0, part[column], 1.0))
    limits: Floats = np.clip(np.floor(own * default_w), least_w, default_w)
    return np.where(movable, limits, fixed_w)


def simple_clocks(levels_mhz: Floats, active: NDArray[np.float32], may: NDArray[np.bool_]) -> Floats:
    """Caps of the SM clock, the higher the more of their time multiprocessors work: float64 [gpus], -1 for none.

    As GEOPM's GPU agent: from the efficient clock to the highest one, at the supported level below.

    Parameters
    ----------
    levels_mhz
        Supported clocks of each GPU, float64 [gpus, K], ascending.
    active
        Part of the time in which multiprocessors work while the GPU does, -1 unknown; those are not capped.
    may
        GPUs whose clocks may be capped: their progress is seen, so that a slower one would be noticed.
    """
    highest = levels_mhz[:, -1]
    wanted = highest * (EFFICIENT + (1 - EFFICIENT) * active)
    at = np.maximum((levels_mhz <= wanted[:, None] + 1e-6).sum(1) - 1, 0)
    found: Floats = levels_mhz[np.arange(len(at)), at]
    return np.where(may & (active >= 0) & (found < highest), found, -1.0)
