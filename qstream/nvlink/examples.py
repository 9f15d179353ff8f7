"""Example records for the conformance checks: a leaf-spine fabric whose telemetry comes late, twice, wrong and of a slow link."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.contract import Record
from schemas.fabric import FabricReport, FabricTopology, JobProfile, LinkTelemetry
from schemas.frame import Frame
from schemas.learning import LearnCommand
from schemas.topics import FABRIC_JOB, FABRIC_REPORT, FABRIC_TELEMETRY, FABRIC_TOPOLOGY, LEARN_COMMAND, Topic

FABRIC: Final = "pod-1"
LEAVES, SPINES, NS = 4, 3, 250_000_000
FIRST_UP: Final = 2 * LEAVES  # index of the first link from a leaf to a spine


def topology(**changes: Any) -> FabricTopology:
    """One GPU below each of four leaves, and three spines; each direction of a leaf and a spine is a link of 400 GB/s."""
    gpus, leaves = np.arange(LEAVES), LEAVES + np.arange(LEAVES)
    spines = 2 * LEAVES + np.arange(SPINES)
    a, b = (side.ravel() for side in np.meshgrid(leaves, spines, indexing="ij"))
    src, dst = np.concatenate([gpus, leaves, a, b]), np.concatenate([leaves, gpus, b, a])
    nodes = 2 * LEAVES + SPINES
    fields: dict[str, Any] = {
        "fabric": FABRIC,
        "node_name": tuple(f"node-{i}" for i in range(nodes)),
        "node_type": np.repeat([0, 5, 6], [LEAVES, LEAVES, SPINES]).astype(np.uint8),
        "node_host": np.full(nodes, -1, np.int32),
        "node_domain": np.full(nodes, -1, np.int32),
        "node_health": np.zeros(nodes, np.uint8),
        "node_free": np.ones(nodes, np.bool_),
        "link_src": src.astype(np.int32),
        "link_dst": dst.astype(np.int32),
        "link_kind": np.full(len(src), 5, np.uint8),
        "link_count": np.ones(len(src), np.int32),
        "link_gb_s": np.full(len(src), 400, np.float32),
    }
    return FabricTopology(**(fields | changes))


def telemetry(window: int, offered: NDArray[Any] | None = None, **changes: Any) -> LinkTelemetry:
    """What one collector says of a window; bytes [leaves, leaves] that leaves offered, if given."""
    fields: dict[str, Any] = {
        "fabric": FABRIC,
        "source": "collector",
        "window_id": window,
        "t0_ns": window * NS,
        "t1_ns": (window + 1) * NS,
        "topology_digest": topology().digest(),
        "link": np.zeros(0, np.int32),
        "link_bytes": np.zeros(0, np.int64),
    }
    if offered is not None:
        src, dst = np.nonzero(offered)
        fields |= {"pair_src": (LEAVES + src).astype(np.int32), "pair_dst": (LEAVES + dst).astype(np.int32)}
        fields["pair_bytes"] = offered[src, dst].astype(np.int64)
    return LinkTelemetry(**(fields | changes))


def job(name: str, ranks: int, **changes: Any) -> JobProfile:
    """A job whose ranks send to the next one, and all the way round."""
    src = np.arange(ranks, dtype=np.int32)
    size = np.full(ranks, 10**9)
    fields: dict[str, Any] = {"fabric": FABRIC, "job": name, "num_ranks": ranks}
    if ranks > 1:
        fields |= {"traffic_src": src, "traffic_dst": np.roll(src, -1), "traffic_bytes": size}
    return JobProfile(**(fields | changes))


def report(name: str, step: int, version: int | None) -> FabricReport:
    """A step of a job."""
    fields: dict[str, Any] = {"t0_ns": step * NS, "t1_ns": (step + 1) * NS, "bytes": 10**9, "comm_us": 900.0}
    return FabricReport(fabric=FABRIC, job=name, step=step, applied_version=version, **fields)


def demands(windows: int, seed: int = 0) -> list[NDArray[np.float64]]:
    """Bytes [leaves, leaves] of each window: skewed, and noisy from window to window."""
    rng = np.random.default_rng(seed)
    base = rng.lognormal(0, 0.8, (LEAVES, LEAVES)) * ~np.eye(LEAVES, dtype=np.bool_)
    return [np.floor(base * np.exp(0.2 * rng.normal(size=base.shape)) * 100 * NS) for _ in range(windows)]


@dataclass
class _Log:
    """Records of one fabric, one window after the other."""

    records: list[Record] = field(default_factory=list)
    at_ms: int = 1_700_000_000_000

    def add(self, topic: Topic, frame: Frame, later_ms: int = 250) -> None:
        self.at_ms += later_ms
        offset = sum(record.topic == topic.name for record in self.records)
        self.records.append(Record(topic.name, 0, offset, FABRIC, frame, self.at_ms))


def records() -> list[Record]:
    """Jobs, one of which finds too few GPUs until another ends; windows of telemetry, one of them twice, late, of another
    topology, of a leaf that is none; a link that is slow and then down, windows without pairs, a command that freezes, and a
    topology with another capacity and with a spine less."""
    log = _Log()
    log.add(FABRIC_TOPOLOGY, topology())
    log.add(FABRIC_JOB, job("second", 2, priority=1))
    log.add(FABRIC_JOB, job("first", 2))
    log.add(FABRIC_JOB, job("first", 2))
    log.add(FABRIC_JOB, job("third", 3, priority=2))
    log.add(FABRIC_REPORT, report("first", 1, None))
    log.add(FABRIC_REPORT, report("first", 2, 7))
    log.add(FABRIC_REPORT, report("nobody", 3, 1))
    log.add(FABRIC_JOB, job("second", 2, ended=True))
    offered = demands(14)
    for window in range(4):
        log.add(FABRIC_TELEMETRY, telemetry(window, offered[window]))
    log.add(FABRIC_TELEMETRY, telemetry(3, offered[3]))
    log.add(FABRIC_TELEMETRY, telemetry(1, offered[1], source="slow"))
    log.add(FABRIC_TELEMETRY, telemetry(9, topology_digest="0" * 16))
    wrong = {name: np.array([value]) for name, value in (("pair_src", 0), ("pair_dst", 5), ("pair_bytes", 1))}
    log.add(FABRIC_TELEMETRY, telemetry(4, **wrong))
    one = np.array([FIRST_UP], np.int32)
    slow = {"link": one, "link_bytes": np.array([5 * NS]), "link_queue_us": np.array([80], np.float32)}
    for window in range(5, 8):
        log.add(FABRIC_TELEMETRY, telemetry(window, offered[window], **slow))
    log.add(FABRIC_TELEMETRY, telemetry(8, offered[8], link=one, link_bytes=np.array([0]), link_up=np.array([False])))
    log.add(FABRIC_TELEMETRY, telemetry(9, offered[9]))
    for window in range(10, 22):  # nobody tells of pairs any more, and steps are reported: rewards decide whose shares serve
        log.add(FABRIC_TELEMETRY, telemetry(window, **(slow if window % 2 else {})))
        log.add(FABRIC_REPORT, report("first", window, None))
    log.add(LEARN_COMMAND, LearnCommand(module="nvlink", key=FABRIC, learner="splits", command="freeze"))
    log.add(FABRIC_TELEMETRY, telemetry(22, offered[10]))
    speed = topology().link_gb_s.copy()
    speed[FIRST_UP] = 100
    log.add(FABRIC_TOPOLOGY, topology(link_gb_s=speed))
    kinds = topology().node_type.copy()
    kinds[-1] = 7
    log.add(FABRIC_TOPOLOGY, topology(node_type=kinds))
    return log.records
