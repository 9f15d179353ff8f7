"""Folding: samples go into the arrays of a domain's state, frame after frame: the split into batches makes no difference."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from qstream.energy.guard import AHEAD_NS, BLANK_INT
from qstream.energy.memory import RECENT_S
from qstream.kernels import compiled

REPEATED_NS: Final = 20_000_000_000  # older readings are of no use
AWAITED_NS: Final = 30_000_000_000  # for nodes that have not been heard yet
NONE_AWAITED: Final = 1
OTHER_JOB: Final = 2
_SLOT_NS: Final = int(RECENT_S * 1e9)
_LAST_NS: Final = 2**63 - 1
_MOST: Final = 255
_BLANK: Final = np.uint64(BLANK_INT)
THROTTLED: Final = np.float32(0.95)  # of its limit: a GPU that draws more may want more than it gets
_GROWTH: Final = np.float32(1.2)  # of its limit: what such a GPU is taken to want at least


@compiled
def fold_frames(
    begin: Any, until_ns: Any, watermark_ns: Any, since_ns: Any,
    at_ns: Any, first: Any, row: Any, power: Any, limit: Any, clock: Any, share: Any, energy: Any, work: Any, fit: Any, heat: Any,
    job: Any, boot: Any, job_of_gpu: Any, boot_of_node: Any, job_change: Any,
    node_of_gpu: Any, node_ns: Any, seen_ns: Any, unfit: Any, hot: Any, power_w: Any, want_w: Any, peak_w: Any, limit_w: Any,
    clock_mhz: Any, active: Any, energy_mj: Any, progress: Any, works: Any, begin_ns: Any, power_sum: Any, samples: Any,
) -> Any:  # fmt: skip
    """Fold the frames from `begin` up to the first one that moves the watermark to `until_ns`: the next frame, the watermark, and
    since when the domain is heard.

    Arrays are those of `Samples`, then those of `EnergyState`, which are written as `job_of_gpu` and `boot_of_node` are.
    `job_change` uint8 [gpus] is set where a GPU has a job, to `OTHER_JOB` where it had one before. A repeated or old frame
    changes nothing.
    """
    for frame in range(begin, len(at_ns)):
        now_ns, start, end = at_ns[frame], first[frame], first[frame + 1]
        new = False
        for i in range(start, end):
            new |= now_ns > seen_ns[row[i]]
        if not new or now_ns < watermark_ns - REPEATED_NS:
            continue
        rebooted, later = False, False
        for i in range(start, end):
            node = node_of_gpu[row[i]]
            later |= now_ns > node_ns[node]
            node_ns[node] = max(node_ns[node], now_ns)
            if boot_of_node[node] != boot[frame]:
                rebooted |= boot_of_node[node] != 0
                boot_of_node[node] = boot[frame]
        if since_ns != NONE_AWAITED:
            since_ns = since_ns if since_ns > 0 else now_ns
            since_ns = since_ns if _awaits(node_ns, since_ns) else NONE_AWAITED
        watermark_ns = _watermark(node_ns, watermark_ns, since_ns != NONE_AWAITED)
        heard_ns = min(now_ns, watermark_ns + AHEAD_NS) if watermark_ns > 0 else now_ns
        for i in range(start, end):
            gpu = row[i]
            if now_ns <= seen_ns[gpu]:
                continue
            if job[i] >= 0 and job[i] != job_of_gpu[gpu]:
                if job_of_gpu[gpu] != 0:
                    job_change[gpu] = OTHER_JOB
                    begin_ns[gpu] = 0
                elif job_change[gpu] == 0:
                    job_change[gpu] = 1
                job_of_gpu[gpu] = job[i]
            if not fit[i]:
                if later and unfit[gpu] < _MOST:
                    unfit[gpu] += 1
                continue
            unfit[gpu] = 0
            limit_w[gpu], clock_mhz[gpu], active[gpu], hot[gpu] = limit[i], clock[i], share[i], heat[i]
            _draw(gpu, power[i], limit[i], heard_ns, seen_ns, power_w, want_w, peak_w)
            if begin_ns[gpu] > 0:  # a measurement goes on
                power_sum[gpu] += power[i]
                samples[gpu] += 1
            # A counter that fell was reset, which ends the measurement, as heat does.
            fell = _count(gpu, energy[i], energy_mj)
            fell |= _count(gpu, work[i], progress)
            works[gpu] = work[i] < _BLANK
            if fell or rebooted or heat[i]:
                begin_ns[gpu] = 0
        if watermark_ns >= until_ns:
            return frame + 1, watermark_ns, since_ns
    return len(at_ns), watermark_ns, since_ns


@compiled
def _draw(gpu: Any, power: Any, limit: Any, heard_ns: Any, seen_ns: Any, power_w: Any, want_w: Any, peak_w: Any) -> None:
    """The newest sample, the maxima of the last seconds, and what the GPU wants to draw."""
    recent = peak_w.shape[1]
    slot = heard_ns // _SLOT_NS
    begun = min(slot - seen_ns[gpu] // _SLOT_NS, recent)
    for back in range(begun):  # slots that have begun since
        peak_w[gpu, (slot - back) % recent] = -1
    peak_w[gpu, slot % recent] = max(peak_w[gpu, slot % recent], power)
    if limit < 0 or power < THROTTLED * limit:
        want_w[gpu] = peak_w[gpu].max()
    else:
        want_w[gpu] = max(_GROWTH * limit, want_w[gpu])
    power_w[gpu] = power
    seen_ns[gpu] = heard_ns


@compiled
def _count(gpu: Any, now: Any, before: Any) -> Any:
    """Keep what a counter says, if anything: whether it fell."""
    if now >= _BLANK:
        return False
    fell = now < before[gpu] and before[gpu] < _BLANK
    before[gpu] = now
    return fell


@compiled
def _awaits(node_ns: Any, since_ns: Any) -> Any:
    """Whether nodes may still come: some have not been heard, and the others, by the median of their times, not for long."""
    known = 0
    for ns in node_ns:
        known += ns > 0
    return known < len(node_ns) and _later(node_ns, 0, (known - 1) // 2) - since_ns < AWAITED_NS


@compiled
def _watermark(node_ns: Any, watermark_ns: Any, awaits: Any) -> Any:
    """The median over the nodes of the newest time of each, which one node alone neither holds nor drives; it never falls.

    Of an even number the later of the two in the middle, so that of two nodes a silent one does not hold it. While nodes are
    awaited, those that have not been heard count as the earliest: else the first ones of all would set the time, whatever their
    clocks say.
    """
    known, passed = 0, 0
    for ns in node_ns:
        known += ns > 0
        passed += 0 < ns <= watermark_ns
    unheard = len(node_ns) - known if awaits else 0
    rank = (known + unheard) // 2 - unheard - passed
    return _later(node_ns, watermark_ns, rank) if rank >= 0 else watermark_ns


@compiled
def _later(node_ns: Any, than_ns: Any, rank: Any) -> Any:
    """Of the times later than one, that which `rank` others come before."""
    while rank >= 0:
        next_ns, same = _LAST_NS, 0
        for ns in node_ns:
            if than_ns < ns < next_ns:
                next_ns, same = ns, 1
            elif ns == next_ns:
                same += 1
        than_ns = next_ns
        rank -= max(same, 1)
    return than_ns
