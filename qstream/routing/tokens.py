"""Tokens: one batch to the slots or experts that serve it, by hash or under capacities, with the queues of experts."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array, read_only
from qstream.errors import ProblemError
from qstream.routing.adjacency import queue_columns
from qstream.routing.capacity import CapacityPlan, assign_candidates, even_capacity
from qstream.routing.hashing import assign_bounded, choose_replica
from qstream.routing.options import RoutingOptions
from qstream.routing.problem import contiguous, logical_maps
from qstream.routing.score import cross_node_copies
from schemas.experts import ExpertLoad, ExpertTopology, even_nodes
from schemas.routing import RoutingMetrics, RoutingPlan
from schemas.solver import SolverRecord
from schemas.tokens import TokenBatch
from schemas.wording import Shown, must_be

MAX_NODES_SCORED: Final = 62
LEAST_WEIGHT: Final = np.float32(1e-6)  # of a gate choice, over the largest of its batch
DEFAULT: Final = RoutingOptions()


def route_tokens(
    batch: TokenBatch,
    topology: ExpertTopology,
    options: RoutingOptions | None = None,
    *,
    placement: NDArray[np.int32] | None = None,
    plan_id: str | None = None,
    placement_version: int = 0,
) -> RoutingPlan:
    """Route a batch: each gate choice to a replica by hash of the token; without a gate, the token to an expert likewise.

    With ``options.capacity_factor`` f an expert takes at most ceil(f K T / E) of the T tokens that chose K experts each, and
    the tokens get the K distinct experts with the most gate mass under that limit (`assign_candidates`); without gate
    weights all choices of the gate count alike. This changes a model's output. A choice of -1 (padding) gets the slot -1. With
    ``options.queues`` the plan holds each expert's queue of tokens.

    Parameters
    ----------
    options
        `seed`, `slack`, `capacity_factor` and `queues` are read; default `RoutingOptions()`.
    placement : int32 [L, P]
        The experts in the slots, default the contiguous placement.
    plan_id
        Default the batch's id.
    placement_version
        What the plan says of `placement`.

    Raises
    ------
    ProblemError
        The batch or the placement contradicts the topology: layer, gate choice or source rank outside.

    >>> topology = ExpertTopology(num_layers=1, num_logical_experts=4, num_gpus=2, slots_per_gpu=2)
    >>> batch = TokenBatch(batch_id="b", ts_ns=0, model="m", layer=0, token_id=[7, 8], topk_ids=[[3, 1], [3, 0]])
    >>> route_tokens(batch, topology).slot_ids.tolist()
    [[3, 1], [3, 0]]
    >>> limited = route_tokens(batch, topology, RoutingOptions(capacity_factor=1, queues=True))
    >>> limited.expert_ids.tolist(), limited.queue_end.tolist(), limited.queue_token.tolist()
    ([[3, 1], [0, 2]], [1, 2, 3, 4], [8, 7, 8, 7])
    """
    chosen = options or DEFAULT
    check_batch(batch, topology)
    if batch.topk_ids is None or batch.layer is None:
        route = _by_hash(batch, topology, chosen)
    else:
        slots = contiguous(topology) if placement is None else _placement(placement, topology)
        route = _to_slots(batch, batch.topk_ids, slots[batch.layer], topology, chosen)
    token, end = None, None
    if chosen.queues:
        token, end = queue_columns(*_queued(route.experts, batch.token_id), topology.num_logical_experts)
        token, end = read_only(token), read_only(end)
    return RoutingPlan(
        plan_id=plan_id or batch.batch_id,
        batch_id=batch.batch_id,
        model=batch.model,
        layer=batch.layer,
        ts_ns=batch.ts_ns,
        ttl_s=None if batch.deadline_ms is None else batch.deadline_ms / 1000,
        placement_version=placement_version,
        metrics=route.metrics,
        solver=route.solver,
        assignment=route.experts if route.slot_ids is None else None,
        slot_ids=route.slot_ids,
        expert_ids=route.experts if route.limited else None,
        queue_token=token,
        queue_end=end,
    )


class _Route(NamedTuple):
    """`experts` [T] or [T, K]; `slot_ids` [T, K] for a batch with gate choices; limited: by capacity, not by the gate."""

    experts: NDArray[np.int32]
    slot_ids: NDArray[np.int32] | None
    limited: bool
    metrics: RoutingMetrics
    solver: SolverRecord


def _by_hash(batch: TokenBatch, topology: ExpertTopology, options: RoutingOptions) -> _Route:
    """The expert of each token by bounded-load hash."""
    experts = topology.num_logical_experts
    assignment = read_only(assign_bounded(batch.token_id, experts, options.slack, batch.cost, None, options.seed))
    load = np.bincount(assignment, batch.cost, minlength=experts)
    return _Route(
        assignment, None, False, _metrics(load, None), SolverRecord(solver="hash", variant="bounded", seed=options.seed)
    )


def _queued(experts: NDArray[np.int32], token_id: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
    """Experts and the tokens that stand in their queues, without the choices of padding."""
    if experts.min(initial=0) >= 0:
        return experts, token_id
    chosen = experts >= 0
    return experts[chosen], token_id[np.nonzero(chosen)[0]]


def _to_slots(
    batch: TokenBatch, experts: NDArray[np.int32], row: NDArray[np.int32], topology: ExpertTopology, options: RoutingOptions
) -> _Route:
    """A replica of each expert that the gate has chosen, or that has room where there is a capacity."""
    limit = None if options.capacity_factor is None else _within(batch, experts, topology, options.capacity_factor)
    if limit is None:
        solver = SolverRecord(solver="hash", variant="replicas", seed=options.seed)
    else:
        experts = read_only(limit.assignment)
        solver = SolverRecord(solver="auction", seed=options.seed, objective=limit.gate_mass, bound=limit.bound)
    given = topology.gpu_capacity
    live = None if given is None else np.repeat(given > 0, topology.slots_per_gpu).tobytes()
    slots_of, counts = _layer_maps(row.tobytes(), topology.num_logical_experts, live)
    padded = experts.min(initial=0) < 0
    slot_ids = read_only(choose_replica(batch.token_id, experts, slots_of, counts, options.seed + (batch.layer or 0)))
    per_slot = np.bincount(slot_ids[slot_ids >= 0] if padded else slot_ids.ravel(), minlength=topology.num_slots)
    load = per_slot.reshape(topology.num_gpus, -1).sum(1)
    metrics = _metrics(load, _copies(batch, slot_ids, topology), given, limit)
    return _Route(experts, slot_ids, limit is not None, metrics, solver)


def _within(batch: TokenBatch, topk_ids: NDArray[np.int32], topology: ExpertTopology, factor: float) -> CapacityPlan:
    """Experts of each token within `factor` times their even share, as many as the gate chose; behind them -1 for no choice."""
    chosen = topk_ids >= 0
    served = chosen.any(1)
    if not served.all() and served.any():
        weights = None if batch.topk_weights is None else batch.topk_weights[served]
        part = batch.model_copy(update={"topk_ids": topk_ids[served], "topk_weights": weights})
        found = _within(part, topk_ids[served], topology, factor)
        assignment = np.full_like(topk_ids, -1)
        assignment[served] = found.assignment
        return replace(found, assignment=assignment)
    (tokens, k), experts = topk_ids.shape, topology.num_logical_experts
    if k > experts:
        rule = f"at most {experts} choices a token under a capacity, as many as there are experts"
        raise ProblemError(must_be("topk_ids", rule, k))
    weights = np.ones((tokens, k), np.float32) if batch.topk_weights is None else _above_others(batch.topk_weights)
    room = even_capacity(tokens, experts, factor, k)
    found = assign_candidates(topk_ids, weights, room, k=k)
    if chosen.all():
        return found
    return replace(found, assignment=np.where(np.arange(k) < chosen.sum(1)[:, None], found.assignment, np.int32(-1)))


def _above_others(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weights, with so little for choices without any that these still go before experts that the gate has not chosen."""
    return weights if weights.min() > 0.0 else np.maximum(weights, weights.max() * LEAST_WEIGHT)


