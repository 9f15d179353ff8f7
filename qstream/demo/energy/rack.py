"""Rack: two nodes with modelled GPUs that serve and train, and the same rack without any cap, to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.demo.energy.training import STEPS_S, Training
from qstream.node.fake import CLOCK_STEP_MHZ, FakeNvml
from schemas.power import GpuTelemetry, PowerTopology

DOMAIN: Final = "rack-1"
NODES: Final = 2
GPUS: Final = 8  # of a node
SERVING: Final = 4  # of them; the others train
OVERHEAD_W: Final = 400.0  # of a node, besides its GPUs
DECODE_BETA: Final = 0.15
DECODE_ACTIVITY: Final = 0.2, 0.2  # without requests, and what the highest load adds
TRAIN: Final = 0.8, 0.9  # beta and activity
Floats = NDArray[np.float64]


class Rack:
    """The rack in modelled seconds.

    A serving GPU decodes all the time: its steps are its progress, and its power rises with the requests of its batch. The
    first training GPU's progress is the steps of `training`, which learns as fast as the GPU's clock allows. The last GPU of the
    rack has not opted in. `uncapped` are the same GPUs under the same loads, without any limit or cap.
    """

    def __init__(self, seed: int) -> None:
        names = [f"node-{at}" for at in range(NODES)]
        self.nodes = [FakeNvml(GPUS, node=name, seed=seed + at) for at, name in enumerate(names)]
        self.uncapped = [FakeNvml(GPUS, node=name, seed=seed + at) for at, name in enumerate(names)]
        self.training = Training(seed)
        self.live = self.nodes[0].uuids[SERVING]
        self.uuids = tuple(uuid for node in self.nodes for uuid in node.uuids)
        self.opted_in = self.uuids[:-1]

    def topology(self, budget_w: float, ts_ns: int) -> PowerTopology:
        """The rack as its operator describes it."""
        kind, gpus = self.nodes[0].kind, len(self.uuids)
        return PowerTopology(
            domain=DOMAIN,
            ts_ns=ts_ns,
            budget_w=budget_w,
            node=tuple(node.node for node in self.nodes),
            uuid=self.uuids,
            model=(self.nodes[0].model,),
            model_of_gpu=np.zeros(gpus, np.int32),
            node_of_gpu=np.repeat(np.arange(NODES), GPUS).astype(np.int32),
            limit_min_w=np.full(gpus, kind.least_w, np.float32),
            limit_max_w=np.full(gpus, kind.most_w, np.float32),
            limit_default_w=np.full(gpus, kind.most_w, np.float32),
            idle_w=np.full(gpus, kind.idle_w, np.float32),
            opt_in=np.array([uuid in self.opted_in for uuid in self.uuids], np.uint8),
            overhead_w=np.full(NODES, OVERHEAD_W, np.float32),
            sm_clock_mhz=np.arange(kind.lowest_mhz, kind.highest_mhz + 1, CLOCK_STEP_MHZ, dtype=np.float32)[None],
        )

    def advance(self, load: float) -> Second:
        """Let a second pass under a load of 0 to 1 of the serving GPUs."""
        idle, more = DECODE_ACTIVITY
        for node in (*self.nodes, *self.uncapped):
            for at, uuid in enumerate(node.uuids):
                node.load(uuid, *((DECODE_BETA, idle + more * load) if at < SERVING else TRAIN))
        second = Second(*self._now(self.nodes), *self._now(self.uncapped), self._limits())
        live, before = self.uuids.index(self.live), self.training.steps
        self.training.advance(1.0, float(second.speed[live]))
        second.speed[live] = (self.training.steps - before) / STEPS_S
        for node in (*self.nodes, *self.uncapped):
            node.advance(1.0)
        return second

    def telemetry(self, node: FakeNvml, ts_ns: int) -> GpuTelemetry:
        """The readings of a node, with the live training's steps as the progress of its GPU."""
        frame = node.telemetry(DOMAIN)
        changed: dict[str, object] = {"ts_ns": ts_ns}
        if self.live in frame.uuid and frame.count is not None:
            count = frame.count.copy()
            count[frame.counter.index("progress"), frame.uuid.index(self.live)] = self.training.steps
            changed["count"] = count
        return frame.model_copy(update=changed)

    def _limits(self) -> Floats:
        return np.array([node.power_limit_w(uuid) for node in self.nodes for uuid in node.uuids])

    @staticmethod
    def _now(nodes: list[FakeNvml]) -> tuple[Floats, Floats]:
        power, speed = zip(*(node.now() for node in nodes), strict=True)
        return np.concatenate(power), np.concatenate(speed)


@dataclass(frozen=True, slots=True, eq=False)
class Second:
    """A second as it was: watts and speed of each GPU, the same of the rack without caps, and the limits that were enforced;
    float64 [gpus] each."""

    watts: Floats
    speed: Floats
    uncapped_w: Floats
    uncapped_speed: Floats
    limit_w: Floats
