"""Dispatch shares: which part of an expert's tokens each of its replicas serves, so that the fullest GPU is light."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array
from qstream.errors import ProblemError
from qstream.kernels import compiled
from qstream.routing.problem import capacities, check_load, plan_array
from schemas.experts import ExpertTopology
from schemas.wording import Shown, must_be

_GAP = 1e-3  # a layer is done when its fullest GPU is proven to be within this part of the optimum
_SWEEPS = 4096  # most sweeps a layer; nearly all stop at the first or second certificate
_LEAST = 1e-300  # a dead GPU is empty: 0 / _LEAST is level 0
_CHECK = 4  # sweeps between two certificates


def dispatch_shares(
    load: NDArray[np.float64],
    physical_to_logical: NDArray[np.int32],
    topology: ExpertTopology,
    start: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Split each expert's tokens over its replicas so that the fullest GPU is as light as possible for its capacity.

    Minimises, layer by layer, max over GPUs of (tokens / gpu_capacity). Gauss-Seidel over experts: each pours its tokens
    into its emptiest GPUs (water-filling), which descends sum of tokens**2 / capacity and so tends to the lexicographic
    optimum. A layer ends when its fullest GPU is within 0.1 % of a lower bound: a set of GPUs must at least serve the
    experts that live nowhere else. Weights stay where they are. Source: the linear program of DeepSeek LPLB (2025).

    Parameters
    ----------
    load : float64 [L, E]
        Tokens of each expert in the queue or the newest window, finite and >= 0. Old averages win nothing.
    physical_to_logical : int32 [L, P]
        May hold an expert twice on a GPU: the slots share that GPU's part evenly.
    topology : ExpertTopology
        Its GPUs and `gpu_capacity`; a GPU of capacity 0 serves nothing.
    start : float32 [L, P], optional
        Shares to begin with, as of the batch before, finite and >= 0; even by default.

    Returns
    -------
    shares : float32 [L, P]
        >= 0; those of one expert sum to 1. Even for an expert without tokens.

    Raises
    ------
    ProblemError
        Shapes disagree, a value is out of range, or an expert with tokens is on no GPU with capacity.

    >>> one = ExpertTopology(num_layers=1, num_logical_experts=2, num_gpus=2, slots_per_gpu=2)
    >>> dispatch_shares(np.array([[60.0, 20.0]]), np.array([[0, 1, 0, 1]]), one).reshape(2, 2).sum(0)
    array([1., 1.], dtype=float32)
    """
    tokens = array("load", load, np.float64, "L E")
    shares: NDArray[np.float32] = _solved(tokens[None], physical_to_logical, topology, start)[0]
    return shares


def shares_of_each(
    loads: NDArray[np.float64], physical_to_logical: NDArray[np.int32], topology: ExpertTopology
) -> NDArray[np.float32]:
    """`dispatch_shares` of several loads [K, L, E] on one placement, at less than K times the cost: float32 [K, L, P]."""
    return _solved(array("loads", loads, np.float64, "K L E"), physical_to_logical, topology, None)


