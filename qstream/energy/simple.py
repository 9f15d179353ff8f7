"""Simple scheduler: each node alone, with its share of every budget by what it can draw at most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qstream.energy.budgets import Tree

Floats = NDArray[np.float64]


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
