"""Routes on boxes without switches: time over that of the linear program, beside single paths; modelled."""

from __future__ import annotations

import time
from typing import Final

import numpy as np
from threadpoolctl import threadpool_limits

from qstream.nvlink import generate, route_demand
from qstream.nvlink.routes import shortest_routes
from tests.benchmarks.stick import load_scores

Row = tuple[str, float, str, str]
KINDS: Final = ("uniform", "zipf", "moe", "sparse", "hot")


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    stick = load_scores("nvlink_stick")
    if stick is None:
        return []
    box, found = generate("dgx-1v"), []
    with threadpool_limits(1):
        route_demand(box, np.ones((8, 8)))  # imports
        for kind in KINDS:
            demand = stick.traffic(8, kind, np.random.default_rng(1))
            began = time.process_time()
            routes = route_demand(box, demand)
            took_ms = 1e3 * (time.process_time() - began)
            single, direct = shortest_routes(box, demand), shortest_routes(box, demand, relay=False)
            found += [
                (f"routes, {kind}, drain over bound", routes.drain_us / routes.bound_us, "", "<= 1.001"),
                (f"routes, {kind}, one shortest path", single.drain_us / routes.bound_us, "", "-"),
                (f"routes, {kind}, no relays", direct.drain_us / routes.bound_us, "", "-"),
                (f"routes, {kind}, time", took_ms, "ms CPU", "<= 100"),
            ]
    return found
