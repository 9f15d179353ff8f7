"""Warm: every compiled kernel of the module called once, so that the first record does not wait for a compiler."""

from __future__ import annotations

import numpy as np

from qstream.learn import exp3
from qstream.nvlink.placing import place_ranks
from qstream.nvlink.rails import balance_rails
from qstream.nvlink.routes import route_demand
from qstream.nvlink.schedule import schedule_transfers
from qstream.nvlink.splits import plan_splits
from qstream.nvlink.systems import generate


def warm() -> None:
    """Plan splits of a small fabric, draw an arm, place few ranks and more, rails, transfers, and a box without switches."""
    up, demand = np.ones((2, 2)), 1 - np.eye(2)
    _, state = plan_splits(demand, up, up)
    plan_splits(demand, up, up, state=state)
    exp3.bandit_choose(exp3.start(2), seed=0, number=0)
    distance = np.where(np.eye(3, dtype=bool), 1.0, 2.0)
    for ranks in (4, 12):
        src = np.arange(ranks)
        place_ranks(src, (src * 5 + 1) % ranks, np.ones(ranks), np.full(3, ranks), distance, ranks=ranks)
    skewed = np.zeros((2, 2, 2, 2))
    skewed[0, :, 1, :] = (8, 1), (2, 1)
    balance_rails(skewed, 50, 450)
    schedule_transfers(demand, 50)
    route_demand(generate("dgx-1v"), np.ones((8, 8)))
