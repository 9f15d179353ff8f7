"""The modelled rack that `--example` plans from: two nodes with four GPUs each; half decode and half train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from qstream.node import FakeNvml
from schemas.power import GpuTelemetry, PowerTopology

SECONDS: Final = 45
BUDGET_W: Final = 3400.0
GPUS: Final = 4
WORK: Final = (("decode", 0.15, 0.3), ("train", 0.8, 0.9))  # how its time depends on the clock, and how busy it is


def rack() -> tuple[PowerTopology, Iterator[GpuTelemetry]]:
    """The topology, and readings once a second."""
    nodes = [FakeNvml(GPUS, node=f"node-{number}", seed=number) for number in range(2)]
    uuids = tuple(uuid for node in nodes for uuid in node.uuids)
    least, most, default = np.array([node.limits_w(uuid) for node in nodes for uuid in node.uuids], np.float32).T
    topology = PowerTopology(
        domain="rack-1",
        budget_w=BUDGET_W,
        node=tuple(node.node for node in nodes),
        uuid=uuids,
        node_of_gpu=np.repeat(np.arange(2), GPUS).astype(np.int32),
        limit_min_w=least,
        limit_max_w=most,
        limit_default_w=default,
        opt_in=np.ones(len(uuids), np.uint8),
    )
    return topology, _readings(nodes, topology.domain)


def _readings(nodes: list[FakeNvml], domain: str) -> Iterator[GpuTelemetry]:
    work = tuple(WORK[number * len(WORK) // GPUS] for number in range(GPUS))
    for node in nodes:
        for uuid, (_, beta, activity) in zip(node.uuids, work, strict=True):
            node.load(uuid, beta, activity)
    for _ in range(SECONDS):
        for node in nodes:
            node.advance(1)
            yield node.telemetry(domain).model_copy(update={"workload": tuple(name for name, _, _ in work)})
