"""Request routing: which worker serves a request, by cached prefix, expected remote copies and work in the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.routing.kernels import array, compiled
from qstream.routing.problem import check_load
from qstream.routing.score import cross_node_copies

Placer = Callable[[NDArray[np.int32], NDArray[np.int32]], NDArray[np.int32]]


def route_requests(
    work: NDArray[np.float64],
    overlap: NDArray[np.float64],
    *,
    copies: NDArray[np.float64] | None = None,
    queue: NDArray[np.float64] | None = None,
    copy_cost: float = 0.0,
    slack: float = 0.2,
) -> NDArray[np.int32]:
    """Choose a worker for each request of a micro-window: least work to do, with bounded loads.

    A generalised assignment: request r on worker n costs work[r] - overlap[r, n] + copy_cost * copies[r, n]. No worker gets
    more than (1 + slack) times the mean of all work in the queues and the window, unless a single request is larger than
    that. Requests with the most to lose choose first, at the queues so far; then single moves while one gains. Deterministic.
    Source: regret heuristic (Martello, Toth 1990), bounded loads (Mirrokni et al. 2018), cost as NVIDIA Dynamo's KV router.

    Parameters
    ----------
    work : float64 [R]
        Work of a request without any cache, as in blocks to prefill plus to decode; finite and >= 0.
    overlap : float64 [R, N]
        Work that the prefix cache of each worker saves, finite and >= 0.
    copies : float64 [R, N], optional
        Expected copies to other nodes (`expected_copies`), finite and >= 0.
    queue : float64 [N], optional
        Work that waits at each worker, finite and >= 0; none by default.
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
    for field, value in (("work", size), ("overlap", saved), ("copies", remote), ("queue", waiting)):
        check_load(field, value)
    if saved.shape[1] < 1 or len(saved) != len(size):
        raise ProblemError(f"overlap: shape {saved.shape}, must be [{len(size)} requests, at least 1 worker]")
    if remote.shape != saved.shape:
        raise ProblemError(f"copies: shape {remote.shape}, must be {saved.shape}")
    if len(waiting) != saved.shape[1]:
        raise ProblemError(f"queue: {len(waiting)} values, must be {saved.shape[1]}, one a worker")
    for field, number in (("copy_cost", copy_cost), ("slack", slack)):
        if not 0.0 <= number < np.inf:
            raise ProblemError(f"{field}: {number}, must be finite and >= 0")
    left = np.maximum(size[:, None] - saved, 0.0)
    cost = left + copy_cost * remote
    limit = (1.0 + slack) * (waiting.sum() + left.min(1).sum()) / len(waiting)
    out = np.empty(len(size), np.int32)
    _route(cost, left, waiting, limit, np.argsort(-_regret(cost), kind="stable"), out)
    return out


