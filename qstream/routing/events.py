"""Events: what was decided, as the frames that are published."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qstream.contract import Event
from qstream.module.stamp import Stamp
from qstream.routing.decision import Decision, map_arrays, placement_frame
from qstream.routing.memory import RoutingState
from qstream.routing.problem import capacities
from qstream.routing.score import balancedness
from qstream.routing.smoothing import servable
from schemas.placement import PlacementPlan
from schemas.plan import ResetReason, SkipReason
from schemas.shares import DispatchShares, SharesScore
from schemas.solver import SolverRecord
from schemas.topics import DISPATCH_SHARES, PLACEMENT_PLAN


def placement_event(
    stamp: Stamp, decision: Decision, now: RoutingState, *, version: int, base_version: int, ttl_s: float, solver_s: float | None
) -> Event:
    """A placement, or why the one in force stays."""
    plan = placement_frame(
        decision,
        now.topology,
        model=stamp.key,
        plan_id=stamp.id,
        ts_ns=stamp.ts_ns,
        version=version,
        base_version=base_version,
        ttl_s=ttl_s,
    )
    return Event(PLACEMENT_PLAN, stamp.key, stamp.id, plan, stamp.cause, solver_s)


def failed_event(stamp: Stamp, now: RoutingState, ttl_s: float) -> Event:
    """The placement in force stays since planning another one failed."""
    topology, version = now.topology, now.in_force.version
    plan = PlacementPlan(
        model=stamp.key,
        plan_id=stamp.id,
        ts_ns=stamp.ts_ns,
        version=version,
        base_version=version,
        num_gpus=topology.num_gpus,
        slots_per_gpu=topology.slots_per_gpu,
        ttl_s=ttl_s,
        skip_reason=SkipReason.PLANNING_FAILED,
        solver=SolverRecord(solver="kept"),
    )
    return Event(PLACEMENT_PLAN, stamp.key, stamp.id, plan, stamp.cause)


def reset_event(stamp: Stamp, fresh: RoutingState, base_version: int, reason: ResetReason) -> Event:
    """The placement that a topology begins with, so that readers know what the slots of the next plans mean."""
    topology = fresh.topology
    plan = PlacementPlan(
        model=stamp.key,
        plan_id=stamp.id,
        ts_ns=stamp.ts_ns,
        version=fresh.in_force.version,
        base_version=base_version,
        num_gpus=topology.num_gpus,
        slots_per_gpu=topology.slots_per_gpu,
        reset_reason=reason,
        solver=SolverRecord(solver="contiguous"),
        **map_arrays(fresh.placement, topology),
    )
    return Event(PLACEMENT_PLAN, stamp.key, stamp.id, plan, stamp.cause)


def shares_event(
    stamp: Stamp, counts: NDArray[np.int64], shares: NDArray[np.float32], now: RoutingState, *, smoothed: bool, ttl_s: float
) -> Event:
    """The shares of replicas under the placement in force, with what they would have given the counted tokens [L, E]."""
    topology, placement = now.topology, now.placement
    load, even, capacity = servable(counts.astype(np.float64), placement, topology), None, None
    if topology.gpu_capacity is not None:
        capacity, even = capacities(topology), map_arrays(placement, topology)["replica_shares"]
    plan = DispatchShares(
        model=stamp.key,
        plan_id=stamp.id,
        ts_ns=stamp.ts_ns,
        ttl_s=ttl_s,
        placement_version=now.in_force.version,
        gate_choices=int(counts.sum()),
        solver=SolverRecord(solver="water-filling", variant="smoothed" if smoothed else None),
        shares=shares,
        score=SharesScore(
            balancedness_even=balancedness(placement, load, topology.num_gpus, even, capacity),
            balancedness=balancedness(placement, load, topology.num_gpus, shares, capacity),
        ),
    )
    return Event(DISPATCH_SHARES, stamp.key, stamp.id, plan, stamp.cause)
