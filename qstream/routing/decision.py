"""Decision: what a placement wins over the one in force, the moves that lead there, and the frame that says so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.routing.forecast import Forecast
from qstream.routing.migrate import Moves, moves
from qstream.routing.nearest import nearest_shares
from qstream.routing.options import Dispatch
from qstream.routing.problem import capacities, live_slots, logical_maps, replica_counts
from qstream.routing.score import gpu_loads, holds
from schemas.experts import ExpertTopology
from schemas.placement import PlacementPlan, PlacementScore
from schemas.plan import SkipReason
from schemas.solver import Reason, SolverRecord

MAP_MAX_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """A placement int32 [L, P], or the reason to keep the one in force; `moves` lead from that to this, best first.

    `fallback_reason` says why a solver that was asked for did not answer, `dispatch` how the engine chooses replicas.
    """

    physical_to_logical: NDArray[np.int32]
    skip_reason: SkipReason | None
    score: PlacementScore
    solver: SolverRecord
    moves: Moves
    fallback_reason: Reason | None = None
    dispatch: Dispatch = "even"


def decide(
    plan: NDArray[np.int32],
    previous: NDArray[np.int32],
    forecast: Forecast,
    topology: ExpertTopology,
    solver: SolverRecord,
    skip_reason: SkipReason | None = None,
    dispatch: Dispatch = "even",
) -> Decision:
    """Score a placement and the one in force by the same forecast; of both, only the slots of GPUs with capacity count.

    With `dispatch` "nearest" replicas serve what `nearest_shares` says.

    Balancedness is the weighted mean over scenarios, 0 where an expert has no slot. The record's objective is the fullest
    level (tokens over capacity) under the forecast as one load, summed over layers.
    """
    capacity, slot, load = capacities(topology), live_slots(topology), forecast.load()
    gpus = np.flatnonzero(capacity)
    capacity, before, after = capacity[gpus], previous[:, slot], plan[:, slot]
    steps = moves(before, after, load, len(gpus), max(1, topology.expert_bytes), topology.nodes()[gpus])
    steps = replace(
        steps,
        src_gpu=np.where(steps.src_gpu >= 0, gpus[steps.src_gpu], -1).astype(np.int32),
        dst_gpu=gpus[steps.dst_gpu].astype(np.int32),
    )
    served = dispatch_nodes(topology, dispatch)
    balancedness, worst = _expected(after, forecast, capacity, served)
    score = PlacementScore(
        balancedness_before=_expected(before, forecast, capacity, served)[0],
        balancedness=balancedness,
        worst_layer_balancedness=worst,
        moved_experts=len(steps.layer),
    )
    counts = replica_counts(after, topology.num_logical_experts)
    replica = np.divide(load, counts, out=np.zeros_like(load), where=counts > 0)
    bound = np.maximum(load.sum(1) / capacity.sum(), replica.max(1) / capacity.max())
    objective = (gpu_loads(after, load, len(gpus), _shares(after, load.shape[1], served)) / capacity).max(1)
    found = {"n": topology.num_slots, "objective": float(objective.sum()), "bound": float(bound.sum())}
    return Decision(plan, skip_reason, score, solver.model_copy(update=found), steps, dispatch=dispatch)


def expected_balancedness(
    plan: NDArray[np.int32], load: NDArray[np.float64], topology: ExpertTopology, dispatch: Dispatch = "even"
) -> float:
    """Balancedness of a placement under one load [L, E], as `decide` scores plans; 1 without load."""
    capacity, slot = capacities(topology), live_slots(topology)
    return _expected(plan[:, slot], Forecast(load[None], np.ones(1)), capacity[capacity > 0], dispatch_nodes(topology, dispatch))[
        0
    ]


def expected_gain(
    plan: NDArray[np.int32],
    previous: NDArray[np.int32],
    forecast: Forecast,
    topology: ExpertTopology,
    dispatch: Dispatch = "even",
) -> float:
    """Balancedness that a placement wins over the previous one, expected under the forecast as `decide` scores plans."""
    capacity, slot = capacities(topology), live_slots(topology)
    nodes = dispatch_nodes(topology, dispatch)
    after, before = (_expected(p[:, slot], forecast, capacity[capacity > 0], nodes)[0] for p in (plan, previous))
    return after - before


def dispatch_nodes(topology: ExpertTopology, dispatch: Dispatch) -> NDArray[np.int32] | None:
    """The node of each GPU with capacity, where replicas are chosen by it; None where they are chosen alike."""
    return topology.nodes()[capacities(topology) > 0] if dispatch == "nearest" else None


def _shares(plan: NDArray[np.int32], experts: int, nodes: NDArray[np.int32] | None) -> NDArray[np.float64] | None:
    return None if nodes is None else nearest_shares(plan, experts, nodes)


def scenario_levels(
    plan: NDArray[np.int32],
    scenarios: NDArray[np.float64],
    capacity: NDArray[np.float64],
    shares: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Load over capacity, of all GPUs together and of the fullest, in each scenario and layer: float64 [W, L]."""
    loads = np.stack([gpu_loads(plan, load, len(capacity), shares) for load in scenarios])
    return scenarios.sum(2) / capacity.sum(), (loads / capacity).max(2)


