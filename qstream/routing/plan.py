"""Plan: counts and options to a placement decision, a token batch to slots; which tier answers, and its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.routing.hashing import assign_bounded, choose_replica
from qstream.routing.migrate import Moves, align, moves
from qstream.routing.options import PlacementTier, RoutingOptions
from qstream.routing.pack import place
from qstream.routing.problem import fullest_gpu_bound, logical_maps
from qstream.routing.scenarios import anneal, place_quartile
from qstream.routing.score import balancedness, cross_node_copies, gpu_loads, holds, nodes_per_token
from schemas.experts import ExpertTopology, even_nodes
from schemas.placement import PlacementScore
from schemas.routing import RoutingMetrics
from schemas.solver import SolverRecord
from schemas.tokens import TokenBatch

MAX_NODES_SCORED = 62
MAX_GPUS_ALIGNED = 128
Planner = Callable[[NDArray[np.float64], NDArray[np.int32], ExpertTopology, RoutingOptions], NDArray[np.int32]]


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """A placement, or the reason to keep the one in force; `moves` lead from that to this, best first."""

    physical_to_logical: NDArray[np.int32]
    skip_reason: str | None
    score: PlacementScore
    solver: SolverRecord
    moves: Moves


def _fast(
    history: NDArray[np.float64], previous: NDArray[np.int32], topology: ExpertTopology, _: RoutingOptions
) -> NDArray[np.int32]:
    """Replicas, LPT and swaps for the newest window."""
    return _near(previous, place(history[-1], topology.num_gpus, topology.num_slots), topology.num_gpus)


def _scenario(
    history: NDArray[np.float64], previous: NDArray[np.int32], topology: ExpertTopology, options: RoutingOptions
) -> NDArray[np.int32]:
    """Anneal over the windows, from a fresh plan near the one in force and from that itself; the better of the two."""
    gpus, move_cost = topology.num_gpus, options.move_cost
    fresh = _near(previous, place_quartile(history, gpus, topology.num_slots), gpus)
    starts = [fresh] if _repeats_experts(previous, topology) else [fresh, previous]
    plans = [
        anneal(start, history, gpus, steps=options.steps, seed=options.seed, move_cost=move_cost, previous=previous)
        for start in starts
    ]
    return min(plans, key=lambda plan: _priced(plan, previous, history, gpus, move_cost))


PLANNERS: Mapping[PlacementTier, Planner] = {"fast": _fast, "scenario": _scenario}
TIERS: Mapping[PlacementTier, tuple[int, str]] = {"fast": (2, "lpt-swap"), "scenario": (3, "swap-annealing")}


def plan_placement(
    history: NDArray[np.int64], previous: NDArray[np.int32], topology: ExpertTopology, options: RoutingOptions
) -> Decision:
    """Decide whether another placement is worth its moves.

    Parameters
    ----------
    history : int64 [W, L, E]
        Tokens by window, newest last.
    previous : int32 [L, P]
        The placement in force.

    The score is the mean balancedness over the windows that the tier plans for (the fast one: the newest alone); a plan that
    wins less than ``options.min_gain`` is skipped.
    """
    gpus = topology.num_gpus
    windows = (history[-1:] if options.placement == "fast" else history).astype(np.float64)
    plan = PLANNERS[options.placement](windows, previous, topology, options)
    before, after = (_mean_balancedness(p, windows, gpus) for p in (previous, plan))
    skip = None
    if after - before < options.min_gain:
        skip = f"gain {after - before:.4f} is below min_gain {options.min_gain:g}"
    tier, name = TIERS[options.placement]
    return _decision(plan, previous, windows, topology, skip, SolverRecord(tier=tier, name=name, seed=options.seed))


def keep_placement(
    history: NDArray[np.int64], placement: NDArray[np.int32], topology: ExpertTopology, reason: str
) -> Decision:
    """The decision to leave the placement in force as it is, for this reason, without a search."""
    windows = history.astype(np.float64)
    return _decision(placement, placement, windows, topology, reason, SolverRecord(tier=0, name="kept"))


def _decision(
    plan: NDArray[np.int32], previous: NDArray[np.int32], windows: NDArray[np.float64], topology: ExpertTopology,
    skip: str | None, solver: SolverRecord,
) -> Decision:  # fmt: skip
    gpus, load = topology.num_gpus, windows.mean(0)
    steps = moves(previous, plan, load, gpus, max(1, topology.expert_bytes), topology.nodes())
    fullest = gpu_loads(plan, load, gpus).max(1)
    by_layer = np.divide(load.sum(1) / gpus, fullest, out=np.ones_like(fullest), where=fullest > 0)
    counts = logical_maps(plan, topology.num_logical_experts)[1]
    score = PlacementScore(
        balancedness_before=_mean_balancedness(previous, windows, gpus),
        balancedness=_mean_balancedness(plan, windows, gpus),
        worst_layer_balancedness=float(by_layer.min()),
        moved_experts=len(steps.layer),
    )
    found = {"objective": float(fullest.sum()), "bound": float(fullest_gpu_bound(load, counts, gpus).sum())}
    return Decision(plan, skip, score, solver.model_copy(update={"n": topology.num_slots, **found}), steps)


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """Where the tokens of one batch go: `slot_ids` [T, K] for a batch with gate choices, else `assignment` [T]."""

    assignment: NDArray[np.int32] | None
    slot_ids: NDArray[np.int32] | None
    metrics: RoutingMetrics


def plan_route(batch: TokenBatch, placement: NDArray[np.int32], topology: ExpertTopology, options: RoutingOptions) -> Route:
    """Tier 0: the replica of each gate choice by hash of the token; without a gate, the expert by bounded-load hash.

    `placement` int32 [L, P]. Gate choices outside the model raise `ProblemError`.
    """
    if batch.topk_ids is None or batch.layer is None:
        experts = topology.num_logical_experts
        assignment = assign_bounded(batch.token_id, experts, options.slack, batch.cost, None, options.seed)
        load = np.bincount(assignment, batch.cost, minlength=experts)
        return Route(assignment, None, _metrics(load, None))
    slots_of, counts = _layer_maps(placement[batch.layer].tobytes(), topology.num_logical_experts)
    slot_ids = choose_replica(batch.token_id, batch.topk_ids, slots_of, counts, options.seed + batch.layer)
    per_slot = np.bincount(slot_ids.ravel(), minlength=topology.num_slots)
    load = per_slot.reshape(topology.num_gpus, -1).sum(1)
    return Route(None, slot_ids, _metrics(load, _copies(batch, slot_ids, topology)))


@lru_cache(maxsize=4096)
def _layer_maps(placement_row: bytes, experts: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Slots [E, X] and replica counts [E] of one layer of a placement."""
    slots_of, counts = logical_maps(np.frombuffer(placement_row, np.int32)[None], experts)
    return slots_of[0], counts[0]


