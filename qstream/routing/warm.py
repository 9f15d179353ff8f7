"""Load every compiled kernel of this package before the first record arrives."""

from __future__ import annotations

import numpy as np

from qstream.routing.colocate import count_pairs
from qstream.routing.counts import count_labels
from qstream.routing.hashing import assign, assign_bounded, choose_replica
from qstream.routing.kernels import read_only
from qstream.routing.place import PlaceOptions, place
from qstream.routing.problem import logical_maps
from qstream.routing.score import nodes_per_token
from qstream.routing.shares import dispatch_shares
from schemas.experts import ExpertTopology


def warm() -> None:
    """Run each kernel once on a tiny input: it compiles on a new machine (tens of seconds), else loads from the disk cache.

    The cache lies beside the source, or in ``NUMBA_CACHE_DIR`` where that is not writable.
    """
    token_id = np.arange(4, dtype=np.uint64)
    topk = read_only(assign(token_id, 3)[:, None])
    pairs = np.zeros((1, 3, 3), np.int32)
    count_pairs(topk[:, None], 1, pairs)
    label = read_only(np.zeros(4, np.int32))
    count_labels(topk, label, np.zeros(1, np.int64), np.zeros((1, 3), np.int32))
    topology = ExpertTopology(num_layers=1, num_logical_experts=3, num_nodes=2, num_gpus=4, slots_per_gpu=1)
    options = PlaceOptions(steps=2, node_steps=2)
    plan = place(
        np.ones((2, 1, 3), np.int64), topology, coactivation=pairs.astype(np.int64), move_cost=1.0, options=options
    ).physical_to_logical_map
    if plan is None:
        raise AssertionError("place gives a map")
    slots, counts = logical_maps(plan, 3)
    choose_replica(token_id, topk, slots[0], counts[0])
    assign_bounded(token_id, 3)
    nodes_per_token(topk, np.zeros(3, np.int32))
    dispatch_shares(np.ones((1, 3)), plan, topology)
