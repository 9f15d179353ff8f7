"""Request routing: which node serves each request of a batch, by cached prefix, expected remote copies and work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array, read_only
from qstream.errors import ProblemError
from qstream.kernels import compiled
from qstream.routing.problem import capacities, check_ids, check_load, plan_array
from schemas.experts import ExpertTopology
from schemas.tokens import TokenBatch
from schemas.wording import Shown, must_be

Counts = NDArray[np.int64] | NDArray[np.int32] | NDArray[np.float64]
MAX_CHOICES: Final = 1 << 23  # requests of a batch times nodes: 64 MiB of each quantity


@dataclass(frozen=True, slots=True, eq=False)
class RequestPlan:
    """The node of each request of a batch, and what it means.

    Attributes
    ----------
    request_id : uint64 [R]
        In the order of first appearance.
    node : int32 [R]
    remote_copies : float
        Expected gate choices a token and layer that leave the node of their request. Several of a token to one node are one
        copy where dispatch merges them, so this is the most that is sent.
    load : float64 [N]
        Work on each node: what waits there and what it gets, in token-equivalents, less what caches save.
    max_over_mean : float
        Load over capacity of the fullest node, over the mean of nodes with capacity; 1 without load.
    """

    request_id: NDArray[np.uint64]
    node: NDArray[np.int32]
    remote_copies: float
    load: NDArray[np.float64]
    max_over_mean: float


def route_requests(
    batch: TokenBatch,
    topology: ExpertTopology,
    placement: NDArray[np.int32],
    *,
    label_counts: Mapping[str, Counts] | None = None,
    shares: NDArray[np.float32] | None = None,
    overlap: NDArray[np.float64] | None = None,
    queue: NDArray[np.float64] | None = None,
    copy_cost: float = 0.1,
    slack: float = 0.2,
) -> RequestPlan:
    """Choose a node for each request of a batch: near its cached prefix and its experts, none much fuller than the others.

    A request is the tokens of one `request_id`; its work is their `cost`. Which experts it will ask for is taken from its own
    `topk_ids` in the layer that the batch has, else from the counts of its first label, else as even over the experts. A
    choice is local on a node that holds a replica; with `shares`, in the part that they give to replicas there. GPUs of
    capacity 0 hold nothing; nodes get work in proportion to their capacity, those without get none. Requests whose tokens have
    a `src_rank` are in progress there, and stay while their node has room.

    Parameters
    ----------
    batch : TokenBatch
        With `request_id`.
    topology : ExpertTopology
    placement : int32 [L, P]
        Physical to logical experts.
    label_counts : {label: counts [L, E]}, optional
        Gate choices of tokens of a label so far, finite and >= 0, as a placement's history has them.
    shares : float32 [L, P], optional
        Of each slot in its expert's tokens (`dispatch_shares`); nearest replica first by default.
    overlap : float64 [R, N], optional
        Work that the prefix cache of each node saves, finite and >= 0; requests in order of first appearance. By default
        the node of a request in progress saves all of it.
    queue : float64 [N], optional
        Work that waits at each node, finite and >= 0.
    copy_cost : float
        Work of a token, in token-equivalents, if one choice in each layer leaves its node; finite and >= 0.
    slack : float
        Room above the mean load, finite and >= 0.

    Raises
    ------
    ProblemError
        An argument breaks a rule above, shapes disagree, or no node has capacity.
    """
    request, request_id, work = _requests(batch)
    nodes = topology.num_nodes
    if len(work) * nodes > MAX_CHOICES:
        raise ProblemError(must_be("requests * num_nodes", f"at most {MAX_CHOICES}", len(work) * nodes))
    capacity = np.bincount(topology.nodes(), capacities(topology), nodes).astype(np.float64)
    if not capacity.any():
        raise ProblemError(must_be("gpu_capacity", "above 0 for at least one GPU", Shown(f"0 for all {topology.num_gpus}")))
    shape = (len(work), nodes)
    saved = array("overlap", _in_progress(batch, request, work, topology) if overlap is None else overlap, np.float64, "R N")
    waiting = array("queue", np.zeros(nodes) if queue is None else queue, np.float64, "N")
    if saved.shape != shape:
        raise ProblemError(must_be("overlap", f"{shape}, requests and nodes", Shown(f"shape {saved.shape}")))
    local = _local_of_requests(batch, request, len(work), _local_parts(placement, topology, shares), label_counts or {})
    width = topology.top_k if batch.topk_ids is None else batch.topk_ids.shape[1]
    copies = work[:, None] * width * np.maximum(1.0 - local, 0.0)
    node = assign_requests(work, saved, copies=copies, queue=waiting, capacity=capacity, copy_cost=copy_cost, slack=slack)
    rows = np.arange(len(work))
    load: NDArray[np.float64] = waiting.astype(np.float64)
    np.add.at(load, node, np.maximum(work - saved[rows, node], 0.0))
    remote = float(copies[rows, node].sum() / max(work.sum(), 1e-300))
    return RequestPlan(request_id, node, remote, load, _max_over_mean(load, capacity))


def _max_over_mean(load: NDArray[np.float64], capacity: NDArray[np.float64]) -> float:
    live = capacity > 0
    mean = float(load[live].sum() / capacity[live].sum())
    return float((load[live] / capacity[live]).max()) / mean if mean > 0.0 else 1.0


def _requests(batch: TokenBatch) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.float64]]:
    """The request of each token [T], the id of each request [R] in order of first appearance, and its work [R]."""
    if batch.request_id is None:
        raise ProblemError(must_be("request_id", "given in the batch, since requests are routed", None))
    ids, first, index = np.unique(batch.request_id, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(ids), np.int64)
    rank[order] = np.arange(len(ids))
    request = rank[index]
    cost = np.ones(len(request)) if batch.cost is None else batch.cost
    return request, ids[order], np.bincount(request, cost, len(ids)).astype(np.float64)


def _in_progress(
    batch: TokenBatch, request: NDArray[np.int64], work: NDArray[np.float64], topology: ExpertTopology
) -> NDArray[np.float64]:
    """The work of each request on the node where it is in progress, [R, N]; 0 elsewhere."""
    saved = np.zeros((len(work), topology.num_nodes))
    if batch.src_rank is not None:
        if batch.src_rank.max() >= topology.num_gpus:
            raise ProblemError(
                must_be("src_rank", f"-1 to {topology.num_gpus - 1}, the GPUs of the topology", int(batch.src_rank.max()))
            )
        known = batch.src_rank >= 0
        saved[request[known], topology.nodes()[batch.src_rank[known]]] = work[request[known]]
    return saved


def _local_parts(
    placement: NDArray[np.int32], topology: ExpertTopology, shares: NDArray[np.float32] | None
) -> NDArray[np.float64]:
    """Part of an expert's tokens that a node serves if they come from there, [L, E, N]."""
    layers, experts, nodes = topology.num_layers, topology.num_logical_experts, topology.num_nodes
    plan = plan_array("placement", placement, experts, topology.num_gpus)
    if plan.shape != (layers, topology.num_slots):
        allowed = f"[{layers} layers, {topology.num_slots} slots], as in the topology"
        raise ProblemError(must_be("placement", allowed, Shown(f"shape {list(plan.shape)}")))
    live = np.repeat(capacities(topology) > 0, topology.slots_per_gpu)
    part = np.broadcast_to(live.astype(np.float64), plan.shape)
    if shares is not None:
        given = array("shares", shares, np.float64, "L P")
        check_load("shares", given)
        if given.shape != plan.shape:
            raise ProblemError(must_be("shares", f"{plan.shape}, the shape of placement", Shown(f"shape {given.shape}")))
        part = part * given
    node = np.repeat(topology.nodes(), topology.slots_per_gpu)
    flat = (np.arange(layers)[:, None] * experts + plan) * nodes + node
    local = np.bincount(flat.ravel(), part.ravel(), layers * experts * nodes).reshape(layers, experts, nodes)
    return np.minimum(local, 1.0)


