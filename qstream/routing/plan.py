"""Plan: counts and options to a placement decision, a token batch to slots; which tier answers, and its record."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.routing.decision import Decision, decide
from qstream.routing.forecast import forecast
from qstream.routing.hashing import assign_bounded, choose_replica
from qstream.routing.hybrid import race, solver_record
from qstream.routing.options import RoutingOptions
from qstream.routing.partitions import gpu_partitions, gpu_plan
from qstream.routing.place import PlacementProblem, PlaceOptions, placement_problem, solve
from qstream.routing.problem import live_slots, logical_maps
from qstream.routing.score import cross_node_copies, nodes_per_token, pairs_together
from qstream.routing.windows import Runtime, WindowSettings
from schemas.experts import ExpertTopology, even_nodes
from schemas.routing import RoutingMetrics
from schemas.solver import SolverRecord
from schemas.tokens import TokenBatch

MAX_NODES_SCORED = 62


def plan_placement(
    history: NDArray[np.int64],
    previous: NDArray[np.int32],
    topology: ExpertTopology,
    options: RoutingOptions,
    *,
    labels: NDArray[np.int64] | None = None,
    queued: NDArray[np.int64] | None = None,
    coactivation: NDArray[np.int64] | None = None,
    runtime: Runtime | None = None,
) -> Decision:
    """Decide whether another placement is worth its moves.

    The fast tier packs the newest window and looks at nothing else; the scenario tier plans for a forecast, from all that is
    known. Where ``options.qaoa`` or ``options.hqc`` asks for it, windows then improve that plan. The score is the balancedness
    expected under what the tier plans for; a plan that wins less than ``options.min_gain`` is skipped. With co-activations,
    the part of them that comes to lie within nodes is won as well.

    Parameters
    ----------
    history : int [W, L, E]
        Tokens by window, newest last.
    previous : int32 [L, P]
        The placement in force.
    labels, queued, coactivation
        As in `place`.
    runtime
        Where ``options.device`` is to be found.
    """
    fast = options.placement == "fast"
    if fast:
        labels = queued = coactivation = None
    problem = placement_problem(
        history, topology, labels=labels, queued=queued, previous=previous, move_cost=0.0 if fast else options.move_cost,
        options=PlaceOptions(windows=1, steps=0) if fast else PlaceOptions(windows=options.windows, steps=options.steps),
        seed=options.seed,
    )  # fmt: skip
    found = solve(problem, coactivation)
    if options.qaoa or options.hqc:
        found = _improved(found, problem, options, runtime)
    if found.skip_reason is not None:
        return found
    gain = found.score.balancedness - found.score.balancedness_before
    if coactivation is not None:
        before, after = (pairs_together(p, coactivation, topology) for p in (previous, found.physical_to_logical))
        gain += after - before
    if gain < options.min_gain:
        return replace(found, skip_reason=f"gain {gain:.4f} is below min_gain {options.min_gain:g}")
    return found


def _improved(found: Decision, problem: PlacementProblem, options: RoutingOptions, runtime: Runtime | None) -> Decision:
    """The deterministic plan after its race with QAOA and HQC; the record is the race's, in its own units."""
    topology, live = problem.topology, problem.live
    slot = live_slots(topology)
    plan = found.physical_to_logical[:, slot]
    colocated = found.solver.name.startswith("colocation")
    partitions = gpu_partitions(
        plan, problem.ahead.scenarios, len(live), move_cost=problem.move_cost, previous=problem.previous[:, slot],
        weights=problem.ahead.weights, capacity=problem.capacity[live], nodes=topology.nodes()[live] if colocated else None,
    )  # fmt: skip
    settings = WindowSettings(
        size=options.window, layers=options.layers, shots=options.shots, seed=options.seed, device=options.device, runtime=runtime
    )
    outcome = race(
        partitions, settings, qaoa=options.qaoa, hqc_turns=options.hqc, deterministic=options.deterministic,
        deadline_s=math.inf if options.deadline_ms is None else options.deadline_ms / 1000,
    )  # fmt: skip
    reason = None if outcome.fallback_reason is None else str(outcome.fallback_reason)
    if not outcome.answered:
        return replace(found, skip_reason=f"no solver that was asked for answered: {reason}", fallback_reason=reason)
    whole = found.physical_to_logical.copy()
    whole[:, slot] = gpu_plan(outcome.partitions, plan)
    solver = solver_record(outcome, settings)
    better = decide(whole, problem.previous, problem.ahead, topology, solver)
    return replace(better, solver=solver, fallback_reason=reason)


def keep_placement(history: NDArray[np.int64], placement: NDArray[np.int32], topology: ExpertTopology, reason: str) -> Decision:
    """The decision to leave the placement in force as it is, for this reason, without a search."""
    return decide(placement, placement, forecast(history), topology, SolverRecord(tier=0, name="kept"), reason)


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
    given = topology.gpu_capacity
    live = None if given is None else np.repeat(given > 0, topology.slots_per_gpu).tobytes()
    slots_of, counts = _layer_maps(placement[batch.layer].tobytes(), topology.num_logical_experts, live)
    slot_ids = choose_replica(batch.token_id, batch.topk_ids, slots_of, counts, options.seed + batch.layer)
    per_slot = np.bincount(slot_ids.ravel(), minlength=topology.num_slots)
    load = per_slot.reshape(topology.num_gpus, -1).sum(1)
    return Route(None, slot_ids, _metrics(load, _copies(batch, slot_ids, topology), given))


@lru_cache(maxsize=4096)
def _layer_maps(placement_row: bytes, experts: int, live: bytes | None) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Slots [E, X] and replica counts [E] of one layer of a placement.

    Only slots that are `live` count, but for an expert that has none: the engine asked for it, so some slot must be named.
    """
    row = np.frombuffer(placement_row, np.int32)
    slot = np.arange(len(row))
    if live is not None:
        alive = np.frombuffer(live, np.bool_)
        slot = np.flatnonzero(alive | ~np.isin(row, row[alive]))
    slots_of, counts = logical_maps(row[slot][None], experts)
    return np.where(slots_of[0] >= 0, slot[slots_of[0]], -1).astype(np.int32), counts[0]


def _metrics(
    load: NDArray[np.float64] | NDArray[np.int64], copies: float | None, capacity: NDArray[np.float32] | None = None
) -> RoutingMetrics:
    loads = load.tolist()  # so few that Python is quicker than NumPy
    mean = sum(loads) / len(loads)
    if capacity is not None:
        served = [(tokens, speed) for tokens, speed in zip(loads, capacity.tolist(), strict=True) if speed > 0]
        loads = [tokens / speed for tokens, speed in served]
        mean = sum(tokens for tokens, _ in served) / sum(speed for _, speed in served)
    fullest = max(loads)
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