def check_batch(batch: TokenBatch, topology: ExpertTopology) -> None:
    """Raise `ProblemError` if the layer or a gate choice lies outside the topology."""
    if batch.layer is not None and batch.layer >= topology.num_layers:
        raise ProblemError(must_be("layer", f"0 to {topology.num_layers - 1}, as in the topology", batch.layer))
    if batch.topk_ids is not None and (highest := batch.topk_ids.max()) >= topology.num_logical_experts:
        rule = f"experts 0 to {topology.num_logical_experts - 1}, as in the topology"
        raise ProblemError(must_be("topk_ids", rule, int(highest)))


def check_load(load: ExpertLoad, topology: ExpertTopology) -> None:
    """Raise `ProblemError` if the counts of a load window are not those of the topology's layers and experts, or of no token."""
    rule = f"[{topology.num_layers} layers, {topology.num_logical_experts} experts], as in the topology"
    if load.logical_count.shape != (topology.num_layers, topology.num_logical_experts):
        raise ProblemError(must_be("logical_count", rule, Shown(f"shape {list(load.logical_count.shape)}")))
    if load.num_tokens == 0 and load.logical_count.any():  # such windows would add up and never close
        raise ProblemError(must_be("num_tokens", "above 0 where experts received tokens", load.num_tokens))


