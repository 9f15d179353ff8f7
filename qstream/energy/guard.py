"""Guard: what makes a sample or a target unfit, as pure functions that planner and actuator share.

The guard may refuse, hold, or raise toward the default. It never lowers a target. Axes: GPUs G.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

MOST_OVER_LIMIT: Final = 1.2  # of the highest limit: a sample above it is not a measurement
MILLIWATTS: Final = 10.0  # of the highest limit: a limit above it is in another unit
MOST_UNFIT: Final = 3  # samples in a row that cannot be measurements: the GPU is stale then
BLANK_INT: Final = 0x7FFFFFFFFFFFFFF0  # DCGM: at least this stands for no value
BLANK_FLOAT: Final = 140737488355328.0
HOT: Final = 0x8 | 0x20 | 0x40 | 0x80  # event reasons: hardware slowdown, thermal by software and hardware, power brake
ENERGY_AGREES: Final = 0.15
AHEAD_NS: Final = 2_000_000_000
NO_RETURN_NS: Final = 60_000_000_000  # within it no target returns to what it was before its last change
ROUNDING_W: Final = 0.01


class Age(IntEnum):
    """How old the newest reading of a GPU is."""

    FRESH = 0
    STALE = 1  # hold what was applied last
    LOST = 2  # back to the default; charged at its limit


class Fault(IntEnum):
    """Why a target must not be set."""

    NONE = 0
    NOT_ALLOWED = 1  # no opt-in, not on the allow-list, partitioned or shared
    UNKNOWN_LIMITS = 2
    LIMIT_RANGE = 3
    CLOCK_RANGE = 4


def target_faults(
    power_limit_w: ArrayLike,
    sm_clock_mhz: ArrayLike,
    least_w: ArrayLike,
    most_w: ArrayLike,
    lowest_mhz: ArrayLike,
    highest_mhz: ArrayLike,
    allowed: ArrayLike,
) -> NDArray[np.int8]:
    """What forbids each target: int8 [G] of `Fault`. What is out of range is refused, never clamped.

    -1 stands for no target of that knob, and in the limits and clocks for unknown. NaN is out of range.
    """
    limit, clock = np.asarray(power_limit_w, np.float64), np.asarray(sm_clock_mhz, np.float64)
    least, most = np.asarray(least_w, np.float64), np.asarray(most_w, np.float64)
    low, high = np.asarray(lowest_mhz, np.float64), np.asarray(highest_mhz, np.float64)
    sets_limit, sets_clock = limit != -1, clock != -1
    fault = np.zeros(limit.shape, np.int8)
    fault[sets_clock & ~((clock >= low) & (clock <= high))] = Fault.CLOCK_RANGE
    fault[sets_limit & ~((limit >= least) & (limit <= most))] = Fault.LIMIT_RANGE
    known = (least > 0) & (most >= least) & np.isfinite(most)
    fault[(sets_limit & ~known) | (sets_clock & ~((low > 0) & (high >= low)))] = Fault.UNKNOWN_LIMITS
    fault[~np.asarray(allowed, bool)] = Fault.NOT_ALLOWED
    return fault


def in_milliwatts(limit_w: ArrayLike, most_w: ArrayLike) -> bool:
    """Whether any reported limit is so far above its highest that the frame must be in another unit. Nothing is divided."""
    limit, most = np.asarray(limit_w, np.float64), np.asarray(most_w, np.float64)
    return bool(((most > 0) & (limit > MILLIWATTS * most)).any())


def plausible(power_w: ArrayLike, most_w: ArrayLike) -> Bools:
    """Which samples of power can be measurements: not negative, blank, or far above the highest limit."""
    power, most = np.asarray(power_w, np.float64), np.asarray(most_w, np.float64)
    ceiling = np.where(most > 0, MOST_OVER_LIMIT * most, BLANK_FLOAT)
    fits: Bools = np.isfinite(power) & (power >= 0) & (power < BLANK_FLOAT) & (power <= ceiling)
    return fits


def ages(age_s: ArrayLike, unfit: ArrayLike, *, stale_s: float, lost_s: float) -> NDArray[np.int8]:
    """`Age` of each GPU: int8 [G]. `unfit` are the samples since the newest reading that could not be measurements: a few in a
    row make it stale before its time."""
    age, spoilt = np.asarray(age_s, np.float64), np.asarray(unfit) >= MOST_UNFIT
    found: NDArray[np.int8] = (((age > stale_s) | (age > lost_s) | spoilt).astype(np.int8) + (age > lost_s)).astype(np.int8)
    return found


def counter_gains(before: NDArray[np.uint64], now: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], Bools]:
    """What counters have gained, uint64 [G], and which were reset, bool [G]. A counter that fell has gained nothing."""
    fell: Bools = now < before
    blank = (now >= BLANK_INT) | (before >= BLANK_INT)
    return np.where(fell | blank, np.uint64(0), now - before), fell & ~blank


def energy_agrees(joules: ArrayLike, elapsed_s: ArrayLike, power_w: ArrayLike) -> Bools:
    """Whether an energy counter is that of the GPU: its rate and the mean power are within 15 %."""
    rate = np.asarray(joules, np.float64) / np.maximum(np.asarray(elapsed_s, np.float64), 1e-9)
    power = np.asarray(power_w, np.float64)
    near: Bools = np.abs(rate - power) <= ENERGY_AGREES * np.maximum(power, 1.0)
    return near


def too_hot(event_reasons: ArrayLike) -> Bools:
    """Which GPUs are slowed by heat or by their hardware: never raised, and nothing is learnt of them. Blank says nothing."""
    reasons = np.asarray(event_reasons, np.uint64)
    found: Bools = ((reasons & np.uint64(HOT)) != 0) & (reasons < BLANK_INT)
    return found


def is_newer(fence: int, version: int, than: tuple[int, int]) -> bool:
    """Whether a plan may replace the one before it."""
    return (fence, version) > than


def paced(
    wanted_w: Floats,
    applied_w: Floats,
    before_w: Floats,
    changed_ns: NDArray[np.int64],
    now_ns: int,
    *,
    dwell_s: float,
    deadband_w: float,
    max_lowered: float,
    forced: Bools,
    job: NDArray[np.int64] | None = None,
) -> Floats:
    """Targets that do not change too often, by too little, or too many at once: float64 [G].

    Raises pass at once. What a budget forces down (`forced`) does too. Ranks of one `job`, as in `one_per_job`, change together.

    Parameters
    ----------
    wanted_w, applied_w, before_w
        Power limits that are wanted, that are in force, and that were in force before the last change.
    changed_ns
        When each changed last.
    max_lowered
        Part of the GPUs that one plan may lower; at least one, or one job. Those that go down most go first.
    """
    since = now_ns - changed_ns
    small = np.abs(wanted_w - applied_w) < deadband_w
    lower = wanted_w < applied_w
    held = small | (lower & ((since < dwell_s * 1e9) | ((np.abs(wanted_w - before_w) < deadband_w) & (since < NO_RETURN_NS))))
    unit = np.full(len(wanted_w), -1) if job is None else job
    out = one_per_job(np.where(held & ~forced, applied_w, wanted_w), unit)
    falls = np.flatnonzero((out < applied_w) & ~forced)
    most = max(1, int(max_lowered * len(out)))
    if len(falls) > most:
        first = np.where(unit < 0, len(unit) + np.arange(len(unit)), unit)[falls]  # a GPU without a job is one of its own
        units, of = np.unique(first, return_inverse=True)
        deepest = np.zeros(len(units))
        np.minimum.at(deepest, of, out[falls] - applied_w[falls])
        order = np.argsort(deepest, kind="stable")
        lowered = np.cumsum(np.bincount(of)[order]) <= most
        lowered[0] = True
        kept = falls[~np.isin(of, order[lowered])]
        out[kept] = applied_w[kept]
    return out


def one_per_job(target: Floats, job: NDArray[np.int64]) -> Floats:
    """Ranks of one synchronous job get one target, the highest of theirs; `job` is -1 for a GPU of its own: float64 [G]."""
    out = target.copy()
    ranked = job >= 0
    if ranked.any():
        highest = np.full(int(job.max()) + 1, -np.inf)
        np.maximum.at(highest, job[ranked], target[ranked])
        out[ranked] = highest[job[ranked]]
    return out


def ramped(wanted_w: Floats, applied_w: Floats, *, ramp_w_s: float | None, elapsed_s: float) -> Floats:
    """Targets whose sum changes by `ramp_w_s` at most: raises are cut first, then each fall by the same part."""
    if ramp_w_s is None:
        return wanted_w
    step = wanted_w - applied_w
    total, most = float(step.sum()), ramp_w_s * max(elapsed_s, 0.0)
    if abs(total) <= most:
        return wanted_w
    up, down = np.maximum(step, 0.0), np.minimum(step, 0.0)
    if total > 0:
        out: Floats = applied_w + down + up * (most - float(down.sum())) / float(up.sum())
        return out
    part = min(1.0, (most + float(up.sum())) / -float(down.sum()))
    held: Floats = applied_w + up + down * part
    return held


def decreases_first(target: Floats, current: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows that go down, and rows that go up after these are applied and read back; -1 stands for no cap, which is highest."""
    wanted, is_now = (np.where(values == -1, np.inf, values) for values in (target, current))
    return np.flatnonzero(wanted < is_now - ROUNDING_W), np.flatnonzero(wanted > is_now + ROUNDING_W)
