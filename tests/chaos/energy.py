"""Energy under faults: domains whose nodes send when they like, some silent for long, some of GPUs that are not theirs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from agents.registry import find_agent
from qstream.config import Settings
from qstream.contract import Record
from qstream.testing.verify import Run, fault_free
from schemas.power import GpuTelemetry, PowerTopology
from schemas.topics import GPU_TELEMETRY, POWER_TOPOLOGY
from tests.chaos.cases import Case, Step, draw_fault

DOMAINS: Final = tuple(f"row-{n}" for n in range(6))
NODES: Final = 4
GPUS: Final = 2  # of a node
# Plans every quarter of a second of the records' time; none by the clock, as an hour is longer than a run.
OPTIONS: Final = {
    "mode": "apply",
    "plan_s": 0.25,
    "ttl_s": 0.25,
    "settle_s": 1.0,
    "measure_s": 2.0,
    "stale_s": 600.0,
    "lost_s": 3600.0,
}


def domains() -> Case:
    """Topologies first, then telemetry."""
    agent = find_agent("energy")
    processor = agent.processor(Settings(options=dict(OPTIONS)))

    def expected(records: Sequence[Record], poison: Collection[str], states: Mapping[str, bytes]) -> Run:
        first = [record for record in records if record.topic == POWER_TOPOLOGY.name]
        return fault_free(processor, [*first, *(record for record in records if record.topic != POWER_TOPOLOGY.name)], poison)

    state = processor.state
    assert state is not None
    return Case(agent.name, processor.inputs, processor.outputs, state, DOMAINS, script, expected, first=len(DOMAINS))


def script(rng: random.Random, count: int) -> Iterator[Step]:
    """The topology of each domain, then readings of nodes at random; a fault is a GPU of nowhere, or no frame at all."""
    for domain in DOMAINS:
        yield Step(POWER_TOPOLOGY, domain, topology(domain))
    sent: Counter[tuple[str, int]] = Counter()
    for _ in range(count):
        domain, node = rng.choice(DOMAINS), rng.randrange(NODES)
        sent[domain, node] += 1
        fault = draw_fault(rng).replace("error", "poison")
        yield Step(GPU_TELEMETRY, domain, telemetry(domain, node, sent[domain, node], stranger=fault == "poison"), fault)


def topology(domain: str) -> PowerTopology:
    gpus = NODES * GPUS
    return PowerTopology(
        domain=domain,
        budget_w=500.0 * gpus,
        node=tuple(f"node-{node}" for node in range(NODES)),
        uuid=tuple(f"{domain}-{gpu}" for gpu in range(gpus)),
        node_of_gpu=np.repeat(np.arange(NODES, dtype=np.int32), GPUS),
        limit_min_w=np.full(gpus, 200, np.float32),
        limit_max_w=np.full(gpus, 700, np.float32),
        limit_default_w=np.full(gpus, 700, np.float32),
        opt_in=np.ones(gpus, np.uint8),
    )


def telemetry(domain: str, node: int, number: int, *, stranger: bool) -> GpuTelemetry:
    """The readings of a node, other ones each time."""
    power = 300.0 + 50 * node + number % 90
    return GpuTelemetry(
        domain=domain,
        ts_ns=number,
        node=f"node-{node}",
        boot_id=f"boot-{number // 100}",
        seq=number,
        uuid=tuple(f"{'none' if stranger else domain}-{GPUS * node + gpu}" for gpu in range(GPUS)),
        metric=("power_w", "power_limit_w"),
        counter=("energy_mj", "progress"),
        job=(f"job-{number // 60}", ""),
        value=np.array([[power, power + 20], [700, 700]], np.float32),
        count=np.array([[300_000 * number] * GPUS, [1000 * number] * GPUS], np.uint64),
    )
