"""What the scene publishes of its fabric: what a switch would count, what the job sends, and how long its steps take."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.demo.nvlink.fabric import NAME, Fabric
from schemas.fabric import FabricReport, FabricTopology, JobProfile, LinkTelemetry

JOB: Final = "moe"
WINDOW_NS: Final = 250_000_000
# Of a window: a switch's first word of it, by which the agent knows that the window before is over.
FIRST_PART: Final = 0.01
Floats = NDArray[np.float64]


def telemetry(fabric: Fabric, number: int, part: int, t0_ns: int, t1_ns: int, offered: Floats) -> LinkTelemetry:
    """What switches count between two times, for bytes [L, L, S] that were offered by pair of leaves and spine.

    A link is a queue: it carries what it can, and what waits for an uplink does not reach the downlink.
    """
    ns, leaves = t1_ns - t0_ns, fabric.leaves
    up, down = fabric.true_up_gb_s * ns, fabric.down_gb_s * ns
    asked_up = offered.sum(1)
    sent = offered * np.minimum(1.0, np.divide(up, asked_up, out=np.ones_like(up), where=asked_up > 0))[:, None, :]
    asked_down = sent.sum(0).T
    carried = np.append(np.minimum(asked_up, up).ravel(), np.minimum(asked_down, down).ravel())
    wait_us = np.append((asked_up / up).ravel(), (asked_down / down).ravel()) - 1
    is_up, is_down = leaves.up_of >= 0, leaves.down_of >= 0
    link = np.append(np.flatnonzero(is_up), np.flatnonzero(is_down))
    entry = np.append(leaves.up_of[is_up], up.size + leaves.down_of[is_down])
    src, dst = np.nonzero(offered.sum(2))
    return LinkTelemetry(
        fabric=NAME,
        source="switches",
        window_id=2 * number + part,
        t0_ns=t0_ns,
        t1_ns=t1_ns,
        topology_digest=fabric.topology.digest(),
        link=link.astype(np.int32),
        link_bytes=carried[entry].astype(np.int64),
        link_queue_us=(np.maximum(wait_us, 0.0)[entry] * ns / 2e3).astype(np.float32),
        pair_src=leaves.leaf[src].astype(np.int32),
        pair_dst=leaves.leaf[dst].astype(np.int32),
        pair_bytes=offered.sum(2)[src, dst].astype(np.int64),
    )


def profile(nbytes: Floats, gpus: NDArray[np.int32] | None, ts_ns: int) -> JobProfile:
    """The job: the bytes of a step, and where its ranks run."""
    src, dst = np.nonzero(nbytes)
    return JobProfile(
        fabric=NAME,
        job=JOB,
        ts_ns=ts_ns,
        num_ranks=len(nbytes),
        period_us=WINDOW_NS / 1e3,
        traffic_src=src.astype(np.int32),
        traffic_dst=dst.astype(np.int32),
        traffic_bytes=nbytes[src, dst].astype(np.int64),
        gpu_of_rank=gpus,
    )


def elsewhere(job: JobProfile, topology: FabricTopology) -> JobProfile:
    """The same job on another fabric, where it does not run yet."""
    return job.model_copy(update={"fabric": topology.fabric, "gpu_of_rank": None})


def report(number: int, t0_ns: int, nbytes: Floats, took_ms: float, version: int | None) -> FabricReport:
    """A step of the job, in the model."""
    return FabricReport(
        fabric=NAME,
        job=JOB,
        step=number,
        t0_ns=t0_ns,
        t1_ns=t0_ns + WINDOW_NS,
        bytes=int(nbytes.sum()),
        comm_us=took_ms * 1e3,
        applied_version=version,
    )
