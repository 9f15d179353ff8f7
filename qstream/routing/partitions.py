"""Placements and assignments to nodes as partitions, layer by layer, and back."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array
from qstream.errors import ProblemError
from qstream.routing.pack import valid_plan
from qstream.routing.problem import check_ids, check_load, relative_capacity
from qstream.routing.score import holds
from qstream.routing.window_model import Partition, Prices
from schemas.wording import Shown, must_be

_OVER: Final = 5.0  # price of a mean node's load above a limit, in parts of all co-activations: in effect a wall


def gpu_partitions(
    plan: NDArray[np.int32],
    scenarios: NDArray[np.float64],
    num_gpus: int,
    *,
    move_cost: float = 0.0,
    previous: NDArray[np.int32] | None = None,
    weights: NDArray[np.float64] | None = None,
    capacity: NDArray[np.float64] | None = None,
    nodes: NDArray[np.int32] | None = None,
) -> tuple[Partition, ...]:
    """The slots of each layer as items, GPUs as bins; the objective is that of `scenarios.anneal`.

    Parameters
    ----------
    plan, scenarios, num_gpus, move_cost, previous, weights, capacity
        As in `anneal`.
    nodes : int [G], optional
        Node of each GPU: then replicas change GPUs within a node only.

    Raises
    ------
    ProblemError
        An argument breaks a rule of `anneal`.
    """
    past = array("scenarios", scenarios, np.float64, "W L E")
    check_load("scenarios", past)
    windows, layers, experts = past.shape
    slots = valid_plan("plan", plan, layers, experts, num_gpus)
    if not 0.0 <= move_cost < np.inf:
        raise ProblemError(must_be("move_cost", "finite and >= 0", move_cost))
    weight = array("weights", np.ones(windows) if weights is None else weights, np.float64, "W")
    check_load("weights", weight)
    if len(weight) != windows or not weight.sum() > 0:
        raise ProblemError(must_be("weights", f"{windows} values, not all 0", weight.tolist()))
    group = array("nodes", np.zeros(num_gpus, np.int64) if nodes is None else nodes, np.int64, "G")
    if len(group) != num_gpus:
        raise ProblemError(must_be("nodes", f"{num_gpus} values, one for each GPU", Shown(f"{len(group)} values")))
    was = holds(slots if previous is None else previous, experts, num_gpus)
    if len(was) != layers:
        raise ProblemError(must_be("previous", f"{layers} layers", Shown(f"{len(was)} layers")))
    share = relative_capacity(capacity, num_gpus)
    mean = past.sum(2, keepdims=True) / num_gpus
    relative = np.divide(past, mean, out=np.zeros_like(past), where=mean > 0.0)
    found = []
    for layer, row in enumerate(slots.astype(np.int64)):
        replica = relative[:, layer] / np.bincount(row, minlength=experts)
        found.append(
            Partition(
                bin_of=np.repeat(np.arange(num_gpus), slots.shape[1] // num_gpus),
                kind=row,
                load=np.ascontiguousarray(replica[:, row].T),
                weights=weight / weight.sum(),
                share=share,
                group=group,
                together=None,
                unary=move_cost * ~was[layer][:, row].T,
                prices=Prices(balance=1.0),
            )
        )
    return tuple(found)


def gpu_plan(partitions: tuple[Partition, ...], plan: NDArray[np.int32]) -> NDArray[np.int32]:
    """The plan int32 [L, P] of partitions that came from `plan`: experts that stay on a GPU keep their slots."""
    found = plan.copy()
    for row, partition in zip(found, partitions, strict=True):
        for g, held in enumerate(row.reshape(len(partition.share), -1)):
            wanted = partition.kind[partition.bin_of == g]
            gone = ~np.isin(held, wanted)
            held[gone] = wanted[~np.isin(wanted, held)]
    return found


def node_partitions(
    node_of_expert: NDArray[np.int32],
    together: NDArray[np.int64],
    num_nodes: int,
    *,
    load: NDArray[np.float64] | None = None,
    share: NDArray[np.float64] | None = None,
    eps: float = 0.05,
) -> tuple[Partition, ...]:
    """The experts of each layer as items, nodes as bins; the objective is the part of co-activations between nodes, with a
    steep price on load above 1 + eps of a node's share.

    Parameters
    ----------
    node_of_expert : int [L, E]
        From `colocate`.
    together, load, share, eps
        As in `colocate`; the share is even by default.

    Raises
    ------
    ProblemError
        Shapes disagree or a node is out of range.
    """
    pairs = array("together", together, np.float64, "L E F")
    check_load("together", pairs)
    nodes = array("node_of_expert", node_of_expert, np.int64, "L E")
    if pairs.shape != (*nodes.shape, nodes.shape[1]) or not np.array_equal(pairs, pairs.transpose(0, 2, 1)):
        allowed = f"{[*nodes.shape, nodes.shape[1]]} and symmetric"
        raise ProblemError(must_be("together", allowed, Shown(f"shape {list(pairs.shape)}")))
    check_ids("node_of_expert", nodes, num_nodes)
    tokens = array("load", np.einsum("lee->le", pairs) if load is None else load, np.float64, "L E")
    check_load("load", tokens)
    if tokens.shape != nodes.shape:
        raise ProblemError(must_be("load", f"{nodes.shape}, the shape of node_of_expert", Shown(f"shape {tokens.shape}")))
    if not eps >= 0:
        raise ProblemError(must_be("eps", ">= 0", eps))
    parts, group = relative_capacity(share, num_nodes), np.zeros(num_nodes, np.int64)
    prices = Prices(traffic=1.0, over=_OVER, limit=1.0 + eps)
    found = []
    for row, bonds, weight in zip(nodes, pairs, tokens, strict=True):
        bonds = np.where(np.eye(len(row), dtype=np.bool_), 0.0, bonds)
        found.append(
            Partition(
                bin_of=row.copy(),
                kind=np.arange(len(row)),
                load=(num_nodes * weight / max(weight.sum(), 1e-300))[:, None],
                weights=np.ones(1),
                share=parts,
                group=group,
                together=bonds / max(bonds.sum() / 2, 1e-300),
                unary=np.zeros((len(row), num_nodes)),
                prices=prices,
            )
        )
    return tuple(found)


def nodes_of(partitions: tuple[Partition, ...]) -> NDArray[np.int32]:
    """The node of each expert, int32 [L, E]."""
    return np.stack([partition.bin_of for partition in partitions]).astype(np.int32)
