"""Scores of a plan: balance of the GPUs, experts moved, broken invariants, traffic between nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array
from qstream.errors import ProblemError
from qstream.kernels import compiled
from qstream.routing.problem import numbered, plan_array, replica_counts, slots_per_gpu
from schemas.experts import ExpertTopology
from schemas.wording import Shown, must_be

Nodes = NDArray[np.int32] | NDArray[np.int64]
_MAX_NODES = 63


def gpu_loads(
    physical_to_logical: NDArray[np.int32],
    load: NDArray[np.float64],
    num_gpus: int,
    shares: NDArray[np.float64] | NDArray[np.float32] | None = None,
) -> NDArray[np.float64]:
    """Tokens on each GPU, float64 [L, G].

    Parameters
    ----------
    physical_to_logical : int32 [L, P]
        -1 for an empty slot, which serves nothing.
    load : float64 [L, E]
        Tokens of each expert.
    num_gpus : int
    shares : float64 [L, P], optional
        Part of its expert's load that each slot serves; evenly split over the replicas by default.

    Raises
    ------
    ProblemError
        Shapes disagree or an expert is out of range.
    """
    tokens = array("load", load, np.float64, "L E")
    plan, experts = numbered(physical_to_logical, tokens.shape[1])
    if experts > tokens.shape[1]:
        tokens = np.pad(tokens, ((0, 0), (0, 1)))
    layers = len(tokens)
    plan = plan_array("physical_to_logical", plan, experts, num_gpus)
    if len(plan) != layers:
        raise ProblemError(must_be("physical_to_logical", f"{layers} layers, as in load", Shown(f"{len(plan)} layers")))
    flat = plan + np.arange(layers)[:, None] * experts
    per_slot = tokens.ravel()[flat]
    if shares is None:
        per_slot /= np.bincount(flat.ravel(), minlength=layers * experts)[flat]
    elif shares.shape != plan.shape:
        raise ProblemError(must_be("shares", f"{plan.shape}, the shape of physical_to_logical", Shown(f"shape {shares.shape}")))
    else:
        per_slot *= shares
    loads: NDArray[np.float64] = per_slot.reshape(layers, num_gpus, -1).sum(-1)
    return loads


def balancedness(
    physical_to_logical: NDArray[np.int32],
    load: NDArray[np.float64],
    num_gpus: int,
    shares: NDArray[np.float64] | NDArray[np.float32] | None = None,
    capacity: NDArray[np.float64] | None = None,
) -> float:
    """Mean GPU load over maximum GPU load, each summed over layers first (vLLM, ADRS); 1 is perfect and stands for no load.

    With `capacity` [G] it is the mean and the maximum of load over capacity, of the GPUs that have any. Other arguments and
    errors as in `gpu_loads`.
    """
    loads = gpu_loads(physical_to_logical, load, num_gpus, shares)
    mean = loads.mean(1)
    if capacity is not None:
        live = capacity > 0
        loads = loads[:, live]
        mean, loads = loads.sum(1) / capacity.sum(), loads / capacity[live]
    fullest = float(loads.max(1).sum())
    return float(mean.sum()) / fullest if fullest > 0.0 else 1.0


def moved_experts(before: NDArray[np.int32], after: NDArray[np.int32], num_gpus: int) -> float:
    """Experts a layer that some GPU must load, because `before` did not have them there; plans int32 [L, P].

    Raises
    ------
    ProblemError
        The plans differ in layers, or a plan has slots that are not a multiple of `num_gpus`.
    """
    if len(before) != len(after):
        raise ProblemError(must_be("after", f"{len(before)} layers, as in before", Shown(f"{len(after)} layers")))
    experts = int(max(before.max(initial=0), after.max(initial=0))) + 1
    new = holds(after, experts, num_gpus) & ~holds(before, experts, num_gpus)
    return float(new.sum()) / max(len(after), 1)


def violations(physical_to_logical: NDArray[np.int32], experts: int, num_gpus: int) -> int:
    """Experts without a replica, plus replicas that share a GPU with another replica of the same expert; plan int32 [L, P]."""
    on_gpu = holds(physical_to_logical, experts, num_gpus)
    missing = np.count_nonzero(~on_gpu.any(1))
    return int(missing) + int(physical_to_logical.size - np.count_nonzero(on_gpu))


def holds(physical_to_logical: NDArray[np.int32], experts: int, num_gpus: int) -> NDArray[np.bool_]:
    """Whether each GPU holds each expert, bool [L, G, E]; empty slots and ProblemError as in `gpu_loads`."""
    plan, known = numbered(physical_to_logical, experts)
    plan = plan_array("physical_to_logical", plan, known, num_gpus)
    gpu = np.arange(plan.shape[1]) // slots_per_gpu(plan.shape[1], num_gpus)
    out = np.zeros((len(plan), num_gpus, known), np.bool_)
    out[np.arange(len(plan))[:, None], gpu, plan] = True
    return np.ascontiguousarray(out[:, :, :experts])


def nodes_per_token(topk_ids: NDArray[np.int32], node_of_expert: Nodes) -> float:
    """Distinct nodes that the experts of a token lie on in one layer (lambda), mean over tokens that have any.

    Parameters
    ----------
    topk_ids : int [T, K]
        -1 for no choice.
    node_of_expert : int [E]

    Raises
    ------
    ProblemError
        An expert or node is out of range (nodes 0..62), or there is no token.
    """
    ids = array("topk_ids", topk_ids, np.int32, "T K")
    nodes = array("node_of_expert", node_of_expert, np.int64, "E")
    return cross_node_copies(ids[:, None], nodes[None], np.full(len(ids), -1, np.int32))


def cross_node_copies(topk_ids: NDArray[np.int32], node_of_expert: Nodes, source_node: Nodes) -> float:
    """Copies that a token sends to other nodes in a layer, mean over tokens and layers with a choice; one copy a node (DeepEP).

    Parameters
    ----------
    topk_ids : int [T, L, K]
        -1 for no choice.
    node_of_expert : int [L, E]
        Node 0..62 of each expert.
    source_node : int [T]
        Node of the token, -1 if it is on none of them.

    Raises
    ------
    ProblemError
        Shapes disagree, an expert or node is out of range, or there is no token.
    """
    ids = array("topk_ids", topk_ids, np.int32, "T L K")
    nodes = array("node_of_expert", node_of_expert, np.int64, "L E")
    source = array("source_node", source_node, np.int64, "T")
    tokens, layers, _ = ids.shape
    if len(nodes) != layers or len(source) != tokens or tokens * layers == 0:
        allowed = f"[{len(source)} tokens, {len(nodes)} layers, K], neither 0"
        raise ProblemError(must_be("topk_ids", allowed, Shown(f"shape {ids.shape}")))
    total, served = _copies(ids, nodes, source, _MAX_NODES)
    if total < 0:
        raise _out_of_range(ids, nodes, source)
    return float(total / max(served, 1))


def pairs_together(physical_to_logical: NDArray[np.int32], coactivation: NDArray[np.int64], topology: ExpertTopology) -> float:
    """Part of the co-activations [L, E, E] whose experts are on one node, each replica of an expert as likely as the others."""
    counts = replica_counts(physical_to_logical, topology.num_logical_experts)
    node_of_slot = np.repeat(topology.nodes(), topology.slots_per_gpu)
    near = total = 0.0
    for layer, row in enumerate(physical_to_logical):
        share = np.zeros((topology.num_logical_experts, topology.num_nodes))
        held = row >= 0
        np.add.at(share, (row[held], node_of_slot[held]), 1.0 / counts[layer, row[held]])
        pairs = coactivation[layer].astype(np.float64)
        np.fill_diagonal(pairs, 0.0)
        near += float(((pairs @ share) * share).sum())
        total += float(pairs.sum())
    return near / max(total, 1e-300)


def _out_of_range(ids: NDArray[np.int32], nodes: NDArray[np.int64], source: NDArray[np.int64]) -> ProblemError:
    if not -1 <= ids.min() <= ids.max() < nodes.shape[1]:
        return ProblemError(must_be("topk_ids", f"experts 0 to {nodes.shape[1] - 1}", Shown(f"{ids.min()} to {ids.max()}")))
    good_nodes = 0 <= nodes.min() <= nodes.max() < _MAX_NODES
    field, value, least = ("source_node", source, -1) if good_nodes else ("node_of_expert", nodes, 0)
    return ProblemError(must_be(field, f"{least} to {_MAX_NODES - 1}", Shown(f"values from {value.min()} to {value.max()}")))


@compiled
def _copies(ids: Any, nodes: Any, source: Any, max_nodes: int) -> Any:
    """Copies in all, -1 if an expert or a node is out of range; and the tokens of all layers that have a choice."""
    total = served = 0
    for t in range(ids.shape[0]):
        if source[t] < -1 or source[t] >= max_nodes:
            return -1, 0
        for layer in range(ids.shape[1]):
            seen = np.int64(1) << source[t] if source[t] >= 0 else np.int64(0)
            chosen = 0
            for k in range(ids.shape[2]):
                e = ids[t, layer, k]
                if e == -1:
                    continue
                if e < 0 or e >= nodes.shape[1] or nodes[layer, e] < 0 or nodes[layer, e] >= max_nodes:
                    return -1, 0
                chosen = 1
                bit = np.int64(1) << nodes[layer, e]
                if seen & bit == 0:
                    total += 1
                    seen |= bit
            served += chosen
    return total, served
