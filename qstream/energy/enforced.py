"""Enforced: the most that each GPU may draw until the next plan, by its readings, its acknowledgements and its lease."""

from __future__ import annotations

from typing import Final

import numpy as np

from qstream.energy.levels import MARGIN, Bools, Floats
from qstream.energy.memory import EnergyState
from qstream.energy.options import EnergyOptions

HELD_PLANS: Final = 2  # periods for which a plan must hold: until the one after it is in force
ABOVE_TARGET_W: Final = 1.0  # a limit that is above its target by more was not set


def default_w(now: EnergyState) -> Floats:
    """What a GPU may draw without any plan: its default limit, else its highest, else a little more than it has drawn."""
    topology = now.topology
    known = np.where(topology.limit_default_w > 0, topology.limit_default_w, topology.limit_max_w)
    found: Floats = np.where(known > 0, known, np.maximum(now.want_w * MARGIN, 0.0)).astype(np.float64)
    return found


def enforced_w(now: EnergyState, options: EnergyOptions, now_ns: int, age_s: Floats) -> Floats:
    """The most that the hardware may allow each GPU until the next plan: float64 [gpus]. `age_s` is that of its newest reading.

    The limit that was read or acknowledged last, or a higher target that is not acknowledged yet. It is the default where that
    may come back by then: the newest plan was not acknowledged, and the one before runs out, or no readings come either.
    """
    default = default_w(now)
    reported: Floats = np.where(now.limit_w > 0, now.limit_w, default).astype(np.float64)
    silent = age_s > alone_s(options)
    if options.mode != "apply":
        return np.where(silent, np.maximum(reported, default), reported)
    target = np.where(now.target_w > 0, now.target_w, np.where(now.changed_ns > 0, default, -1.0))
    pending = (now.changed_ns > 0) & (now.acked_ns < now.changed_ns)
    upper = np.where(pending, np.maximum(reported, target), reported)
    answered = (now.acked_ns > 0) & (now.acked_ns >= now.published_ns)
    return np.where(runs_out(now, options, now_ns) | (silent & ~answered), np.maximum(upper, default), upper)


def runs_out(now: EnergyState, options: EnergyOptions, now_ns: int) -> Bools:
    """GPUs whose actuator has not taken the newest plan, and whose lease on an older one is over before the next plan."""
    if options.mode != "apply":
        return np.zeros(len(now.limit_w), bool)
    next_ns = now_ns + int(options.plan_s * 1e9)
    unanswered = (now.acked_ns > 0) & (now.acked_ns < now.published_ns)
    found: Bools = unanswered & (next_ns >= now.acked_ns + int(options.ttl_s * 1e9))
    return found


def held_until_ns(options: EnergyOptions, now_ns: int) -> int:
    """Until when a plan made now must keep the budgets."""
    return now_ns + int(HELD_PLANS * options.plan_s * 1e9)


def alone_s(options: EnergyOptions) -> float:
    """Age of the newest reading from which a node may be cut off and go back to its defaults before the next plan: the plan that
    it had then was no older than one period, and the next plan must be in force before that one is over."""
    return max(options.stale_s, min(options.lost_s, options.ttl_s - HELD_PLANS * options.plan_s))


def unheeded(now: EnergyState, options: EnergyOptions) -> Bools:
    """GPUs that were given a target to be set long enough ago, and whose newest reading still has a higher limit."""
    if options.mode != "apply" or not now.applied_ns:
        return np.zeros(len(now.limit_w), bool)
    late = now.seen_ns - np.maximum(now.changed_ns, now.applied_ns) > 2 * options.stale_s * 1e9
    found: Bools = late & (now.changed_ns > 0) & (now.target_w > 0) & (now.limit_w > now.target_w + ABOVE_TARGET_W)
    return found
