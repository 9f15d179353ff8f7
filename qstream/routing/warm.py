"""Load every compiled kernel of this package before the first record arrives."""

from __future__ import annotations

import numpy as np

from qstream.arguments import read_only
from qstream.learn import calibration
from qstream.learn.window import count_labels
from qstream.routing import smoothing
from qstream.routing.hashing import assign, assign_bounded
from qstream.routing.options import RoutingOptions
from qstream.routing.placement import PlaceOptions, place
from qstream.routing.requests import route_requests
from qstream.routing.sample import empty_sample, sample_tokens, sampled_coactivation
from qstream.routing.tokens import route_tokens
from schemas.experts import ExpertTopology
from schemas.tokens import TokenBatch


def warm() -> None:
    """Run each kernel once on a tiny input: it compiles on a new machine (tens of seconds), else loads from the disk cache.

    The cache lies next to the source, or in ``NUMBA_CACHE_DIR`` where that is not writable.
    """
    token_id = np.arange(4, dtype=np.uint64)
    topk = read_only(assign(token_id, 3)[:, None])
    sample, seen = empty_sample(1, 3, 1), np.zeros(1, np.int64)
    sample_tokens(topk, 0, 4, sample, seen, 3)
    pairs = sampled_coactivation(sample, seen, 3, 4)
    label = read_only(np.zeros(4, np.int32))
    count_labels(topk, label, read_only(np.zeros(1, np.int64)), np.zeros((1, 3), np.int32))
    topology = ExpertTopology(num_layers=1, num_logical_experts=3, num_nodes=2, num_gpus=4, slots_per_gpu=1)
    options = PlaceOptions(steps=2, node_steps=2)
    plan = place(
        np.ones((2, 1, 3), np.int64), topology, coactivation=pairs, move_cost=1.0, options=options
    ).physical_to_logical_map
    if plan is None:
        raise AssertionError("place gives a map")
    place(np.ones((2, 1, 3), np.int64), topology, options=options, dispatch="nearest")
    batch = TokenBatch(
        batch_id="warm",
        ts_ns=0,
        model="warm",
        layer=0,
        token_id=token_id,
        topk_ids=topk,
        request_id=token_id,
    )
    route_tokens(batch, topology, RoutingOptions(capacity_factor=1.0, queues=True), placement=plan)
    route_requests(batch, topology, plan)
    assign_bounded(token_id, 3)
    state, smoothed, _ = smoothing.learn(smoothing.start(), None, np.ones((1, 3)), plan, topology)
    smoothing.learn(state, smoothed, np.ones((1, 3)), plan, topology)
    begun = calibration.start()
    calibration.expect(calibration.learn(begun, 1.0, calibration.expect(begun, 1.0), 1.0), 1.0)
