"""The energy scene on this machine's GPUs: their readings, and what a plan would set, in a dry run."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from qstream.demo.latency import percentiles
from qstream.demo.scene import Frames, InStepScene
from qstream.node.actuate import act
from qstream.node.actuator import Actuator
from qstream.node.nvml import NvmlGpus, nvml_source
from qstream.node.telemetry import SourceFault, with_power
from schemas.control import Scalar
from schemas.deadletter import DeadLetter
from schemas.energy import EnergyAck, EnergyPlan
from schemas.frame import Frame
from schemas.power import GpuTelemetry, PowerTopology
from schemas.topics import ENERGY_ACK, GPU_TELEMETRY, POWER_TOPOLOGY

DOMAIN: Final = "this-machine"
PERIOD_S: Final = 1.0
PLAN_S: Final = 5.0
COLUMNS: Final = {"W": "power_w", "limit": "power_limit_enforced_w", "MHz": "sm_clock_mhz", "busy %": "gpu_util", "°C": "temp_c"}
NEXT: Final = """next
  set it        qstream run energy --set mode=apply;  on a node qstream energy telemetry --domain D, and
                qstream energy actuate --domain D --apply --allow UUID, once for each GPU that may be set
  save          jobs that report progress are slowed by no more than they may be: qstream/energy/README.md"""


class RealScene(InStepScene):
    """A reading a second of all GPUs that the driver has. Agent and actuator are in ``dry_run``: nothing is set.

    NVML has no progress of jobs, so that what is saved and slowed is not measured: these figures are null.
    """

    agent = "energy"
    options: Mapping[str, Scalar] = {"mode": "dry_run", "plan_s": PLAN_S, "ttl_s": 3 * PLAN_S}
    step_keys = (DOMAIN,)
    packages = ("numba", "nvidia-ml-py")
    next_steps = NEXT

    def __init__(self, seed: int, gpus: NvmlGpus | None = None) -> None:
        self.seed = seed
        self.gpus = NvmlGpus() if gpus is None else gpus
        self.node = socket.gethostname() or "node"
        self.plans: list[EnergyPlan] = []
        self.readings: GpuTelemetry | None = None
        self._read = nvml_source(self.gpus, DOMAIN, self.node)
        self._actuator = Actuator(self.gpus, domain=DOMAIN, node=self.node, mode="dry_run", allow=self.gpus.uuids)
        self._sent_s: dict[int, float] = {}
        self._took_ms: list[float] = []
        self._letters, self._faults = 0, 0
        self._figures: Mapping[str, Any] = {}

    def first(self) -> Frames:
        return [(POWER_TOPOLOGY, self.topology(time.time_ns()))]

    def topology(self, ts_ns: int) -> PowerTopology:
        """The GPUs as the driver describes them, under a budget of the sum of their default limits."""
        limits = np.array([self.gpus.limits_w(uuid) for uuid in self.gpus.uuids], np.float32)
        return PowerTopology(
            domain=DOMAIN,
            ts_ns=ts_ns,
            budget_w=float(np.maximum(limits[:, 2], 0).sum()),
            node=(self.node,),
            uuid=tuple(self.gpus.uuids),
            node_of_gpu=np.zeros(len(limits), np.int32),
            limit_min_w=limits[:, 0],
            limit_max_w=limits[:, 1],
            limit_default_w=limits[:, 2],
            opt_in=np.ones(len(limits), np.uint8),
        )

    def steps(self, seconds: float) -> Iterator[Frames]:
        """A reading a second."""
        began_s = time.monotonic()
        for second in range(max(1, int(seconds / PERIOD_S))):
            time.sleep(max(0.0, began_s + second * PERIOD_S - time.monotonic()))
            yield [(GPU_TELEMETRY, frame) for frame in self._now()]

    def _now(self) -> list[GpuTelemetry]:
        """The readings now; none if no GPU answers."""
        try:
            found = [kept for frame in self._read(time.time_ns()) if (kept := with_power(frame)) is not None]
        except SourceFault:
            found = []
        self._faults += not found
        self.readings = found[-1] if found else self.readings
        return found

    def published(self, frame: Frame, at_s: float) -> None:
        if isinstance(frame, GpuTelemetry):
            self._sent_s[frame.ts_ns // 1_000_000] = at_s

    def received(self, frame: Frame, at_s: float) -> Frames:
        """The actuator takes a plan, sets nothing, and acknowledges."""
        acks: list[EnergyAck] = []
        if isinstance(frame, EnergyPlan):
            self.plans.append(frame)
            if (sent_s := self._sent_s.get(frame.ts_ns // 1_000_000)) is not None:
                self._took_ms.append((at_s - sent_s) * 1e3)
            acks = act(self._actuator, frame, time.time_ns())
        elif isinstance(frame, DeadLetter):
            self._letters += 1
        return [(ENERGY_ACK, ack) for ack in acks]

    def figures(self, seconds: float, repeated: int) -> Mapping[str, Any]:
        """The figures of the modelled rack; null where nothing is measured of them here."""
        if self.readings is None:
            return {}
        self._figures = {
            "saved_ratio": None,
            "slowdown_worst": None,
            "probes": 0,
            "budget_violations": None,
            "unsafe_writes": 0,
            "stale_gpus": max((plan.stale_gpus for plan in self.plans), default=0),
            "plans": len(self.plans),
            "schedules": 0,
            "latency_ms": percentiles(self._took_ms),
            "dead_letters": self._letters,
            "lost": self.waiting,
        }
        return self._figures

    def line(self, agent_state: str) -> str:
        frame = self.readings
        if frame is None:
            return f"{agent_state}: no GPU has answered yet"
        drawn = float(np.maximum(reading(frame, "power_w"), 0).sum())
        return f"{len(frame.uuid)} GPUs draw {drawn:.0f} W; {len(self.plans)} plans (dry run); agent {agent_state}"

    def panel(self, agent_state: str) -> RenderableType:
        table = Table(title=f"qstream demo energy: {self.node}, dry run: nothing is set", title_justify="left")
        table.add_column("GPU", style="bold")
        for name in (*COLUMNS, "a plan would set"):
            table.add_column(name, justify="right")
        frame = self.readings
        for at, uuid in enumerate(() if frame is None else frame.uuid):
            assert frame is not None
            values = [float(reading(frame, name)[at]) for name in COLUMNS.values()]
            table.add_row(uuid, *("-" if value < 0 else f"{value:.0f}" for value in values), self._proposed(uuid))
        return table

    def report(self) -> Iterator[RenderableType]:
        f = self._figures
        yield self.panel("ended")
        yield Text(
            f"{f['plans']} plans, lost {f['lost']}, dead letters {f['dead_letters']}, readings that failed {self._faults}."
        )
        yield Text("Savings and slowdown are not measured: the driver has no progress of jobs, and nothing is set.")

    def _proposed(self, uuid: str) -> str:
        plan = next((plan for plan in reversed(self.plans) if uuid in plan.uuid), None)
        if plan is None:
            return "-"
        limit = float(plan.power_limit_w[plan.uuid.index(uuid)])
        return "its default" if limit < 0 else f"{limit:.0f} W"


def reading(frame: GpuTelemetry, name: str) -> np.ndarray:
    """One metric of each GPU, -1 where it is not reported."""
    if name not in frame.metric:
        return np.full(len(frame.uuid), -1.0)
    found: np.ndarray = frame.value[frame.metric.index(name)]
    return found