def placement_frame(decision: Decision, topology: ExpertTopology, **header: Any) -> PlacementPlan:
    """The decision as it is published; `header` are the fields that name and date it. Without arrays if it is skipped."""
    arrays: dict[str, Any] = {}
    if decision.skip_reason is None:
        steps = decision.moves
        arrays = map_arrays(decision.physical_to_logical, topology, decision.dispatch) | {
            "move_layer": steps.layer,
            "move_expert": steps.expert,
            "move_src_gpu": steps.src_gpu,
            "move_dst_gpu": steps.dst_gpu,
            "move_bytes": np.full(len(steps.layer), topology.expert_bytes, np.int64),
            "apply_layers": tuple(dict.fromkeys(steps.layer.tolist())),
        }
    return PlacementPlan(
        num_gpus=topology.num_gpus,
        slots_per_gpu=topology.slots_per_gpu,
        skip_reason=decision.skip_reason,
        fallback_reason=decision.fallback_reason,
        expected=decision.score,
        solver=decision.solver,
        **arrays,
        **header,
    )


def map_arrays(plan: NDArray[np.int32], topology: ExpertTopology, dispatch: Dispatch = "even") -> dict[str, Any]:
    """The maps of a placement int32 [L, P] as fields of its frame. Slots of GPUs without capacity are in none but the first."""
    slot = live_slots(topology)
    live = plan[:, slot]
    counts = replica_counts(live, topology.num_logical_experts)
    shares = np.zeros(plan.shape, np.float32)
    nearest = _shares(live, topology.num_logical_experts, dispatch_nodes(topology, dispatch))
    shares[:, slot] = 1.0 / np.take_along_axis(counts, live, 1) if nearest is None else nearest
    logical = None
    if counts.nbytes * int(counts.max()) <= MAP_MAX_BYTES:
        slots_of = logical_maps(live, topology.num_logical_experts)[0]
        logical = np.where(slots_of >= 0, slot[slots_of], -1).astype(np.int32)
    return {
        "physical_to_logical_map": plan,
        "logical_to_physical_map": logical,
        "logical_replica_count": counts,
        "replica_shares": shares,
    }


def _expected(
    plan: NDArray[np.int32], forecast: Forecast, capacity: NDArray[np.float64], nodes: NDArray[np.int32] | None
) -> tuple[float, float]:
    """Balancedness expected of a plan, and of its worst layer; 0 if an expert has no slot."""
    if not holds(plan, forecast.scenarios.shape[2], len(capacity)).any(1).all():
        return 0.0, 0.0
    shares = _shares(plan, forecast.scenarios.shape[2], nodes)
    mean, fullest = scenario_levels(plan, forecast.scenarios, capacity, shares)
    by_window = np.divide(mean.sum(1), fullest.sum(1), out=np.ones(len(mean)), where=fullest.sum(1) > 0)
    mean, fullest = forecast.weights @ mean, forecast.weights @ fullest
    by_layer = np.divide(mean, fullest, out=np.ones_like(mean), where=fullest > 0)
    return min(1.0, float(forecast.weights @ by_window)), min(1.0, float(by_layer.min()))
