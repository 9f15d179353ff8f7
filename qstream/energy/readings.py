"""Readings: telemetry frames become what is known of each GPU; samples that cannot be measurements are left out."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.energy.folding import OTHER_JOB, fold_frames
from qstream.energy.memory import EnergyState, Memory
from qstream.energy.samples import Samples

END_NS: Final = 2**63 - 1
_WRITTEN: Final = (
    "node_ns", "seen_ns", "unfit", "hot", "power_w", "want_w", "peak_w", "limit_w", "clock_mhz", "active", "energy_mj",
    "progress", "works", "begin_ns", "power_sum", "samples",
)  # fmt: skip


def fold(memory: Memory, samples: Samples, begin: int = 0, until_ns: int = END_NS) -> int:
    """Take the frames from `begin` on into the memory, up to the first one that moves the watermark to `until_ns`.

    A repeated or old frame, and one that is a fault, changes nothing. `samples` are gathered from this memory, and nothing but
    this function may have changed its jobs, boots or topology since.

    Returns
    -------
    int
        The first frame that was not taken.
    """
    change = np.zeros(len(memory.now.job), np.uint8)
    boots = samples.boot_of_node.copy()
    end, watermark_ns, since_ns = fold_frames(
        begin, until_ns, memory.now.watermark_ns, memory.now.since_ns,
        samples.at_ns, samples.first, samples.row, samples.power_w, samples.limit_w, samples.clock_mhz, samples.active,
        samples.energy_mj, samples.progress, samples.fit, samples.hot, samples.job, samples.boot,
        samples.job_of_gpu, samples.boot_of_node, change,
        memory.now.topology.node_of_gpu, *(memory.edit(name) for name in _WRITTEN),
    )  # fmt: skip
    memory.set(watermark_ns=watermark_ns, since_ns=since_ns)
    if (samples.boot_of_node != boots).any():
        memory.set(boot=tuple(samples.names[place] for place in samples.boot_of_node.tolist()))
    if change.any():
        memory.set(job=tuple(samples.names[place] for place in samples.job_of_gpu.tolist()))
        forget(memory, np.flatnonzero(change == OTHER_JOB))
    return int(end)


def drawn_w(now: EnergyState, lost_s: float) -> float:
    """Watts of the GPUs that are heard, by their newest readings, and of their nodes besides."""
    heard = (now.power_w > 0) & (now.watermark_ns - now.seen_ns <= lost_s * 1e9)
    overhead = 0.0 if now.topology.overhead_w is None else float(np.maximum(now.topology.overhead_w, 0).sum())
    return float(now.power_w[heard].sum(dtype=np.float64)) + overhead


def forget(memory: Memory, rows: NDArray[np.int64]) -> None:
    """Begin to measure these GPUs from the default once more."""
    for name in ("time_s", "draw_w", "accepted", "level"):
        memory.edit(name)[rows] = -1
    for name in ("begin_ns", "probing"):
        memory.edit(name)[rows] = 0
