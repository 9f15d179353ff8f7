"""Placement and request routing together: experts near the requests that use them, requests near their experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array
from qstream.errors import ProblemError
from qstream.kernels import compiled
from qstream.routing.problem import check_ids
from qstream.routing.requests import assign_requests, expected_copies
from qstream.routing.score import cross_node_copies
from schemas.wording import Shown, must_be

Placer = Callable[[NDArray[np.int32], NDArray[np.int32]], NDArray[np.int32]]


@dataclass(frozen=True, slots=True, eq=False)
class JointPlan:
    """Where experts live, which node serves each request, and what to expect of later requests.

    Attributes
    ----------
    node_of_expert : int32 [L, E]
    worker : int32 [R]
    copies_per_token : float64 [labels, N]
        `expected_copies` of one token: times the tokens of a request, the `copies` of `assign_requests`.
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
        -1 for no choice.
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
        allowed = f"one value for each of {len(ids)} tokens, at least 1"
        raise ProblemError(must_be("request", allowed, Shown(f"{len(of_token)} values")))
    check_ids("request", of_token, len(of_request))
    if of_request.min() < 0:
        raise ProblemError(must_be("label", ">= 0", int(of_request.min())))
    if rounds < 1:
        raise ProblemError(must_be("rounds", ">= 1", rounds))
    if nodes < 1:
        raise ProblemError(must_be("nodes", ">= 1", nodes))
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
        worker = assign_requests(
            work, np.zeros((len(work), nodes)), copies=per_token[of_request] * work[:, None], copy_cost=1.0, slack=slack
        )
        plans.append(JointPlan(node, worker, per_token, cross_node_copies(ids, node, worker[of_token])))
    return min(plans, key=lambda plan: plan.remote_copies)


def label_histograms(topk_ids: NDArray[np.int32], label: NDArray[np.int32], experts: int) -> NDArray[np.float64]:
    """Mean gate choices of a token by its label, float64 [labels, L, E]; topk_ids int32 [T, L, K] or -1, label int32 [T] >= 0."""
    check_ids("topk_ids", topk_ids, experts, least=-1)
    layers, labels = topk_ids.shape[1], int(label.max(initial=-1)) + 1
    flat = (label[:, None, None].astype(np.int64) * layers + np.arange(layers)[:, None]) * experts + topk_ids
    counts = np.bincount(flat[topk_ids >= 0], minlength=labels * layers * experts).reshape(labels, layers, experts)
    mean: NDArray[np.float64] = counts / np.maximum(np.bincount(label, minlength=labels), 1)[:, None, None]
    return mean


def name_nodes(
    topk_ids: NDArray[np.int32], node_of_expert: NDArray[np.int32], source: NDArray[np.int32], nodes: int
) -> NDArray[np.int32]:
    """Rename the nodes of each layer while an exchange of two names keeps more gate choices on the node of their token.

    Only for nodes with equal room. topk_ids int32 [T, L, K] with -1 for no choice, node_of_expert int32 [L, E], source
    int32 [T]; returns [L, E].
    """
    ids = array("topk_ids", topk_ids, np.int32, "T L K")
    node = array("node_of_expert", node_of_expert, np.int32, "L E")
    at = array("source", source, np.int32, "T")
    check_ids("node_of_expert", node, nodes)
    check_ids("source", at, nodes)
    if len(node) != ids.shape[1] or len(at) != len(ids):
        raise ProblemError(must_be("topk_ids", f"[{len(at)} tokens, {len(node)} layers, K]", Shown(f"shape {ids.shape}")))
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
