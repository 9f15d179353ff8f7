"""Snapshot: what the placement of a window is planned from, as the state keeps it until then."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.runtime import QuantumRuntime
from qstream.routing.decision import Decision
from qstream.routing.memory import PAIR_WINDOWS, Memory, RoutingState
from qstream.routing.options import RoutingOptions
from qstream.routing.plan import plan_placement
from qstream.routing.problem import capacities
from qstream.routing.sample import empty_sample, sampled_coactivation

MAX_COACTIVATIONS: Final = 1 << 24  # cells [L, E, E], 128 MiB: 61 layers of 512 experts
_NOTHING_KEPT: Final = dict.fromkeys(
    ("planning_labels", "planning_queued", "planning_sample", "planning_sampled_of", "planning_pairs")
)


def pair_tokens(options: RoutingOptions) -> int:
    """Tokens of a layer whose co-activations are remembered; 0 if none are."""
    return PAIR_WINDOWS * options.window_tokens if options.colocate else 0


def begin_plan(memory: Memory, now_ns: int, pairs: bool) -> None:
    """Keep what is known now, at the end of a window, until the placement is planned."""
    now = memory.now
    labels, queued = memory.demand() or (None, None)
    memory.set(planning=now.planning.begun(now_ns, now.in_force.version), planning_labels=labels, planning_queued=queued)
    if pairs:
        memory.set(planning_pairs=now.pair_count)
        if now.sample is not None and now.sampled_of is not None:
            memory.set(planning_sample=now.sample.copy(), planning_sampled_of=now.sampled_of.copy())


def end_plan(memory: Memory) -> None:
    """Forget what was kept for a plan: it is made, or no longer wanted."""
    memory.set(planning=memory.now.planning.ended(), **_NOTHING_KEPT)


def kept_coactivation(now: RoutingState, horizon: int) -> Callable[[], NDArray[np.int64] | None]:
    """How co-activations [L, E, E] follow from what `begin_plan` kept, a pure function; None where nothing is known, or where
    they would be more than `MAX_COACTIVATIONS`."""
    layers, experts = now.open_count.shape
    counted, sample, of = now.planning_pairs, now.planning_sample, now.planning_sampled_of
    rows = empty_sample(layers, experts, 1) if sample is None else sample
    tokens = np.zeros(layers, np.int64) if of is None else of

    def counts() -> NDArray[np.int64] | None:
        if layers * experts**2 > MAX_COACTIVATIONS or (counted is None and not (rows.size and tokens.any())):
            return None
        return sampled_coactivation(rows, tokens, experts, horizon, counted)

    return counts


def snapshot(memory: Memory, options: RoutingOptions) -> Hashable:
    """What distinguishes a model's plan from its others; capacities as well, which may change within the same millisecond."""
    planning, capacity = memory.now.planning, capacities(memory.now.topology).tobytes()
    return planning.base_version, planning.begun_ns, memory.now.closed, options, capacity


def planner(memory: Memory, options: RoutingOptions, runtime: Callable[[], QuantumRuntime] | None) -> Callable[[], Decision]:
    """How the placement is planned: a pure function of what is known of the window's end, except for devices and deadlines."""
    history, placement, topology = memory.history(), memory.now.placement, memory.now.topology
    labels, queued = memory.now.planning_labels, memory.now.planning_queued
    pairs = kept_coactivation(memory.now, pair_tokens(options)) if options.colocate else None
    device = runtime() if options.device and runtime else None
    return lambda: plan_placement(
        history,
        placement,
        topology,
        options,
        labels=None if labels is None else labels.astype(np.int64),
        queued=queued,
        coactivation=None if pairs is None else pairs(),
        runtime=device,
    )
