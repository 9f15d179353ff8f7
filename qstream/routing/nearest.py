"""Nearest dispatch: what each replica serves where every GPU asks the nearest one, and plans for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.kernels import GOLDEN, below, compiled, mix64
from qstream.routing.problem import numbered, slots_per_gpu
from qstream.routing.scenarios import COLD, DRAWS, HOT, LEAST_GAIN, copy_slots, propose, relative_load, word
from qstream.routing.score import holds


def nearest_shares(physical_to_logical: NDArray[np.int32], experts: int, node_of_gpu: NDArray[np.int32]) -> NDArray[np.float64]:
    """Part of its expert's tokens that each slot serves, where tokens come from all GPUs alike and go to the nearest replica.

    A GPU asks its own replica; else the first one on its node, if there are others elsewhere; else one of all at random. On one
    node this is an even split. Source: SGLang 0.5.23, ``compute_logical_to_rank_dispatch_physical_map``; random choices are
    taken as even.

    Parameters
    ----------
    physical_to_logical : int32 [L, P]
        Replicas of an expert on the same GPU, which our plans do not have, count as one and share its part. -1 for an empty slot,
        whose share counts for nothing.
    experts : int
    node_of_gpu : int32 [G]

    Returns
    -------
    shares : float64 [L, P]
        Sum 1 over the replicas of an expert.

    Raises
    ------
    ProblemError
        P is not a multiple of G, or an expert is not in 0..E-1.
    """
    gpus = len(node_of_gpu)
    physical_to_logical, experts = numbered(physical_to_logical, experts)
    on_gpu = np.ascontiguousarray(holds(physical_to_logical, experts, gpus).transpose(0, 2, 1))
    served = np.zeros(on_gpu.shape)
    node = _numbered(node_of_gpu)
    _serve_all(on_gpu, node, np.bincount(node).astype(np.int64), served)
    gpu = np.arange(physical_to_logical.shape[1]) // slots_per_gpu(physical_to_logical.shape[1], gpus)
    layer = np.arange(len(served))[:, None]
    alike = np.zeros(on_gpu.shape)
    np.add.at(alike, (layer, physical_to_logical, gpu[None]), 1.0)
    shares: NDArray[np.float64] = (served / np.maximum(alike, 1.0))[layer, physical_to_logical, gpu]
    return shares


def anneal_nearest(
    start: NDArray[np.int32],
    scenarios: NDArray[np.float64],
    node_of_gpu: NDArray[np.int32],
    *,
    steps: int,
    seed: int,
    move_cost: float,
    previous: NDArray[np.int32],
    weights: NDArray[np.float64],
    capacity: NDArray[np.float64],
) -> NDArray[np.int32]:
    """`scenarios.anneal` where replicas serve what `nearest_shares` says; a proposal costs O(W (G + replicas)).

    Arguments as there, checked by `place`; `node_of_gpu` is int32 [G].
    """
    plan, gpus = start.copy(), len(node_of_gpu)
    if gpus > 1:
        was = holds(previous, scenarios.shape[2], gpus)
        node = _numbered(node_of_gpu)
        load, slowness = relative_load(scenarios, weights, gpus), capacity.mean() / capacity
        size = np.bincount(node).astype(np.int64)
        _anneal(plan, was, load, slowness, node, size, steps, np.uint64(seed % 2**64), float(move_cost))
    return plan


def _numbered(node_of_gpu: NDArray[np.int32]) -> NDArray[np.int64]:
    """Nodes as 0, 1, ... without gaps."""
    number: NDArray[np.int64] = np.unique(node_of_gpu, return_inverse=True)[1].astype(np.int64).ravel()
    return number


@compiled
def _serve_all(on_gpu: Any, node: Any, size: Any, served: Any) -> None:
    """For bool [L, E, G] the part that each GPU serves of each expert, float64 [L, E, G]."""
    for layer in range(len(on_gpu)):
        for e in range(on_gpu.shape[1]):
            _serve(on_gpu[layer, e], node, size, served[layer, e])


@compiled
def _serve(on: Any, node: Any, size: Any, share: Any) -> None:
    """The part of one expert that each GPU [G] serves."""
    gpus, nodes = len(on), len(size)
    here = np.zeros(nodes, np.int64)
    first = np.zeros(nodes, np.int64)
    replicas = 0
    for g in range(gpus):
        if on[g]:
            if here[node[g]] == 0:
                first[node[g]] = g
            here[node[g]] += 1
            replicas += 1
    anywhere = 0
    for n in range(nodes):
        if not 0 < here[n] < replicas:
            anywhere += size[n] - here[n]
    for g in range(gpus):
        share[g] = 0.0
        if on[g]:
            share[g] = (1.0 + anywhere / replicas) / gpus
            n = node[g]
            if here[n] < replicas and first[n] == g:
                share[g] += (size[n] - here[n]) / gpus


@compiled
def _anneal(plan: Any, was: Any, load: Any, slowness: Any, node: Any, size: Any, steps: int, seed: Any, move_cost: float) -> None:
    """Anneal each layer in place; was bool [L, G, E], load float64 [L, E, W] in units of the mean GPU load."""
    state = np.empty(1, np.uint64)
    for layer in range(len(plan)):
        state[0] = mix64(seed * GOLDEN + np.uint64(layer))
        slots = plan[layer].reshape(was.shape[1], -1)
        _anneal_layer(slots, was[layer], load[layer], slowness, node, size, steps, state, move_cost)


@compiled
def _anneal_layer(
    slots: Any, was: Any, load: Any, slowness: Any, node: Any, size: Any, steps: int, state: Any, move_cost: float
) -> None:
    gpus, windows = len(slots), load.shape[1]
    on = np.zeros((load.shape[0], gpus), np.bool_)
    for g in range(gpus):
        for e in slots[g]:
            on[e, g] = True
    share = np.zeros(on.shape)
    gpu = np.zeros((gpus, windows))
    for e in range(len(on)):
        _serve(on[e], node, size, share[e])
        _carry(gpu, load[e], share[e], on[e], slowness, 1.0)
    after, shares = np.empty((gpus, windows)), np.empty((2, gpus))
    level = _fullest(gpu)
    cost, best, kept = 0.0, 0.0, slots.copy()
    temperature, cooling = HOT * max(level - 1.0, 0.0), (COLD / HOT) ** (1.0 / max(steps, 1))
    for _ in range(steps):
        temperature *= cooling
        a, i, b, j = propose(gpu, slots.shape[1], state)
        e, f = slots[a, i], slots[b, j]
        if on[e, b] or on[f, a]:
            continue
        after[:] = gpu
        _carry(after, load[e], share[e], on[e], slowness, -1.0)
        _carry(after, load[f], share[f], on[f], slowness, -1.0)
        on[e, a], on[f, b], on[f, a], on[e, b] = False, False, True, True
        _serve(on[e], node, size, shares[0])
        _serve(on[f], node, size, shares[1])
        _carry(after, load[e], shares[0], on[e], slowness, 1.0)
        _carry(after, load[f], shares[1], on[f], slowness, 1.0)
        then = _fullest(after)
        moved = np.int64(was[a, e]) + np.int64(was[b, f]) - np.int64(was[b, e]) - np.int64(was[a, f])
        rise = then - level + move_cost * moved
        if rise > 0.0 and rise > -temperature * np.log((below(word(state), DRAWS) + 1.0) / DRAWS):
            on[e, a], on[f, b], on[f, a], on[e, b] = True, True, False, False
            continue
        cost += rise
        level = then
        gpu[:] = after
        share[e], share[f] = shares[0], shares[1]
        slots[a, i], slots[b, j] = f, e
        if cost < best - LEAST_GAIN:
            best = cost
            copy_slots(slots, kept)
    copy_slots(kept, slots)


@compiled
def _carry(gpu: Any, load: Any, share: Any, on: Any, slowness: Any, sign: float) -> None:
    """Add to the GPUs [G, W] what they serve of an expert's load [W]."""
    for g in range(len(on)):
        if on[g]:
            part = sign * share[g] * slowness[g]
            for w in range(len(load)):
                gpu[g, w] += part * load[w]


@compiled
def _fullest(gpu: Any) -> float:
    """Mean over scenarios of the fullest GPU."""
    total = 0.0
    for w in range(gpu.shape[1]):
        peak = gpu[0, w]
        for g in range(1, len(gpu)):
            peak = max(peak, gpu[g, w])
        total += peak
    return float(total / gpu.shape[1])