def _placement(placement: NDArray[np.int32], topology: ExpertTopology) -> NDArray[np.int32]:
    slots: NDArray[np.int32] = array("placement", placement, np.int32, "L P")
    if slots.shape != (topology.num_layers, topology.num_slots):
        rule = f"[{topology.num_layers} layers, {topology.num_slots} slots], as in the topology"
        raise ProblemError(must_be("placement", rule, Shown(f"shape {list(slots.shape)}")))
    return slots


@lru_cache(maxsize=4096)
def _layer_maps(placement_row: bytes, experts: int, live: bytes | None) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Slots [E, X] and replica counts [E] of one layer of a placement.

    Only slots that are `live` count, except for an expert that has none: the engine asked for it, so some slot must be named.
    """
    row = np.frombuffer(placement_row, np.int32)
    slot = np.arange(len(row))
    if live is not None:
        alive = np.frombuffer(live, np.bool_)
        slot = np.flatnonzero(alive | ~np.isin(row, row[alive]))
    slots_of, counts = logical_maps(row[slot][None], experts)
    return np.where(slots_of[0] >= 0, slot[slots_of[0]], -1).astype(np.int32), counts[0]


def _metrics(
    load: NDArray[np.float64] | NDArray[np.int64],
    copies: float | None,
    capacity: NDArray[np.float32] | None = None,
    limit: CapacityPlan | None = None,
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
        gate_kept=None if limit is None else limit.gate_kept,
        off_candidate=None if limit is None else limit.off_candidate,
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
    if slot_ids.min(initial=0) < 0:
        served = (slot_ids >= 0).any(1)
        if not served.any():
            return 0.0
        source = None if source is None else source[served]
        slot_ids = slot_ids[served]
    if source is None or source.min() < 0:
        return cross_node_copies(slot_ids[:, None], node_of_slot[None], np.full(len(slot_ids), -1)) - 1.0
    if source.max() >= topology.num_gpus:
        raise ProblemError(must_be("src_rank", f"-1 to {topology.num_gpus - 1}, the GPUs of the topology", int(source.max())))
    return cross_node_copies(slot_ids[:, None], node_of_slot[None], node_of_gpu[source])


@lru_cache(maxsize=256)
def _nodes(gpus: int, nodes: int, slots_per_gpu: int, given: bytes | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The node of each GPU and of each slot, once for all batches of a topology."""
    node_of_gpu = even_nodes(gpus, nodes) if given is None else np.frombuffer(given, np.int32)
    found = node_of_gpu.astype(np.int64), np.repeat(node_of_gpu, slots_per_gpu).astype(np.int64)
    return read_only(found[0]), read_only(found[1])