def _regret(cost: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a request loses if it does not get its best worker."""
    if cost.shape[1] == 1:
        return cost[:, 0]
    two = np.partition(cost, 1, axis=1)[:, :2]
    lost: NDArray[np.float64] = two[:, 1] - two[:, 0]
    return lost


@compiled
def _route(cost: Any, left: Any, queue: Any, limit: float, order: Any, out: Any) -> None:
    load = queue.copy()
    for r in order:
        out[r] = _cheapest(cost[r], left[r], load, limit)
        load[out[r]] += left[r, out[r]]
    moved = True
    rounds = 0
    while moved and rounds < len(order):
        moved = False
        rounds += 1
        for r in order:
            load[out[r]] -= left[r, out[r]]
            n = _cheapest(cost[r], left[r], load, limit)
            moved |= cost[r, n] < cost[r, out[r]]
            if cost[r, n] < cost[r, out[r]] or load[out[r]] + left[r, out[r]] > limit:
                out[r] = n
            load[out[r]] += left[r, out[r]]


@compiled
def _cheapest(cost: Any, left: Any, load: Any, limit: float) -> Any:
    """The cheapest worker with room, the emptier of equals; if none has room, the one that ends emptiest."""
    best, emptiest = -1, 0
    for n in range(len(load)):
        after = load[n] + left[n]
        if after < load[emptiest] + left[emptiest]:
            emptiest = n
        if after <= limit and (best < 0 or (cost[n], load[n]) < (cost[best], load[best])):
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
        raise ProblemError(f"node_of_expert: shape {node.shape}, must be {tokens.shape[1:]}")
    if node.size and not 0 <= node.min() <= node.max() < nodes:
        raise ProblemError(f"node_of_expert: {node.min()}..{node.max()}, must be in 0..{nodes - 1}")
    on_node = (node.reshape(-1, 1) == np.arange(nodes)).astype(np.float64)
    local = tokens.reshape(len(tokens), -1) @ on_node
    copies: NDArray[np.float64] = tokens.sum((1, 2))[:, None] - local
    return copies


@dataclass(frozen=True, slots=True, eq=False)
class JointPlan:
    """Where experts live, which node serves each request, and what to expect of later requests.

    Attributes
    ----------
    node_of_expert : int32 [L, E]
    worker : int32 [R]
    copies_per_token : float64 [labels, N]
        `expected_copies` of one token: times the tokens of a request, the `copies` of `route_requests`.
    remote_copies : float
        Copies a token and layer on the given tokens.
    """

    node_of_expert: NDArray[np.int32]
    worker: NDArray[np.int32]
    copies_per_token: NDArray[np.float64]
    remote_copies: float


def place_and_route(
    topk_ids: NDArray[np.int32],
    request: NDArray[np.int32],
    label: NDArray[np.int32],
    experts: int,
    nodes: int,
    place: Placer,
    *,
    rounds: int = 3,
    slack: float = 0.05,
) -> JointPlan:
    """Place experts and route requests by their labels in turns, and keep the best round.

    Requests of a label begin side by side on as few nodes as carry them. Each round places experts for the tokens and the
    nodes they run on, names the nodes of each layer so that most gate choices stay local, and routes the requests again.

    Parameters
    ----------
    topk_ids : int32 [T, L, K]
    request : int32 [T]
        Request of each token, 0..R-1.
    label : int32 [R]
        Task, tenant or adapter of each request, >= 0.
    experts, nodes : int
        E and N.
    place : (topk_ids [T, L, K], source [T]) -> node_of_expert [L, E]
        Such as co-activation placement; `source` is the node of each token, which it may ignore.
    rounds : int
        >= 1.
    slack : float
        Room of a node above the mean number of tokens.

    Raises
    ------
    ProblemError
        An argument breaks a rule above, or there is no token.
    """
    ids = array("topk_ids", topk_ids, np.int32, "T L K")
    of_token = array("request", request, np.int32, "T")
    of_request = array("label", label, np.int32, "R")
    if len(of_token) != len(ids) or not len(ids):
        raise ProblemError(f"request: {len(of_token)} values, must be one a token ({len(ids)}), at least 1")
    if not 0 <= of_token.min() <= of_token.max() < len(of_request):
        raise ProblemError(f"request: {of_token.min()}..{of_token.max()}, must be in 0..{len(of_request) - 1}")
    if of_request.min() < 0:
        raise ProblemError(f"label: {of_request.min()}, must be >= 0")
    if rounds < 1 or nodes < 1:
        raise ProblemError(f"rounds: {rounds} on {nodes} nodes, both must be >= 1")
    work = np.bincount(of_token, minlength=len(of_request)).astype(np.float64)
    histogram = label_histograms(ids, of_request[of_token], experts)
    order = np.argsort(of_request, kind="stable")
    before = np.cumsum(work[order]) - work[order] / 2
    worker = np.empty(len(of_request), np.int32)
    worker[order] = np.minimum(before * nodes // max(work.sum(), 1.0), nodes - 1)
    plans = []
    for _ in range(rounds):
        source = worker[of_token]
        node = name_nodes(ids, place(ids, source), source, nodes)
        per_token = expected_copies(histogram, node, nodes)
        worker = route_requests(
            work, np.zeros((len(work), nodes)), copies=per_token[of_request] * work[:, None], copy_cost=1.0, slack=slack
        )
        plans.append(JointPlan(node, worker, per_token, cross_node_copies(ids, node, worker[of_token])))
    return min(plans, key=lambda plan: plan.remote_copies)


def label_histograms(topk_ids: NDArray[np.int32], label: NDArray[np.int32], experts: int) -> NDArray[np.float64]:
    """Mean gate choices of a token by its label, float64 [labels, L, E]; topk_ids int32 [T, L, K], label int32 [T] >= 0."""
    if topk_ids.size and not 0 <= topk_ids.min() <= topk_ids.max() < experts:
        raise ProblemError(f"topk_ids: experts {topk_ids.min()}..{topk_ids.max()}, must be in 0..{experts - 1}")
    layers, labels = topk_ids.shape[1], int(label.max(initial=-1)) + 1
    flat = (label[:, None, None].astype(np.int64) * layers + np.arange(layers)[:, None]) * experts + topk_ids
    counts = np.bincount(flat.ravel(), minlength=labels * layers * experts).reshape(labels, layers, experts)
    mean: NDArray[np.float64] = counts / np.maximum(np.bincount(label, minlength=labels), 1)[:, None, None]
    return mean


def name_nodes(
    topk_ids: NDArray[np.int32], node_of_expert: NDArray[np.int32], source: NDArray[np.int32], nodes: int
) -> NDArray[np.int32]:
    """Rename the nodes of each layer while an exchange of two names keeps more gate choices on the node of their token.

    Only for nodes with equal room. topk_ids int32 [T, L, K], node_of_expert int32 [L, E], source int32 [T]; returns [L, E].
    """
    ids = array("topk_ids", topk_ids, np.int32, "T L K")
    node = array("node_of_expert", node_of_expert, np.int32, "L E")
    at = array("source", source, np.int32, "T")
    for field, value in (("node_of_expert", node), ("source", at)):
        if value.size and not 0 <= value.min() <= value.max() < nodes:
            raise ProblemError(f"{field}: {value.min()}..{value.max()}, must be in 0..{nodes - 1}")
    if len(node) != ids.shape[1] or len(at) != len(ids):
        raise ProblemError(f"topk_ids: shape {ids.shape}, must be [{len(at)} tokens, {len(node)} layers, K]")
    by_source = label_histograms(ids, at, node.shape[1]) * np.bincount(at, minlength=1)[:, None, None]
    name = np.empty((len(node), nodes), np.int32)
    for layer, groups in enumerate(node):
        on_group = (groups[:, None] == np.arange(nodes)).astype(np.float64)
        local = np.zeros((nodes, nodes))
        local[: len(by_source)] = by_source[:, layer] @ on_group
        _name(local, name[layer])
    return np.take_along_axis(name, node, 1)


@compiled
def _name(local: Any, name: Any) -> None:
    """Exchange names while that gains; local [source, group] are choices of tokens at a node for experts of a group."""
    name[:] = np.arange(len(name))
    improved = True
    while improved:
        improved = False
        for a in range(len(name)):
            for b in range(a):
                x, y = name[a], name[b]
                if local[y, a] + local[x, b] > local[x, a] + local[y, b]:
                    name[a], name[b] = y, x
                    improved = True


class PrefixCache:
    """What one worker's KV cache holds: block hashes, the least recently used one leaves first.

    Blocks of a request are in the order of its prompt, and a hash stands for its block and all before it.
    """

    def __init__(self, blocks: int) -> None:
        if blocks < 1:
            raise ProblemError(f"blocks: {blocks}, must be >= 1")
        self._blocks = blocks
        self._held: dict[int, None] = {}

    def overlap(self, hashes: Sequence[int]) -> int:
        """Leading blocks of a prompt that are held."""
        return next((i for i, block in enumerate(hashes) if block not in self._held), len(hashes))

    def use(self, hashes: Sequence[int]) -> None:
        """Hold these blocks, as the newest: the prompt's first block leaves last."""
        for block in reversed(hashes):
            self._held.pop(block, None)
            self._held[block] = None
        while len(self._held) > self._blocks:
            del self._held[next(iter(self._held))]
