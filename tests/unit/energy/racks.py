"""A rack of nodes with computed GPUs, their topology, their actuators, and a processor that plans for them."""

from __future__ import annotations

import numpy as np

from qstream.energy.options import EnergyOptions
from qstream.energy.processor import EnergyProcessor
from qstream.node import Actuator, FakeNvml
from qstream.testing import Feed
from schemas.energy import EnergyPlan
from schemas.power import PowerTopology

START_S = 1_000_000


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


class Loop:
    """Telemetry to the processor, plans to the actuators, acknowledgements back; a second at a time."""

    def __init__(self, nodes, topology, **options):
        given = {"mode": "apply", "measure_s": 10.0, "settle_s": 3.0, "probe_fraction": 0.5}
        self.nodes, self.now_s = nodes, START_S
        self.feed = Feed(EnergyProcessor(EnergyOptions(**given | options)))
        self.actuators = [Actuator(node, domain="d", node=node.node, mode="apply", allow=node.uuids) for node in nodes]
        self.silent: set[str] = set()
        self.feed.send(topology, at_ms=START_S * 1000)

    def run(self, seconds):
        """The plans of the next seconds."""
        seen = len(self.feed.frames(EnergyPlan))
        for _ in range(seconds):
            self.now_s += 1
            for node, actuator in zip(self.nodes, self.actuators, strict=True):
                node.advance(1)
                actuator.tick(self.now_s * 10**9)
                if node.node not in self.silent:
                    self.send(node.telemetry("d"))
        return self.feed.frames(EnergyPlan)[seen:]

    def send(self, frame):
        """One record now, and what follows from it."""
        seen = len(self.feed.frames(EnergyPlan))
        self.feed.send(frame, at_ms=self.now_s * 1000)
        for plan in self.feed.frames(EnergyPlan)[seen:]:
            for actuator in self.actuators:
                ack = actuator.take(plan, self.now_s * 10**9)
                if ack.uuid:
                    self.feed.send(ack, at_ms=self.now_s * 1000)

    def limits_w(self):
        """The power limits that are enforced, and that the hardware keeps."""
        return [node.power_limit_w(uuid) for node in self.nodes for uuid in node.uuids]