def _metrics(load: NDArray[np.float64] | NDArray[np.int64], copies: float | None) -> RoutingMetrics:
    loads = load.tolist()  # so few that Python is quicker than NumPy
    mean, fullest = sum(loads) / len(loads), max(loads)
    even = fullest == 0
    return RoutingMetrics(
        max_over_mean=1.0 if even else fullest / mean,
        balancedness=1.0 if even else mean / fullest,
        cross_node_copies_per_token=copies,
    )


def _copies(batch: TokenBatch, slot_ids: NDArray[np.int32], topology: ExpertTopology) -> float | None:
    """Copies a token to nodes other than its own; where the source is unknown, it is taken to be on one of its nodes."""
    if topology.num_nodes > MAX_NODES_SCORED:
        return None
    if topology.num_nodes == 1:
        return 0.0
    given = topology.node_of_gpu
    shape = topology.num_gpus, topology.num_nodes, topology.slots_per_gpu
    node_of_gpu, node_of_slot = _nodes(*shape, None if given is None else given.tobytes())
    source = batch.src_rank
    if source is None or source.min() < 0:
        return nodes_per_token(slot_ids, node_of_slot) - 1.0
    if source.max() >= topology.num_gpus:
        raise ProblemError(f"src_rank has {source.max()}, allowed are -1 to {topology.num_gpus - 1}, the GPUs of the topology")
    return cross_node_copies(slot_ids[:, None], node_of_slot[None], node_of_gpu[source])


@lru_cache(maxsize=256)
def _nodes(gpus: int, nodes: int, slots_per_gpu: int, given: bytes | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The node of each GPU and of each slot, once for all batches of a topology."""
    node_of_gpu = even_nodes(gpus, nodes) if given is None else np.frombuffer(given, np.int32)
    found = node_of_gpu.astype(np.int64), np.repeat(node_of_gpu, slots_per_gpu).astype(np.int64)
    for array in found:
        array.flags.writeable = False
    return found


def _near(previous: NDArray[np.int32], plan: NDArray[np.int32], gpus: int) -> NDArray[np.int32]:
    """The same plan with GPUs renamed for the fewest moves; on very many GPUs the renaming would cost more than it saves."""
    return align(previous, plan, gpus) if gpus <= MAX_GPUS_ALIGNED else plan


def _repeats_experts(plan: NDArray[np.int32], topology: ExpertTopology) -> bool:
    """Whether a GPU holds an expert twice, as a contiguous placement may."""
    on_gpu = holds(plan, topology.num_logical_experts, topology.num_gpus)
    return int(on_gpu.sum()) < plan.size


def _mean_balancedness(plan: NDArray[np.int32], windows: NDArray[np.float64], gpus: int) -> float:
    return min(1.0, float(np.mean([balancedness(plan, load, gpus) for load in windows])))


def _priced(
    plan: NDArray[np.int32], previous: NDArray[np.int32], windows: NDArray[np.float64], gpus: int, move_cost: float
) -> float:
    """What `anneal` minimises, of the whole plan: mean over windows and layers of max over mean load, plus the moves' price."""
    experts = windows.shape[2]
    ratios = []
    for load in windows:
        loads = gpu_loads(plan, load, gpus)
        mean = loads.mean(1)
        ratios.append(np.divide(loads.max(1), mean, out=np.ones_like(mean), where=mean > 0).mean())
    moved = (holds(plan, experts, gpus) & ~holds(previous, experts, gpus)).sum()
    return float(np.mean(ratios)) + move_cost * float(moved) / len(plan)
