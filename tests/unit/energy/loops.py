"""A loop of a second's steps: telemetry to energy's processor, plans to the actuators, acknowledgements back."""

from __future__ import annotations

from qstream.energy.options import EnergyOptions
from qstream.energy.processor import EnergyProcessor
from qstream.node import Actuator
from qstream.testing import Feed
from schemas.energy import EnergyAck, EnergyPlan

START_S = 1_000_000


class Loop:
    """Telemetry to the processor, plans to the actuators, acknowledgements back; a second at a time."""

    def __init__(self, nodes, topology, **options):
        given = {"mode": "apply", "measure_s": 10.0, "settle_s": 3.0, "probe_fraction": 0.5}
        self.nodes, self.now_s = nodes, START_S
        self.feed = Feed(EnergyProcessor(EnergyOptions(**given | options)))
        self.actuators = [Actuator(node, domain="d", node=node.node, mode="apply", allow=node.uuids) for node in nodes]
        self.silent: set[str] = set()  # whose readings do not come
        self.cut: set[str] = set()  # that plans do not reach either
        self.deaf: set[str] = set()  # whose readings come, and that plans do not reach
        self.late: set[str] = set()  # that plans reach only when they are over
        self.acks: list[EnergyAck] = []
        self.feed.send(topology, at_ms=START_S * 1000)

    def run(self, seconds):
        """The plans of the next seconds."""
        seen = len(self.feed.frames(EnergyPlan))
        for _ in range(seconds):
            self.now_s += 1
            for node, actuator in zip(self.nodes, self.actuators, strict=True):
                node.advance(1)
                actuator.tick(self.now_s * 10**9)
                if node.node not in self.silent | self.cut:
                    self.send(node.telemetry("d"))
        return self.feed.frames(EnergyPlan)[seen:]

    def send(self, frame):
        """One record now, and what follows from it."""
        seen = len(self.feed.frames(EnergyPlan))
        self.feed.send(frame, at_ms=self.now_s * 1000)
        for plan in self.feed.frames(EnergyPlan)[seen:]:
            for actuator in self.actuators:
                if actuator.node in self.cut | self.deaf:
                    continue
                over_ns = int(plan.ttl_s * 1e9) + 1 if actuator.node in self.late else 0
                ack = actuator.take(plan.model_copy(update={"ts_ns": plan.ts_ns - over_ns}), self.now_s * 10**9)
                if ack.uuid:
                    self.acks.append(ack)
                    self.feed.send(ack, at_ms=self.now_s * 1000)

    def limits_w(self):
        """The power limits that are enforced, and that the hardware keeps."""
        return [node.power_limit_w(uuid) for node in self.nodes for uuid in node.uuids]