def _local_of_requests(
    batch: TokenBatch, request: NDArray[np.int64], requests: int, local: NDArray[np.float64], counts: Mapping[str, Counts]
) -> NDArray[np.float64]:
    """Expected part of a request's choices that are local on each node, mean over layers, [R, N]."""
    layers, experts, nodes = local.shape
    label = np.full(requests, -1, np.int64)
    if batch.label is not None:
        known = np.flatnonzero(batch.label >= 0)[::-1]  # backwards, so that a request's first label is written last
        label[request[known]] = batch.label[known]
    total, here = np.empty((requests, nodes)), np.empty((requests, nodes))
    layer = batch.layer if batch.topk_ids is not None and batch.layer is not None else 0
    if layer >= layers:
        raise ProblemError(must_be("layer", f"0 to {layers - 1}, as in the topology", layer))
    for number in np.unique(label):
        name = batch.label_names[number] if number >= 0 else None
        part = _local_of_label(name, None if name is None else counts.get(name), local)
        total[label == number], here[label == number] = part.sum(0), part[layer]
    if batch.topk_ids is not None and batch.topk_ids.shape[1]:
        if batch.topk_ids.max() >= experts:
            raise ProblemError(must_be("topk_ids", f"experts 0 to {experts - 1}, as in the topology", int(batch.topk_ids.max())))
        own = np.zeros((requests, nodes))
        token, choice = np.nonzero(batch.topk_ids >= 0)
        _add_choices(read_only(batch.topk_ids[token, choice][:, None]), request[token], local[layer], own)
        choices = np.bincount(request[token], minlength=requests)[:, None]
        total += np.where(choices > 0, own / np.maximum(choices, 1) - here, 0.0)
    total /= layers
    return total


