"""A rack of nodes with computed GPUs, and its topology."""

from __future__ import annotations

import numpy as np

from qstream.node import FakeNvml
from schemas.power import PowerTopology


def topology_of(nodes, budget_w, **fields):
    """The topology of nodes with equal GPUs; all have opted in."""
    uuids = tuple(uuid for node in nodes for uuid in node.uuids)
    gpus, kind = len(uuids), nodes[0].kind
    given = {
        "domain": "d",
        "budget_w": float(budget_w),
        "node": tuple(node.node for node in nodes),
        "uuid": uuids,
        "model": (nodes[0].model,),
        "model_of_gpu": np.zeros(gpus, np.int32),
        "node_of_gpu": np.repeat(np.arange(len(nodes)), [len(node.uuids) for node in nodes]).astype(np.int32),
        "limit_min_w": np.full(gpus, kind.least_w, np.float32),
        "limit_max_w": np.full(gpus, kind.most_w, np.float32),
        "limit_default_w": np.full(gpus, kind.most_w, np.float32),
        "opt_in": np.ones(gpus, np.uint8),
        "sm_clock_mhz": np.arange(kind.lowest_mhz, kind.highest_mhz + 1, 15, dtype=np.float32)[None],
    }
    return PowerTopology(**given | fields)


def rack(nodes=2, gpus=4):
    """Nodes whose first half of GPUs decodes and whose second half trains."""
    found = [FakeNvml(gpus, node=f"node-{at}", seed=at) for at in range(nodes)]
    for node in found:
        for at, uuid in enumerate(node.uuids):
            node.load(uuid, *((0.15, 0.3) if at < gpus // 2 else (0.8, 0.9)))
    return found
