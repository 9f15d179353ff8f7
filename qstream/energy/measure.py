"""Measure: time and power of each job under the cap in force, and which cap it has next.

Ranks of one job are measured as one unit: its work is theirs together, and all have one cap. A cap is accepted only once its
time and power were measured, and only where the readings say that it was in force.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.energy import guard
from qstream.energy.bundled import default_prior
from qstream.energy.caps import best_caps, next_caps
from qstream.energy.levels import Knobs
from qstream.energy.memory import LEVELS, EnergyState, Memory
from qstream.energy.options import EnergyOptions

ABORT_S: Final = 20.0  # after which a probe that is slower than twice what is accepted ends
DRIFT: Final = 0.1  # change of time or power at the default by which all that was measured is given up
PRECISE: Final = 0.01  # standard error of a time, as a part of it, above which a measurement goes on
PROLONGED: Final = 3.0  # times its length at most
LEAST_WINDOWS: Final = 3  # for a standard error
SIGNIFICANT: Final = 2.0  # standard errors by which a cap must save
ABOVE_CAP_MHZ: Final = 16.0  # a clock above its cap by more is not capped
ABOVE_CAP_W: Final = 1.0
Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """Jobs that are measured, N GPUs in U units: the rows of unit u are ``row[first[u]]`` to ``row[first[u] + size[u] - 1]``."""

    row: Rows
    first: Rows
    size: Rows

    @property
    def lead(self) -> Rows:
        """The first row of each unit, whose level and measurements are those of all."""
        return self.row[self.first]

    def rows(self, chosen: Bools) -> Rows:
        """The rows of the chosen units [U]."""
        return self.row[np.repeat(chosen, self.size)]

    def each(self, chosen: Bools, values: NDArray[Any]) -> NDArray[Any]:
        """Values of units [U], for each of the rows of the chosen ones."""
        return np.repeat(values[chosen], self.size[chosen])


def units_of(job: tuple[str, ...], may: Bools) -> Units:
    """The jobs of which all GPUs `may` be measured; a GPU without a job is a unit of its own."""
    place: dict[str | int, int] = {}
    number = np.array([place.setdefault(name or row, len(place)) for row, name in enumerate(job)], np.int64)
    whole = np.bincount(number[may], minlength=len(place)) == np.bincount(number)
    row = np.flatnonzero(whole[number])
    row = row[np.argsort(number[row], kind="stable")]
    first = np.flatnonzero(np.diff(number[row], prepend=-1))
    return Units(row, first, np.diff(first, append=len(row)))


def measure(memory: Memory, knobs: Knobs, options: EnergyOptions, heard: Bools) -> None:
    """Close the measurements that are long enough, and choose the caps that follow from them."""
    now = memory.now
    may = knobs.targetable & heard & (now.works == 1) & (now.hot == 0)
    units = units_of(now.job, may)
    if not len(units.row):
        return
    new = now.level[units.lead] < 0
    memory.edit("level")[units.rows(new)] = LEVELS - 1
    changed_ns = np.maximum.reduceat(now.changed_ns[units.row], units.first)
    settled = now.watermark_ns - changed_ns >= options.settle_s * 1e9
    # Nothing is measured from before a change, or from it.
    begun = ~new & (np.minimum.reduceat(now.begin_ns[units.row], units.first) > changed_ns)
    elapsed_s = np.minimum.reduceat(now.seen_ns[units.row] - now.begin_ns[units.row], units.first) / 1e9
    due = settled & begun & (elapsed_s >= min(options.measure_s, ABORT_S))
    time, draw = _taken(now, units)
    default = now.time_s[units.lead, -1].astype(np.float64)
    slow = np.where(default > 0, time / np.where(default > 0, default, 1.0) - 1, 0.0)
    error = _window(memory, units, begun & settled)
    prolonged = (error > PRECISE) & (elapsed_s < PROLONGED * options.measure_s)
    ends = due & ((elapsed_s >= options.measure_s) & ~prolonged | (slow > 2 * options.max_slowdown))
    valid = ends & np.isfinite(time) & (draw > 0) & _in_force(now, knobs, units)
    _note(memory, units, valid, time, draw, error)
    free = max(1, int(options.probe_fraction * int(may.sum()))) - int((now.probing == 1).sum())
    _choose(memory, knobs, options, units, valid, free)
    memory.edit("begin_ns")[units.rows(~settled)] = 0
    _begin(memory, units.rows(settled & ~begun | ends))


def _begin(memory: Memory, rows: Rows) -> None:
    """Measure from the newest reading on."""
    now = memory.now
    for name, value in (
        ("begin_ns", now.seen_ns[rows]),
        ("begin_energy_mj", now.energy_mj[rows]),
        ("begin_progress", now.progress[rows]),
        ("mark_ns", now.seen_ns[rows]),
        ("mark_progress", now.progress[rows]),
    ):
        memory.edit(name)[rows] = value
    for name in ("power_sum", "samples", "windows", "rate_sum", "rate_square"):
        memory.edit(name)[rows] = 0


def _window(memory: Memory, units: Units, begun: Bools) -> Floats:
    """Close a window of those that are measured; the standard error of the rate of each unit as a part of it, 0 while there are
    less than three windows."""
    now, rows, lead = memory.now, units.row, units.lead
    work, _ = guard.counter_gains(now.mark_progress[rows], now.progress[rows])
    each_s = (now.seen_ns[rows] - now.mark_ns[rows]) / 1e9
    rate = np.add.reduceat(work / np.maximum(each_s, 1e-9), units.first)
    taken = begun & (np.minimum.reduceat(each_s, units.first) > 0)
    at = lead[taken]
    memory.edit("windows")[at] += 1
    memory.edit("rate_sum")[at] += rate[taken]
    memory.edit("rate_square")[at] += rate[taken] ** 2
    marked = units.rows(taken)
    memory.edit("mark_ns")[marked] = now.seen_ns[marked]
    memory.edit("mark_progress")[marked] = now.progress[marked]
    count = np.maximum(memory.now.windows[lead], 1)
    mean = memory.now.rate_sum[lead] / count
    spread = np.maximum(memory.now.rate_square[lead] / count - mean**2, 0.0) / np.maximum(count - 1, 1)
    known = (count >= LEAST_WINDOWS) & (mean > 0)
    return np.where(known, np.sqrt(spread) / np.where(known, mean, 1.0), 0.0)


def _taken(now: EnergyState, units: Units) -> tuple[Floats, Floats]:
    """Of each unit since it was begun: seconds for a unit of the work of all, infinite without work, and watts of all together.

    Power is from the energy counter where it agrees with the samples, else their mean.
    """
    rows = units.row
    work, _ = guard.counter_gains(now.begin_progress[rows], now.progress[rows])
    joules = guard.counter_gains(now.begin_energy_mj[rows], now.energy_mj[rows])[0] / 1e3
    each_s = np.maximum((now.seen_ns[rows] - now.begin_ns[rows]) / 1e9, 1e-9)
    mean = now.power_sum[rows] / np.maximum(now.samples[rows], 1)
    draw = np.where(guard.energy_agrees(joules, each_s, mean), joules / each_s, mean)
    rate = np.add.reduceat(work / each_s, units.first)
    return np.where(rate > 0, 1 / np.where(rate > 0, rate, 1.0), np.inf), np.add.reduceat(draw, units.first)


def _in_force(now: EnergyState, knobs: Knobs, units: Units) -> Bools:
    """Whether the readings agree with the caps that are being measured, and no limit of a budget slowed the unit."""
    rows = units.row
    level = np.repeat(now.level[units.lead], units.size)
    default, cap, limit = level == LEVELS - 1, knobs.levels[rows, level], now.limit_w[rows]
    limit_free = (limit < 0) | (now.power_w[rows] < 0.97 * limit)
    clock_fits = default | (now.clock_mhz[rows] <= cap + ABOVE_CAP_MHZ)
    limit_fits = np.abs(limit - cap) <= ABOVE_CAP_W
    fits = np.where(knobs.by_clock[rows], clock_fits & limit_free, limit_fits | (default & limit_free))
    return np.logical_and.reduceat(fits, units.first)


def _note(memory: Memory, units: Units, valid: Bools, time: Floats, draw: Floats, error: Floats) -> None:
    """Keep the measurements of valid units; one at the default that is far from the last ends what was known."""
    if not valid.any():
        return
    now, lead = memory.now, units.lead
    level = now.level[lead]
    every = np.repeat(level, units.size)
    old_time = now.time_s[lead, level].astype(np.float64)
    old_draw = np.add.reduceat(now.draw_w[units.row, every].astype(np.float64), units.first)
    known = valid & (old_time > 0)
    old_time, old_draw = np.where(known, old_time, time), np.where(known, old_draw, draw)
    with np.errstate(invalid="ignore"):  # of units without work, which are not valid
        far = (np.abs(time / old_time - 1) > DRIFT) | (np.abs(draw / old_draw - 1) > DRIFT)
    drifted = known & (level == LEVELS - 1) & far
    for name in ("time_s", "draw_w", "accepted") if drifted.any() else ():
        memory.edit(name)[units.rows(drifted)] = -1
    mean = known & ~drifted
    time, draw = np.where(mean, np.sqrt(time * old_time), time), np.where(mean, np.sqrt(draw * old_draw), draw) / units.size
    error = np.where(mean, np.hypot(error, now.error[lead, level]) / 2, error)
    rows, at = units.rows(valid), units.each(valid, level)
    memory.edit("verified_ns")[units.rows(valid & (level == LEVELS - 1))] = now.watermark_ns
    memory.edit("error")[rows, at] = units.each(valid, error)
    memory.edit("time_s")[rows, at] = units.each(valid, time)
    memory.edit("draw_w")[rows, at] = units.each(valid, draw)


def _choose(memory: Memory, knobs: Knobs, options: EnergyOptions, units: Units, valid: Bools, free: int) -> None:
    """Set the level that follows for the units that were measured; at most `free` more GPUs probe than before."""
    now, lead = memory.now, units.lead
    valid = valid & (now.time_s[lead, -1] > 0)
    if not valid.any():
        return
    times, draws = now.time_s[lead].astype(np.float64), now.draw_w[lead].astype(np.float64)
    level = best_caps(np.where(saves(times, draws, now.error[lead]), times, -1.0), draws, max_slowdown=options.max_slowdown)
    accepted = now.accepted[lead] >= 0
    asks = valid & ~accepted & (options.probe and options.mode == "apply")
    asked, chosen = _ask(now, knobs, options, units, asks, times, draws, free)
    accepted[asked] = chosen < 0
    probing = np.zeros(len(lead), np.uint8)
    probing[asked] = chosen >= 0
    level[asked] = np.where(chosen >= 0, chosen, level[asked])
    rows = units.rows(valid)
    due = accepted & (now.watermark_ns - now.verified_ns[lead] >= options.verify_s * 1e9)
    memory.edit("level")[rows] = units.each(valid, np.where(due, LEVELS - 1, level))
    memory.edit("probing")[rows] = units.each(valid, probing)
    known = valid & accepted
    memory.edit("accepted")[units.rows(known)] = units.each(known, level)


def _ask(
    now: EnergyState, knobs: Knobs, options: EnergyOptions, units: Units, asks: Bools, times: Floats, draws: Floats, free: int
) -> tuple[Rows, Rows]:
    """Units that are asked now [A], and the level that each is to probe, -1 none.

    First those that probe already. What they leave, and `free` GPUs more, is asked of the others in turn: so a tick asks few,
    however many have been measured.
    """
    probes, lead = now.probing[units.lead] == 1, units.lead
    going = np.flatnonzero(asks & probes)
    then = next_levels(now, knobs, options, lead[going], times[going], draws[going])
    free += int(units.size[going[then < 0]].sum())
    coming = []
    for unit in np.flatnonzero(asks & ~probes).tolist():
        if units.size[unit] <= free:
            coming.append(unit)
            free -= int(units.size[unit])
    new = np.array(coming, np.int64)
    first = next_levels(now, knobs, options, lead[new], times[new], draws[new])
    return np.concatenate((going, new)), np.concatenate((then, first))


def saves(times: Floats, draws: Floats, error: NDArray[np.float32]) -> Bools:
    """Levels that were measured to use less energy than the default, by more than standard errors explain, and the default.

    All are [U, LEVELS], the default last; times are -1 where none was measured.
    """
    default = times[:, -1:] * draws[:, -1:]
    wrong = np.hypot(error, error[:, -1:])
    found: Bools = (times > 0) & (1 - times * draws / np.where(default > 0, default, 1.0) > SIGNIFICANT * wrong)
    found[:, -1] = True
    return found


def next_levels(now: EnergyState, knobs: Knobs, options: EnergyOptions, row: Rows, times: Floats, draws: Floats) -> Rows:
    """The level that each of these rows [N] is to probe next, -1 where there is none; times and draws are [N, LEVELS]."""
    found, model = np.full(len(row), -1), [now.topology.model_name(each) for each in row.tolist()]
    levels = knobs.levels[row]
    several = levels[:, 0] < levels[:, -1]  # a limit that cannot be changed has no others
    for knob, mine in (("sm_clock_mhz", knobs.by_clock[row]), ("power_limit_w", ~knobs.by_clock[row])):
        at = np.flatnonzero(mine & several)
        found[at] = next_caps(
            levels[at],
            times[at],
            draws[at],
            [model[each] for each in at.tolist()],
            prior=default_prior(knob),
            max_slowdown=options.max_slowdown,
            seed=options.seed,
        )
    return found
