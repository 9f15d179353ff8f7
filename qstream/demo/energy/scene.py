"""The energy scene: a modelled rack serves an hour of real requests and trains, and the agent caps and budgets its GPUs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.console import RenderableType

from qstream.demo.energy.arrivals import bundled
from qstream.demo.energy.rack import DOMAIN, Rack
from qstream.demo.energy.score import Score
from qstream.demo.energy.screen import Shown, line, panel, report
from qstream.demo.energy.tasks import window
from qstream.demo.latency import percentiles
from qstream.demo.scene import Frames, InStepScene
from qstream.node.actuate import act
from qstream.node.actuator import Actuator
from schemas.control import Scalar
from schemas.deadletter import DeadLetter
from schemas.energy import EnergyAck, EnergyPlan
from schemas.frame import Frame
from schemas.power import GpuTelemetry, PowerBudget
from schemas.tasks import EnergySchedule
from schemas.topics import ENERGY_ACK, GPU_TELEMETRY, POWER_BUDGET, POWER_TOPOLOGY, TASK_GRAPH, Topic

SECOND_NS: Final = 1_000_000_000
PLAN_S: Final = 10
BUDGET_W: Final = 12_000.0  # what the rack's GPUs could draw at their default limits, and its nodes besides
FALL: Final = 0.2
FALL_S: Final = 1750  # the middle
NOTICE_S: Final = 60
# Modelled time begins ahead of the clock, so that a domain is not taken for silent on a slow machine, and ends less than an hour
# ahead of it: agents take a record that is further ahead for one with a wrong clock.
AHEAD_S: Final = 90
GRAPH_S: Final = 900
CUT_S: Final = range(2450, 2640)  # node-1 neither sends nor hears
OPTIONS: Final[Mapping[str, Scalar]] = {
    "mode": "apply",
    "plan_s": float(PLAN_S),
    "ttl_s": 3.0 * PLAN_S,
    "probe_fraction": 0.5,
    "max_lowered": 0.5,
    "qaoa": True,
}
NEXT: Final = """next
  your GPUs      qstream demo energy --source nvml shows them, and what a plan would set; nothing is set
  a cluster      qstream run energy;  on each node qstream energy telemetry and qstream energy actuate, a dry run by default
  a recording    qstream energy cap FILE --topology FILE --budget 40kW: the same plans from a file
  what it does   qstream/energy/README.md: how caps are probed, how budgets hold, sixteen safety rules"""


class EnergyScene(InStepScene):
    """Ten modelled seconds a step: readings of both nodes, acknowledgements, and what an operator and a scheduler publish.

    Plans come back through Kafka; each node's actuator takes them and sets the limits and clocks of its modelled GPUs. Modelled
    time stands still while records are processed, so that a slow machine takes longer and measures the same.
    """

    sources: Mapping[str, str] = {"nvml": "qstream.demo.energy.real:RealScene"}
    agent = "energy"
    options = OPTIONS
    step_keys = (DOMAIN,)
    packages = ("numba",)
    next_steps = NEXT

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rack = Rack(seed)
        self.score = Score(self.rack)
        self.actuators = [
            Actuator(node, domain=DOMAIN, node=node.node, mode="apply", allow=self.rack.opted_in) for node in self.rack.nodes
        ]
        self._load = bundled().load()
        self._second, self._start_ns = 0, 0
        self._sent_s: dict[int, float] = {}
        self._took_ms: list[float] = []
        self._figures: Mapping[str, Any] = {}

    def first(self) -> Frames:
        return [(POWER_TOPOLOGY, self.rack.topology(BUDGET_W, time.time_ns()))]

    def steps(self, seconds: float) -> Iterator[Frames]:
        """All of the bundled arrivals, paced to last so many seconds or more, but never slower than they came."""
        self._start_ns = (time.time_ns() // SECOND_NS + AHEAD_S) // PLAN_S * PLAN_S * SECOND_NS
        began_s, steps = time.monotonic(), len(self._load) // PLAN_S
        for step in range(steps):
            time.sleep(max(0.0, began_s + step * min(seconds / steps, PLAN_S) - time.monotonic()))
            frames: list[tuple[Topic, Frame]] = []
            for _ in range(PLAN_S):
                frames += self._pass_second()
            yield frames

    @property
    def _now_ns(self) -> int:
        return self._start_ns + self._second * SECOND_NS

    def _cut(self, at: int) -> bool:
        return at == 1 and self._second in CUT_S

    def _pass_second(self) -> list[tuple[Topic, Frame]]:
        """A modelled second, and what is published at its end."""
        frames: list[tuple[Topic, Frame]] = []
        budget_w = BUDGET_W * (1 - FALL) if self._second >= FALL_S else BUDGET_W
        self.score.second(self.rack.advance(float(self._load[self._second])), budget_w)
        self._second += 1
        for at, (node, actuator) in enumerate(zip(self.rack.nodes, self.actuators, strict=True)):
            released = act(actuator, None, self._now_ns)
            if not self._cut(at):
                frames += [(ENERGY_ACK, ack) for ack in released]
                frames.append((GPU_TELEMETRY, self.rack.telemetry(node, self._now_ns)))
        if self._second == FALL_S - NOTICE_S:
            frames.append((POWER_BUDGET, self._lower_budget()))
        if self._second == GRAPH_S:
            self.score.graph = window("evaluation", self._now_ns, self.seed)
            frames.append((TASK_GRAPH, self.score.graph))
        return frames

    def _lower_budget(self) -> PowerBudget:
        from_ns = self._start_ns + FALL_S * SECOND_NS
        budget_w = BUDGET_W * (1 - FALL)
        return PowerBudget(domain=DOMAIN, ts_ns=self._now_ns, budget_w=budget_w, valid_from_ns=from_ns, source="grid")

    def published(self, frame: Frame, at_s: float) -> None:
        if isinstance(frame, GpuTelemetry):
            self._sent_s.setdefault(frame.ts_ns, at_s)

    def received(self, frame: Frame, at_s: float) -> Frames:
        """The actuators of the nodes that hear the plan take it, and acknowledge."""
        acks: list[EnergyAck] = []
        if isinstance(frame, EnergyPlan):
            self.score.plan(frame)
            if frame.ts_ns in self._sent_s:
                self._took_ms.append((at_s - self._sent_s[frame.ts_ns]) * 1e3)
            for at, actuator in enumerate(self.actuators):
                if not self._cut(at):
                    acks += act(actuator, frame, self._now_ns)
        elif isinstance(frame, EnergySchedule):
            self.score.schedules.append(frame)
        elif isinstance(frame, DeadLetter):
            self.score.dead_letters += 1
        return [(ENERGY_ACK, ack) for ack in acks]

    def figures(self, seconds: float, repeated: int) -> Mapping[str, Any]:
        score = self.score
        if score.saved_ratio is None:
            return {}
        self._figures = {
            "saved_ratio": score.saved_ratio,
            "slowdown_worst": float(score.slowdown.max()),
            "probes": len(score.probed),
            "budget_violations": score.violations,
            "unsafe_writes": score.unsafe_writes,
            "stale_gpus": score.stale_gpus,
            "plans": len(score.plans),
            "schedules": len(score.schedules),
            "latency_ms": percentiles(self._took_ms),
            "dead_letters": score.dead_letters,
            "lost": self.waiting,
        }
        return self._figures

    def line(self, agent_state: str) -> str:
        return line(self._shown(agent_state))

    def panel(self, agent_state: str) -> RenderableType:
        return panel(self._shown(agent_state))

    def report(self) -> Iterator[RenderableType]:
        yield from report(self._shown("ended"))

    def _shown(self, agent_state: str) -> Shown:
        return Shown(self.score, self._figures, self._second, agent_state, FALL_S, CUT_S)
