"""Load every compiled kernel of this package before the first record arrives."""

from __future__ import annotations

import numpy as np

from qstream.routing.hashing import assign, assign_bounded, choose_replica
from qstream.routing.migrate import align
from qstream.routing.problem import logical_maps
from qstream.routing.scenarios import place_scenarios
from qstream.routing.score import nodes_per_token
from qstream.routing.shares import dispatch_shares
from schemas.experts import ExpertTopology


def warm() -> None:
    """Run each kernel once on a tiny input: it compiles on a new machine (tens of seconds), else loads from the disk cache.

    The cache lies beside the source, or in ``NUMBA_CACHE_DIR`` where that is not writable.
    """
    token_id = np.arange(4, dtype=np.uint64)
    plan = place_scenarios(np.ones((2, 1, 3)), num_gpus=2, slots=4, steps=2)
    slots, counts = logical_maps(align(plan, plan, 2), 3)
    topk = assign(token_id, 3)[:, None]
    choose_replica(token_id, topk, slots[0], counts[0])
    assign_bounded(token_id, 3)
    nodes_per_token(topk, np.zeros(3, np.int32))
    dispatch_shares(np.ones((1, 3)), plan[:1], ExpertTopology(num_layers=1, num_logical_experts=3, num_gpus=2, slots_per_gpu=2))
