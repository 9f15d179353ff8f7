"""Snapshot: what the placement of a window is planned from, as the state keeps it until then."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np

from qstream.quantum.runtime import QuantumRuntime
from qstream.routing.decision import Decision
from qstream.routing.memory import PAIR_WINDOWS, Memory
from qstream.routing.options import RoutingOptions
from qstream.routing.plan import plan_placement
from qstream.routing.problem import capacities


def pair_tokens(options: RoutingOptions) -> int:
    """Tokens of a layer whose co-activations are remembered; 0 if none are."""
    return PAIR_WINDOWS * options.window_tokens if options.colocate else 0


def snapshot(memory: Memory, options: RoutingOptions) -> Hashable:
    """What distinguishes a model's plan from its others; capacities as well, which may change within the same millisecond."""
    planning, capacity = memory.now.planning, capacities(memory.now.topology).tobytes()
    return planning.base_version, planning.begun_ns, memory.now.closed, options, capacity


def planner(memory: Memory, options: RoutingOptions, runtime: Callable[[], QuantumRuntime] | None) -> Callable[[], Decision]:
    """How the placement is planned: a pure function of what is known of the window's end, except for devices and deadlines."""
    history, placement, topology = memory.history(), memory.now.placement, memory.now.topology
    labels, queued = memory.now.planning_labels, memory.now.planning_queued
    pairs = memory.planning_coactivation(pair_tokens(options)) if options.colocate else None
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