@compiled
def _add_choices(topk_ids: Any, request: Any, local: Any, own: Any) -> None:
    for t in range(len(topk_ids)):
        for k in range(topk_ids.shape[1]):
            for n in range(local.shape[1]):
                own[request[t], n] += local[topk_ids[t, k], n]


def _local_of_label(name: str | None, counts: Counts | None, local: NDArray[np.float64]) -> NDArray[np.float64]:
    """Part of a label's choices that are local on each node, by layer [L, N]; even over the experts where nothing is counted."""
    even = np.ones(local.shape[:2])
    given = even if counts is None else array(f"label_counts of {name!r}", counts, np.float64, "L E")
    check_load(f"label_counts of {name!r}", given)
    if given.shape != even.shape:
        raise ProblemError(must_be(f"label_counts of {name!r}", f"{even.shape}", Shown(f"shape {given.shape}")))
    most = given.max(1, keepdims=True)
    seen = np.where(most > 0.0, given / np.maximum(most, 1e-300), 1.0)
    seen /= seen.sum(1, keepdims=True)
    part: NDArray[np.float64] = (seen[:, None, :] @ local)[:, 0]
    return part


def assign_requests(
    work: NDArray[np.float64],
    overlap: NDArray[np.float64],
    *,
    copies: NDArray[np.float64] | None = None,
    queue: NDArray[np.float64] | None = None,
    capacity: NDArray[np.float64] | None = None,
    copy_cost: float = 0.0,
    slack: float = 0.2,
) -> NDArray[np.int32]:
    """Choose a worker for each request of a micro-window: least work to do, with bounded loads.

    A generalised assignment: request r on worker n costs work[r] - overlap[r, n] + copy_cost * copies[r, n]. A worker has
    room up to (1 + slack) times its part, by capacity, of the queues and of the window's work at its best caches; a request
    that has room nowhere goes where the load over capacity ends lowest. Requests with the most to lose choose first, at the
    queues so far; then single moves while one gains. Deterministic. Source: regret heuristic (Martello, Toth 1990), bounded
    loads (Mirrokni et al. 2018), cost as NVIDIA Dynamo's KV router.

    Parameters
    ----------
    work : float64 [R]
        Work of a request without any cache, as in tokens to prefill plus to decode; finite and >= 0.
    overlap : float64 [R, N]
        Work that the prefix cache of each worker saves, finite and >= 0.
    copies : float64 [R, N], optional
        Expected copies to other nodes (`expected_copies`), finite and >= 0.
    queue : float64 [N], optional
        Work that waits at each worker, finite and >= 0; none by default.
    capacity : float64 [N], optional
        Relative speed, finite and >= 0, not all 0; a worker of capacity 0 gets nothing. Equal by default.
    copy_cost : float
        Work of one copy, finite and >= 0.
    slack : float
        Room above the mean, finite and >= 0.

    Returns
    -------
    worker : int32 [R]

    Raises
    ------
    ProblemError
        An argument breaks a rule above, or there is no worker.
    """
    size = array("work", work, np.float64, "R")
    saved = array("overlap", overlap, np.float64, "R N")
    remote = array("copies", np.zeros(saved.shape) if copies is None else copies, np.float64, "R N")
    waiting = array("queue", np.zeros(saved.shape[1]) if queue is None else queue, np.float64, "N")
    speed = array("capacity", np.ones(saved.shape[1]) if capacity is None else capacity, np.float64, "N")
    given = (("work", size), ("overlap", saved), ("copies", remote), ("queue", waiting), ("capacity", speed))
    for field, value in given:
        check_load(field, value)
    if saved.shape[1] < 1 or len(saved) != len(size):
        raise ProblemError(must_be("overlap", f"[{len(size)} requests, at least 1 worker]", Shown(f"shape {saved.shape}")))
    if remote.shape != saved.shape:
        raise ProblemError(must_be("copies", f"{saved.shape}, the shape of overlap", Shown(f"shape {remote.shape}")))
    for field, value in given[3:]:
        if len(value) != saved.shape[1]:
            raise ProblemError(must_be(field, f"{saved.shape[1]} values, one for each worker", Shown(f"{len(value)} values")))
    if not speed.any():
        raise ProblemError(must_be("capacity", "above 0 for at least one worker", Shown(f"0 for all {len(speed)}")))
    for field, number in (("copy_cost", copy_cost), ("slack", slack)):
        if not 0.0 <= number < np.inf:
            raise ProblemError(must_be(field, "finite and >= 0", number))
    live = np.flatnonzero(speed > 0)
    left = np.ascontiguousarray(np.maximum(size[:, None] - saved[:, live], 0.0))
    cost = np.ascontiguousarray(left + copy_cost * remote[:, live])
    limit = (1.0 + slack) * (waiting[live].sum() + left.min(1).sum()) / speed.sum()
    out = np.empty(len(size), np.int32)
    _assign(cost, left, waiting[live], speed[live], limit, np.argsort(-_regret(cost), kind="stable"), out)
    return live[out].astype(np.int32)


