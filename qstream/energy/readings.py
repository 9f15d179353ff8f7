"""Readings: a telemetry frame becomes what is known of each GPU; samples that cannot be measurements are left out."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.energy import guard
from qstream.energy.memory import RECENT_S, Memory
from qstream.errors import ProblemError
from schemas.power import GpuTelemetry, PowerTopology
from schemas.wording import Shown, must_be

THROTTLED: Final = 0.95  # of its limit: a GPU that draws more may want more than it gets
GROWTH: Final = 1.2  # of its limit: what such a GPU is taken to want at least
REPEATED_NS: Final = 20_000_000_000  # older readings are of no use
Rows = NDArray[np.int64]


def rows_of(frame: GpuTelemetry, topology: PowerTopology) -> Rows:
    """The row of each GPU of the frame in the topology: int64 [gpus of the frame].

    Raises
    ------
    ProblemError
        A GPU is not in the topology, or limits are in another unit than W.
    """
    known = _index(topology.uuid)
    unknown = next((uuid for uuid in frame.uuid if uuid not in known), None)
    if unknown is not None:
        raise ProblemError(must_be("uuid", f"a GPU of the topology of {topology.domain}", unknown))
    rows = np.array([known[uuid] for uuid in frame.uuid], np.int64)
    for name in ("power_limit_w", "power_limit_enforced_w"):
        limit = metric(frame, name)
        if guard.in_milliwatts(limit, topology.limit_max_w[rows]):
            raise ProblemError(must_be(name, "in watts, at most ten times limit_max_w", Shown(f"{float(limit.max()):g}")))
    return rows


@lru_cache(maxsize=256)
def _index(uuids: tuple[str, ...]) -> dict[str, int]:
    return {uuid: row for row, uuid in enumerate(uuids)}


def metric(frame: GpuTelemetry, name: str) -> NDArray[np.float32]:
    """One metric of each GPU of the frame; -1 where it is not reported."""
    if name not in frame.metric:
        return np.full(len(frame.uuid), -1, np.float32)
    row: NDArray[np.float32] = frame.value[frame.metric.index(name)]
    return row


def counter(frame: GpuTelemetry, name: str) -> NDArray[np.uint64] | None:
    """One counter of each GPU of the frame, None where it is not reported."""
    if frame.count is None or name not in frame.counter:
        return None
    row: NDArray[np.uint64] = frame.count[frame.counter.index(name)]
    return row


def fold(memory: Memory, frame: GpuTelemetry, at_ns: int) -> None:
    """Take a frame that came at `at_ns` into the memory. A repeated or old one changes nothing.

    Raises
    ------
    ProblemError
        The frame contradicts the topology.
    """
    now = memory.now
    rows = rows_of(frame, now.topology)
    nodes = np.unique(now.topology.node_of_gpu[rows])
    fresh = at_ns > now.seen_ns[rows]
    if not fresh.any() or at_ns < now.watermark_ns - REPEATED_NS:
        return
    rebooted = _boot(memory, frame, nodes)
    columns = np.flatnonzero(fresh)
    rows = rows[columns]
    _jobs(memory, frame, rows, columns)
    power = metric(frame, "power_w")
    if (power < 0).all():
        power = metric(frame, "power_instant_w")
    good = guard.plausible(power[columns], now.topology.limit_max_w[rows])
    heard = rows[good]
    memory.edit("clock_mhz")[heard] = metric(frame, "sm_clock_mhz")[columns][good]
    limit = metric(frame, "power_limit_enforced_w")
    limit = np.where(limit < 0, metric(frame, "power_limit_w"), limit)
    memory.edit("limit_w")[heard] = limit[columns][good]
    _advance(memory, nodes, at_ns)
    _power(memory, heard, power[columns][good], min(at_ns, now.watermark_ns + guard.AHEAD_NS))
    _counters(memory, frame, heard, columns[good], rebooted)


def _advance(memory: Memory, nodes: NDArray[np.int32], at_ns: int) -> None:
    """The watermark: the median over the nodes of the newest time of each, which one node alone neither holds nor drives.

    Of an even number the later of the two in the middle, so that of two nodes a silent one does not hold it.
    """
    newest = memory.edit("node_ns")
    newest[nodes] = np.maximum(newest[nodes], at_ns)
    known = np.sort(newest[newest > 0])
    memory.set(watermark_ns=max(memory.now.watermark_ns, int(known[len(known) // 2])))


def _power(memory: Memory, heard: Rows, power: NDArray[np.float32], at_ns: int) -> None:
    """The newest sample and the maxima of the last seconds; a measurement that goes on takes the sample in."""
    now = memory.now
    slot = at_ns // int(RECENT_S * 1e9)
    old = now.seen_ns[heard] // int(RECENT_S * 1e9)
    peaks = memory.edit("peak_w")
    for back in range(1, peaks.shape[1] + 1):  # slots that have begun since
        begun = heard[(slot - old) >= back]
        peaks[begun, (slot - back + 1) % peaks.shape[1]] = -1
    peaks[heard, slot % peaks.shape[1]] = np.maximum(peaks[heard, slot % peaks.shape[1]], power)
    memory.edit("power_w")[heard] = power
    limit, peak = memory.now.limit_w[heard], peaks[heard].max(1)
    free = (limit < 0) | (power < THROTTLED * limit)
    want = memory.edit("want_w")
    want[heard] = np.where(free, peak, np.maximum(GROWTH * limit, want[heard]))
    memory.edit("seen_ns")[heard] = at_ns
    measured = heard[now.begin_ns[heard] > 0]
    memory.edit("power_sum")[measured] += now.power_w[measured]
    memory.edit("samples")[measured] += 1


def _counters(memory: Memory, frame: GpuTelemetry, heard: Rows, columns: Rows, rebooted: bool) -> None:
    """Energy and progress; one that fell was reset, and ends the measurement that goes on. Heat ends it too."""
    events = counter(frame, "clock_event_reasons")
    hot = np.zeros(len(heard), bool) if events is None else guard.too_hot(events[columns])
    memory.edit("hot")[heard] = hot
    spoilt = hot | rebooted
    for name, field in (("energy_mj", "energy_mj"), ("progress", "progress")):
        values = counter(frame, name)
        if values is None:
            continue
        new, before = values[columns], getattr(memory.now, field)[heard]
        _, reset = guard.counter_gains(before, new)
        spoilt |= reset
        known = new < guard.BLANK_INT
        memory.edit(field)[heard[known]] = new[known]
        if name == "progress":
            memory.edit("works")[heard] = known
    memory.edit("begin_ns")[heard[spoilt]] = 0


def _boot(memory: Memory, frame: GpuTelemetry, nodes: NDArray[np.int32]) -> bool:
    """Whether a node has started again since its last readings."""
    if all(memory.now.boot[int(node)] == frame.boot_id for node in nodes):
        return False
    boots = list(memory.now.boot)
    changed = any(boots[int(node)] not in ("", frame.boot_id) for node in nodes)
    for node in nodes:
        boots[int(node)] = frame.boot_id
    memory.set(boot=tuple(boots))
    return changed


def _jobs(memory: Memory, frame: GpuTelemetry, rows: Rows, columns: Rows) -> None:
    """A GPU that has another job now: nothing that was measured of it holds."""
    known = memory.now.job
    if not frame.job or all(known[row] == frame.job[column] for row, column in zip(rows, columns, strict=True)):
        return
    jobs = list(memory.now.job)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if jobs[row] != frame.job[column]:
            if jobs[row]:
                forget(memory, np.array([row]))
            jobs[row] = frame.job[column]
    memory.set(job=tuple(jobs))


def forget(memory: Memory, rows: Rows) -> None:
    """Begin to measure these GPUs from the default once more."""
    for name in ("time_s", "draw_w", "accepted", "level"):
        memory.edit(name)[rows] = -1
    for name in ("begin_ns", "probing"):
        memory.edit(name)[rows] = 0
