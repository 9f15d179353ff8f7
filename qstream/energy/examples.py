"""Example records for the conformance checks: a domain's life in small, with faults."""

from __future__ import annotations

from typing import Any

import numpy as np

from qstream.contract import Record
from schemas.energy import EnergyAck
from schemas.frame import Frame
from schemas.learning import LearnCommand
from schemas.power import GpuTelemetry, PowerBudget, PowerDemand, PowerTopology, ServingLoad
from schemas.tasks import TaskGraph
from schemas.topics import (
    ENERGY_ACK,
    GPU_TELEMETRY,
    LEARN_COMMAND,
    POWER_BUDGET,
    POWER_DEMAND,
    POWER_TOPOLOGY,
    SERVING_LOAD,
    TASK_GRAPH,
    Topic,
)

UUIDS = ("GPU-0", "GPU-1", "GPU-2", "GPU-3")
SECONDS = 20


def records() -> list[Record]:
    """Two nodes with two GPUs each for 20 s: caps are measured, a budget falls, a node goes silent, a target is refused, a graph
    of tasks comes, and what its tasks came to; learners are reset; with a repeated record, one of an unknown GPU, one in
    milliwatts, one under another topology, a demand of a domain that is not a child, demand on more replicas than there are, and
    graphs that come twice, that take too many GPUs, and whose time is over."""
    given: list[tuple[Topic, Frame, int]] = [(POWER_TOPOLOGY, topology(2600.0), 0)]
    for second in range(1, SECONDS):
        for node in (0, 1):
            if node == 0 or not 10 <= second < 15:
                frame = telemetry(node, second)
                given.append((GPU_TELEMETRY, frame, 1000 * second + 10 * node))
                if second == 4:
                    given.append((GPU_TELEMETRY, frame, 1000 * second + 10 * node))
        if second == 6:
            given.append((GPU_TELEMETRY, telemetry(0, second, uuid=("GPU-0", "GPU-9")), 1000 * second))
            given.append((GPU_TELEMETRY, telemetry(1, second, limit_w=700_000.0), 1000 * second + 11))
        if second == 8:
            given.append((POWER_BUDGET, PowerBudget(domain="row-1", budget_w=1600.0, source="grid"), 1000 * second + 20))
            given.append((ENERGY_ACK, acknowledgement(), 1000 * second + 30))
        if second == 14:
            demand = PowerDemand.example().model_copy(update={"domain": "row-1", "child": "row-3"})
            given.append((POWER_DEMAND, demand, 1000 * second + 60))
        if second % 3 == 0:
            given.append((SERVING_LOAD, load(second), 1000 * second + 45))
        if second in (5, 7):
            given.append((TASK_GRAPH, graph(), 1000 * second + 40))
        if second == 12:
            given.append((TASK_GRAPH, graph(graph_id="large", gpus=np.array([1, 8, 1], np.int32)), 1000 * second + 40))
            given.append((TASK_GRAPH, graph(graph_id="late", ts_ns=10**9), 1000 * second + 50))
        if second in (15, 16):
            given.append((LEARN_COMMAND, LearnCommand.build(module="energy", key="row-1", command="reset"), 1000 * second + 30))
            came = graph(graph_id=f"more-{second}", ts_ns=(second - 14) * 10**9, measured=np.ones(3, np.uint8))
            given.append((TASK_GRAPH, came, 1000 * second + 40))
        if second == 17:
            given.append((POWER_TOPOLOGY, topology(2400.0), 1000 * second))
    return [Record(topic.name, 0, offset, "row-1", frame, at_ms) for offset, (topic, frame, at_ms) in enumerate(given)]


def topology(budget_w: float) -> PowerTopology:
    """Two nodes with two GPUs each; the last GPU has not opted in."""
    return PowerTopology.example().model_copy(update={"budget_w": budget_w, "parent": "site-1"})


def telemetry(node: int, second: int, *, uuid: tuple[str, ...] = (), limit_w: float = 700.0) -> GpuTelemetry:
    """A second of a node whose GPUs draw and work more in the second half of each ten."""
    busy = 1.0 + 0.1 * (second % 10 >= 5)
    power = np.array([280.0, 560.0]) * busy
    value = np.array([power, [limit_w, limit_w], [1980.0, 1980.0]], np.float32)
    count = np.array([power * second * 1e3, [1000.0 * second, 900.0 * second]], np.uint64)
    return GpuTelemetry(
        domain="row-1",
        ts_ns=second * 10**9,
        node=f"node-{node}",
        boot_id="b1",
        seq=second,
        uuid=uuid or UUIDS[2 * node : 2 * node + 2],
        metric=("power_w", "power_limit_w", "sm_clock_mhz"),
        counter=("energy_mj", "progress"),
        progress_unit="tokens",
        value=value,
        count=count,
    )


def graph(**fields: Any) -> TaskGraph:
    """Three tasks that begin 10 s after the first record, in slots of a second."""
    changed = {"ts_ns": 10 * 10**9, "slot_s": 1.0, "gpus": np.array([1, 2, 2], np.int32)} | fields
    return TaskGraph(**dict(TaskGraph.example()) | changed)


def load(second: int) -> ServingLoad:
    """A window of falling demand on a model with one GPU a replica."""
    return ServingLoad(
        domain="row-1", ts_ns=second * 10**9, model="chat", window_s=3.0, tokens_s=4000.0 / second, capacity_tokens_s=500.0,
        replicas=5 if second == 9 else 3,
    )  # fmt: skip


def acknowledgement() -> EnergyAck:
    """An actuator that could not set one of its targets."""
    limits = np.array([700.0, 700.0], np.float32)
    return EnergyAck(
        domain="row-1",
        ts_ns=8 * 10**9,
        node="node-0",
        plan_id="p",
        uuid=UUIDS[:2],
        result=("ok", "denied"),
        applied_limit_w=limits,
        enforced_limit_w=limits,
        applied_clock_mhz=np.full(2, -1, np.float32),
    )
