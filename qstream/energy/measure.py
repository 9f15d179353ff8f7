"""Measure: time and power of each job under the cap in force, and which cap it has next.

Ranks of one job are measured as one unit: its work is theirs together, and all have one cap. A cap is accepted only once its
time and power were measured, and only where the readings say that it was in force.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.energy import guard
from qstream.energy.bundled import default_prior
from qstream.energy.caps import best_cap, next_cap
from qstream.energy.levels import Knobs
from qstream.energy.memory import LEVELS, Memory
from qstream.energy.options import EnergyOptions

ABORT_S: Final = 20.0  # after which a probe that is slower than twice what is accepted ends
DRIFT: Final = 0.1  # change of time or power at the default by which all that was measured is given up
ABOVE_CAP_MHZ: Final = 16.0  # a clock above its cap by more is not capped
ABOVE_CAP_W: Final = 1.0
Rows = NDArray[np.int64]


def units(job: tuple[str, ...], may: NDArray[np.bool_]) -> list[Rows]:
    """Rows of each job among the GPUs that `may` be measured; a GPU without a job is a unit of its own."""
    found: dict[str, list[int]] = {}
    for row in np.flatnonzero(may).tolist():
        found.setdefault(job[row] or f"\0{row}", []).append(row)
    whole = {name: sum(other == name for other in job) for name in found if not name.startswith("\0")}
    return [np.array(rows) for name, rows in found.items() if len(rows) == whole.get(name, len(rows))]


def measure(memory: Memory, knobs: Knobs, options: EnergyOptions, heard: NDArray[np.bool_]) -> None:
    """Close the measurements that are long enough, and choose the caps that follow from them."""
    now = memory.now
    may = knobs.targetable & heard & (now.works == 1) & (now.hot == 0)
    free = max(1, int(options.probe_fraction * int(may.sum()))) - int((now.probing == 1).sum())
    for rows in units(now.job, may):
        if now.level[rows[0]] < 0:
            memory.edit("level")[rows] = LEVELS - 1
            memory.edit("begin_ns")[rows] = 0
        settled = now.watermark_ns - int(now.changed_ns[rows].max()) >= options.settle_s * 1e9
        if not settled:
            memory.edit("begin_ns")[rows] = 0
            continue
        if (now.begin_ns[rows] <= now.changed_ns[rows].max()).any():  # nothing from before the change, or from it
            _begin(memory, rows)
            continue
        elapsed_s = float((now.seen_ns[rows] - now.begin_ns[rows]).min()) / 1e9
        if elapsed_s < min(options.measure_s, ABORT_S):
            continue
        time, draw = _taken(memory, rows, elapsed_s)
        slow = time / float(now.time_s[rows[0], -1]) - 1 if now.time_s[rows[0], -1] > 0 else 0.0
        if elapsed_s >= options.measure_s or slow > 2 * options.max_slowdown:
            if time < np.inf and _in_force(memory, knobs, rows):
                _note(memory, rows, time, draw)
                free -= _choose(memory, knobs, options, rows, free)
            _begin(memory, rows)


def _begin(memory: Memory, rows: Rows) -> None:
    """Measure from the newest reading on."""
    now = memory.now
    for name, value in (
        ("begin_ns", now.seen_ns[rows]),
        ("begin_energy_mj", now.energy_mj[rows]),
        ("begin_progress", now.progress[rows]),
    ):
        memory.edit(name)[rows] = value
    memory.edit("power_sum")[rows] = 0
    memory.edit("samples")[rows] = 0


def _taken(memory: Memory, rows: Rows, elapsed_s: float) -> tuple[float, float]:
    """Seconds for a unit of the work of all, infinite without work, and watts of all together.

    Power is from the energy counter where it agrees with the samples, else their mean.
    """
    now = memory.now
    work, _ = guard.counter_gains(now.begin_progress[rows], now.progress[rows])
    joules = guard.counter_gains(now.begin_energy_mj[rows], now.energy_mj[rows])[0] / 1e3
    each_s = (now.seen_ns[rows] - now.begin_ns[rows]) / 1e9
    mean = now.power_sum[rows] / np.maximum(now.samples[rows], 1)
    draw = np.where(guard.energy_agrees(joules, each_s, mean), joules / each_s, mean)
    rate = float((work / each_s).sum())
    return (1 / rate if rate > 0 else np.inf), float(draw.sum())


def _in_force(memory: Memory, knobs: Knobs, rows: Rows) -> bool:
    """Whether the readings agree with the caps that are being measured, and no limit of a budget slowed the unit."""
    now, level = memory.now, int(memory.now.level[rows[0]])
    cap = knobs.levels[rows, level]
    by_clock = knobs.by_clock[rows]
    limit_free = (now.limit_w[rows] < 0) | (now.power_w[rows] < 0.97 * now.limit_w[rows])
    clock_fits = (level == LEVELS - 1) | (now.clock_mhz[rows] <= cap + ABOVE_CAP_MHZ)
    limit_fits = np.abs(now.limit_w[rows] - cap) <= ABOVE_CAP_W
    return bool(np.where(by_clock, clock_fits & limit_free, limit_fits | ((level == LEVELS - 1) & limit_free)).all())


def _note(memory: Memory, rows: Rows, time: float, draw: float) -> None:
    """Keep a measurement; one at the default that is far from the last ends what was known."""
    now, level = memory.now, int(memory.now.level[rows[0]])
    old_time, old_draw = float(now.time_s[rows[0], level]), float(now.draw_w[rows].sum(0)[level])
    if old_time > 0:
        drifted = abs(time / old_time - 1) > DRIFT or abs(draw / old_draw - 1) > DRIFT
        if level == LEVELS - 1 and drifted:
            for name in ("time_s", "draw_w", "accepted"):
                memory.edit(name)[rows] = -1
        else:
            time, draw = float(np.sqrt(time * old_time)), float(np.sqrt(draw * old_draw))
    memory.edit("time_s")[rows, level] = time
    memory.edit("draw_w")[rows, level] = draw / len(rows)


def _choose(memory: Memory, knobs: Knobs, options: EnergyOptions, rows: Rows, free: int) -> int:
    """Set the level that follows; how many more GPUs probe now than before."""
    now, first = memory.now, int(rows[0])
    if now.time_s[first, -1] <= 0:
        return 0
    others = np.flatnonzero(now.time_s[first, :-1] > 0).tolist()
    visited = [LEVELS - 1, *others]
    levels, times = knobs.levels[first], now.time_s[first, visited].astype(np.float64)
    draws = now.draw_w[first, visited].astype(np.float64)
    probed = bool(now.probing[first])
    may_probe = options.probe and options.mode == "apply" and now.accepted[first] < 0 and (probed or free >= len(rows))
    chosen = None
    if may_probe:
        knob = "sm_clock_mhz" if knobs.by_clock[first] else "power_limit_w"
        model = now.topology.model[int(now.topology.model_of_gpu[first])] if now.topology.model_of_gpu is not None else ""
        prior, limit = default_prior(knob), options.max_slowdown
        chosen = next_cap(levels, visited, times, draws, prior=prior, gpu=model, max_slowdown=limit, seed=options.seed)
    if chosen is None:
        best = best_cap(levels, visited, times, draws, max_slowdown=options.max_slowdown)
        if may_probe or now.accepted[first] >= 0:
            memory.edit("accepted")[rows] = best
        memory.edit("level")[rows] = best
        memory.edit("probing")[rows] = 0
        return -len(rows) if probed else 0
    memory.edit("level")[rows] = chosen
    memory.edit("probing")[rows] = 1
    return 0 if probed else len(rows)