def _solved(
    tokens: NDArray[np.float64],
    physical_to_logical: NDArray[np.int32],
    topology: ExpertTopology,
    start: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    check_load("load", tokens)
    _, layers, experts = tokens.shape
    gpus = topology.num_gpus
    plan = plan_array("physical_to_logical", physical_to_logical, experts, gpus)
    if len(plan) != layers:
        raise ProblemError(must_be("physical_to_logical", f"{layers} layers, as in load", Shown(f"{len(plan)} layers")))
    given = array("start", np.ones(plan.shape, np.float32) if start is None else start, np.float32, "L P")
    if given.shape != plan.shape:
        raise ProblemError(must_be("start", f"{plan.shape}, the shape of physical_to_logical", Shown(f"shape {given.shape}")))
    check_load("start", given)
    shares = np.empty((len(tokens), *plan.shape), np.float32)
    bad = _share_layers(tokens, plan, array("gpu_capacity", capacities(topology), np.float64, "G"), given, shares)
    if bad >= 0:
        which, layer, expert = np.unravel_index(int(bad), tokens.shape)
        found = Shown(f"{tokens[which, layer, expert]} tokens of expert {expert} in layer {layer}")
        raise ProblemError(must_be("load", "0 for an expert that is on no GPU with capacity > 0", found))
    return shares


@compiled
def _share_layers(load: Any, plan: Any, capacity: Any, start: Any, shares: Any) -> Any:
    """Fill `shares` [K, L, P]; return the index in `load` [K, L, E], flat, of an expert that has tokens and no GPU, or -1."""
    loads, layers, experts = load.shape
    for layer in range(layers):
        first, gpu, parts_of = _pools(plan[layer], experts, capacity)
        for k in range(loads):
            for e in range(experts):
                if first[e] == first[e + 1] and load[k, layer, e] > 0.0:
                    return (k * layers + layer) * experts + e
            poured = _pour_start(load[k, layer], plan[layer], first, parts_of, start[layer])
            _fill(load[k, layer], first, gpu, capacity, poured)
            _read_shares(load[k, layer], plan[layer], first, parts_of, poured, shares[k, layer])
    return -1


@compiled
def _pools(row: Any, experts: int, capacity: Any) -> Any:
    """The GPUs with capacity that hold expert e, each once: gpu[first[e] : first[e + 1]]; parts_of[p] is slot p in it, or -1."""
    room = len(row) // len(capacity)
    by_expert = _sorted_slots(row, experts)
    first = np.zeros(experts + 1, np.int64)
    gpu = np.empty(len(row), np.int64)
    parts_of = np.full(len(row), -1, np.int64)
    parts, last_expert, last_gpu = 0, -1, -1
    for p in by_expert:
        e, g = row[p], p // room
        if capacity[g] == 0.0:
            continue
        if e != last_expert or g != last_gpu:
            gpu[parts] = g
            parts += 1
            first[e + 1] = parts
            last_expert, last_gpu = e, g
        parts_of[p] = parts - 1
    for e in range(experts):
        first[e + 1] = max(first[e + 1], first[e])
    return first, gpu, parts_of


@compiled
def _sorted_slots(row: Any, experts: int) -> Any:
    """The slots ordered by their expert, those of one expert rising, so that its GPUs stand side by side; by counting."""
    place = np.zeros(experts + 1, np.int64)
    for e in row:
        place[e + 1] += 1
    for e in range(experts):
        place[e + 1] += place[e]
    order = np.empty(len(row), np.int64)
    for p in range(len(row)):
        order[place[row[p]]] = p
        place[row[p]] += 1
    return order


@compiled
def _pour_start(load: Any, row: Any, first: Any, parts_of: Any, start: Any) -> Any:
    """Tokens of each part under the shares of the start; even where these are all 0."""
    poured = np.zeros(len(row))
    for p in range(len(row)):
        if parts_of[p] >= 0:
            poured[parts_of[p]] += start[p]
    for e in range(len(load)):
        total = poured[first[e] : first[e + 1]].sum()
        for i in range(first[e], first[e + 1]):
            poured[i] = load[e] * poured[i] / total if total > 0.0 else load[e] / (first[e + 1] - first[e])
    return poured


@compiled
def _fill(load: Any, first: Any, gpu: Any, capacity: Any, poured: Any) -> None:
    """Water-fill the experts that have a choice, in turn and back, until the certificate holds."""
    full, level, order = np.zeros(len(capacity)), np.empty(len(capacity)), np.arange(len(capacity))
    for i in range(first[-1]):
        full[gpu[i]] += poured[i]
    free = [e for e in range(len(load)) if first[e + 1] - first[e] > 1 and load[e] > 0.0]
    for sweep in range(_SWEEPS):
        if sweep % _CHECK == 0:
            for g in range(len(level)):
                level[g] = full[g] / max(capacity[g], _LEAST)
            _sort_fullest(level, order)
            if level[order[0]] <= (1.0 + _GAP) * _bound(load, first, gpu, capacity, order):
                break
        for step in range(len(free)):
            e = free[step] if sweep % 2 == 0 else free[len(free) - 1 - step]
            _pour(load[e], first[e], first[e + 1], gpu, capacity, poured, full)


@compiled
def _sort_fullest(level: Any, order: Any) -> None:
    """Sort `order`, the GPUs, by level, the fullest first, equal ones by number: by Shell, as NumPy's sorts compile slowly."""
    gap = len(order) // 2
    while gap > 0:
        for i in range(gap, len(order)):
            g, at = order[i], i
            while at >= gap:
                other = order[at - gap]
                if level[other] > level[g] or (level[other] == level[g] and other < g):
                    break
                order[at] = other
                at -= gap
            order[at] = g
        gap //= 2


@compiled
def _pour(tokens: float, begin: int, end: int, gpu: Any, capacity: Any, poured: Any, full: Any) -> None:
    """Take one expert's tokens out and fill its GPUs to one level; GPUs above it get none (Michelot 1986)."""
    for i in range(begin, end):
        full[gpu[i]] -= poured[i]
    level, filling = np.inf, end - begin + 1
    while True:
        volume, width, below_level = tokens, 0.0, 0
        for i in range(begin, end):
            g = gpu[i]
            if full[g] < level * capacity[g]:
                volume += full[g]
                width += capacity[g]
                below_level += 1
        if not 0 < below_level < filling:
            break
        filling, level = below_level, volume / width
    total = 0.0
    for i in range(begin, end):
        poured[i] = max(0.0, level * capacity[gpu[i]] - full[gpu[i]])
        total += poured[i]
    for i in range(begin, end):
        poured[i] = poured[i] * (tokens / total) if total > 0.0 else tokens / (end - begin)  # so few that rounding ate them
        full[gpu[i]] += poured[i]


@compiled
def _bound(load: Any, first: Any, gpu: Any, capacity: Any, order: Any) -> float:
    """Best lower bound on the fullest level: tokens that the k fullest GPUs alone can serve, over their capacity, any k."""
    rank = np.empty(len(order), np.int64)
    for k in range(len(order)):
        rank[order[k]] = k
    inside = np.zeros(len(order))
    for e in range(len(load)):
        last = 0
        for i in range(first[e], first[e + 1]):
            last = max(last, rank[gpu[i]])
        inside[last] += load[e]
    best, tokens, width = 0.0, 0.0, 0.0
    for k in range(len(order)):
        tokens += inside[k]
        width += capacity[order[k]]
        if width > 0.0:
            best = max(best, tokens / width)
    return best


@compiled
def _read_shares(load: Any, row: Any, first: Any, parts_of: Any, poured: Any, shares: Any) -> None:
    slots_of = np.zeros(len(load))
    sharing = np.zeros(len(row))
    for p in range(len(row)):
        slots_of[row[p]] += 1.0
        if parts_of[p] >= 0:
            sharing[parts_of[p]] += 1.0
    for p in range(len(row)):
        e, part = row[p], parts_of[p]
        if first[e] == first[e + 1]:
            shares[p] = 1.0 / slots_of[e]  # on dead GPUs only, and without tokens
        elif part < 0:
            shares[p] = 0.0
        elif load[e] > 0.0:
            shares[p] = poured[part] / load[e] / sharing[part]
        else:
            alive = 0.0
            for i in range(first[e], first[e + 1]):
                alive += sharing[i]
            shares[p] = 1.0 / alive