def _regret(cost: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a request loses if it does not get its best worker."""
    if cost.shape[1] == 1:
        return cost[:, 0]
    two = np.partition(cost, 1, axis=1)[:, :2]
    lost: NDArray[np.float64] = two[:, 1] - two[:, 0]
    return lost


@compiled
def _assign(cost: Any, left: Any, queue: Any, speed: Any, limit: float, order: Any, out: Any) -> None:
    load = queue.copy()
    for r in order:
        out[r] = _cheapest(cost[r], left[r], load, speed, limit)
        load[out[r]] += left[r, out[r]]
    moved = True
    rounds = 0
    while moved and rounds < len(order):
        moved = False
        rounds += 1
        for r in order:
            load[out[r]] -= left[r, out[r]]
            n = _cheapest(cost[r], left[r], load, speed, limit)
            moved |= cost[r, n] < cost[r, out[r]]
            if cost[r, n] < cost[r, out[r]] or load[out[r]] + left[r, out[r]] > limit * speed[out[r]]:
                out[r] = n
            load[out[r]] += left[r, out[r]]


@compiled
def _cheapest(cost: Any, left: Any, load: Any, speed: Any, limit: float) -> Any:
    """The cheapest worker with room, the emptier of equals; if none has room, the one that ends emptiest."""
    best, emptiest = -1, 0
    for n in range(len(load)):
        after = (load[n] + left[n]) / speed[n]
        if after < (load[emptiest] + left[emptiest]) / speed[emptiest]:
            emptiest = n
        if after <= limit and (best < 0 or (cost[n], load[n] / speed[n]) < (cost[best], load[best] / speed[best])):
            best = n
    return best if best >= 0 else emptiest


def expected_copies(histogram: NDArray[np.float64], node_of_expert: NDArray[np.int32], nodes: int) -> NDArray[np.float64]:
    """Expected gate choices that leave the node of a request, for each node it may run on.

    Parameters
    ----------
    histogram : float64 [R, L, E]
        Expected tokens of each expert, from the request's label or its past; finite and >= 0.
    node_of_expert : int32 [L, E]
    nodes : int
        N.

    Returns
    -------
    copies : float64 [R, N]
        Of all layers; several choices of a token on one node count each, which ranks nodes alike.

    Raises
    ------
    ProblemError
        Shapes disagree, or a node is not in 0..N-1.
    """
    tokens = array("histogram", histogram, np.float64, "R L E")
    check_load("histogram", tokens)
    node = array("node_of_expert", node_of_expert, np.int32, "L E")
    if node.shape != tokens.shape[1:]:
        raise ProblemError(must_be("node_of_expert", f"{tokens.shape[1:]}", Shown(f"shape {node.shape}")))
    check_ids("node_of_expert", node, nodes)
    on_node = (node.reshape(-1, 1) == np.arange(nodes)).astype(np.float64)
    local = tokens.reshape(len(tokens), -1) @ on_node
    copies: NDArray[np.float64] = tokens.sum((1, 2))[:, None] - local
    return copies
