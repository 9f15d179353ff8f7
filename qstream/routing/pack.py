"""The fast tier: longest-processing-time packing of replicas into equal slots, then exchanges at the fullest GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array
from qstream.errors import ProblemError
from qstream.kernels import compiled
from qstream.routing.problem import check_load, check_slots, plan_array, relative_capacity, slots_per_gpu
from qstream.routing.replicate import replica_counts
from qstream.routing.score import violations
from schemas.wording import Shown, must_be

_LEAST_GAIN = 1e-12  # of the fullest GPU: below it, an exchange is rounding noise


def place_window(
    load: NDArray[np.float64],
    num_gpus: int,
    slots: int,
    *,
    least: NDArray[np.int32] | None = None,
    capacity: NDArray[np.float64] | None = None,
) -> NDArray[np.int32]:
    """Replicate, pack and exchange: the plan for one window of `load` [L, E].

    `least` as in `replica_counts`, `capacity` as in `pack`.

    Returns
    -------
    physical_to_logical : int32 [L, P]
        Every expert present, none twice on a GPU.

    Raises
    ------
    ProblemError
        As in `replica_counts`.
    """
    counts = replica_counts(load, slots, num_gpus, least)
    return swap(pack(load, counts, num_gpus, capacity), load, num_gpus, capacity)


def pack(
    load: NDArray[np.float64],
    counts: NDArray[np.int32],
    num_gpus: int,
    capacity: NDArray[np.float64] | None = None,
) -> NDArray[np.int32]:
    """Put the replicas of each layer on GPUs, heaviest expert first, each on the lightest GPU that has room and not the expert.

    Always succeeds. When every GPU with room holds expert e already, take one of them, a, and the lightest GPU b without e.
    b is full, with S experts and no e; a has at most S - 1, one of them e: so at least two experts of b are not on a. The
    lightest of these goes to a, and e takes its slot. Source: LPT (Graham 1969) with equal cardinality; the exchange is ours.

    Parameters
    ----------
    load : float64 [L, E]
        Finite and >= 0.
    counts : int32 [L, E]
        Replicas, in 1..G, with the same sum P in each layer, a multiple of G.
    num_gpus : int
    capacity : float64 [G], optional
        Speed of each GPU, > 0, by which its load is divided; the same by default.

    Returns
    -------
    physical_to_logical : int32 [L, P]

    Raises
    ------
    ProblemError
        An argument breaks a rule above.
    """
    tokens = array("load", load, np.float64, "L E")
    check_load("load", tokens)
    replicas = array("counts", counts, np.int32, "L E")
    layers, experts = tokens.shape
    if replicas.shape != tokens.shape:
        raise ProblemError(must_be("counts", f"{tokens.shape}, the shape of load", Shown(f"shape {replicas.shape}")))
    if replicas.size and not 1 <= replicas.min() <= replicas.max() <= num_gpus:
        raise ProblemError(must_be("counts", f"1 to {num_gpus} GPUs", Shown(f"values from {replicas.min()} to {replicas.max()}")))
    sums = replicas.sum(1)
    slots = int(sums[0]) if layers else experts * num_gpus
    if (sums != slots).any():
        raise ProblemError(must_be("counts", "of equal sum in all layers", Shown(f"sums from {sums.min()} to {sums.max()}")))
    check_slots(experts, num_gpus, slots_per_gpu(slots, num_gpus))
    order = np.argsort(-(tokens / replicas), axis=1, kind="stable")
    plan = np.full((layers, slots), -1, np.int32)
    _pack(tokens / replicas, replicas, order, 1.0 / relative_capacity(capacity, num_gpus), plan)
    return plan


def swap(
    physical_to_logical: NDArray[np.int32],
    load: NDArray[np.float64],
    num_gpus: int,
    capacity: NDArray[np.float64] | None = None,
) -> NDArray[np.int32]:
    """Exchange a slot of the fullest GPU with a slot of another while that lowers the fuller of the two, best exchange first.

    Never worsens a layer. Ends, because the sorted GPU loads fall lexicographically. No exchange makes a duplicate.

    Parameters
    ----------
    physical_to_logical : int32 [L, P]
        A plan without violations.
    load : float64 [L, E]
        Finite and >= 0.
    num_gpus : int
    capacity : float64 [G], optional
        As in `pack`.

    Returns
    -------
    physical_to_logical : int32 [L, P]
        A new array; the number of replicas of each expert is kept.

    Raises
    ------
    ProblemError
        Shapes disagree, or the plan has a violation.
    """
    tokens = array("load", load, np.float64, "L E")
    check_load("load", tokens)
    plan = valid_plan("physical_to_logical", physical_to_logical, len(tokens), tokens.shape[1], num_gpus).copy()
    _swap(plan, tokens, 1.0 / relative_capacity(capacity, num_gpus))
    return plan


def valid_plan(field: str, physical_to_logical: NDArray[np.int32], layers: int, experts: int, num_gpus: int) -> NDArray[np.int32]:
    """Return a plan as int32 [L, P]; ProblemError unless it has L layers, every expert, and none twice on a GPU."""
    plan = plan_array(field, physical_to_logical, experts, num_gpus)
    if len(plan) != layers:
        raise ProblemError(must_be(field, f"{layers} layers", Shown(f"{len(plan)} layers")))
    if broken := violations(plan, experts, num_gpus):
        raise ProblemError(must_be(field, "a plan with each expert, none twice on a GPU", Shown(f"{broken} missing or twice")))
    return plan


@compiled
def _pack(replica: Any, counts: Any, order: Any, slowness: Any, plan: Any) -> None:
    layers, experts = replica.shape
    num_gpus = len(slowness)
    for layer in range(layers):
        slots = plan[layer].reshape(num_gpus, -1)
        load = np.zeros(num_gpus)
        fill = np.zeros(num_gpus, np.int64)
        on = np.zeros((experts, num_gpus), np.bool_)
        for e in order[layer]:
            for _ in range(counts[layer, e]):
                gpu = _lightest(load, replica[layer, e], slowness, fill, on[e], slots.shape[1])
                if gpu < 0:
                    gpu = _make_room(e, slots, replica[layer], load, fill, on)
                slots[gpu, fill[gpu]] = e
                fill[gpu] += 1
                load[gpu] += replica[layer, e]
                on[e, gpu] = True


@compiled
def _lightest(load: Any, more: float, slowness: Any, fill: Any, taken: Any, room: int) -> int:
    """GPU with a free slot that is not taken and would be least full with `more` load, or -1."""
    best, level = -1, 0.0
    for g in range(len(load)):
        if fill[g] < room and not taken[g]:
            filled = (load[g] + more) * slowness[g]
            if best < 0 or filled < level:
                best, level = g, filled
    return best


@compiled
def _make_room(e: int, slots: Any, replica: Any, load: Any, fill: Any, on: Any) -> int:
    """Free a slot on a full GPU without expert e by passing one of its experts to a GPU with room; return that GPU."""
    roomy, full = -1, -1
    for g in range(len(load)):
        if fill[g] < slots.shape[1]:
            if roomy < 0 or load[g] < load[roomy]:
                roomy = g
        elif not on[e, g] and (full < 0 or load[g] < load[full]):
            full = g
    pick = -1
    for s in range(slots.shape[1]):
        f = slots[full, s]
        if not on[f, roomy] and (pick < 0 or replica[f] < replica[slots[full, pick]]):
            pick = s
    f = slots[full, pick]
    slots[roomy, fill[roomy]] = f
    fill[roomy] += 1
    fill[full] -= 1
    slots[full, pick] = slots[full, fill[full]]
    on[f, roomy], on[f, full] = True, False
    load[roomy] += replica[f]
    load[full] -= replica[f]
    return full


@compiled
def _swap(plan: Any, tokens: Any, slowness: Any) -> None:
    layers, experts = tokens.shape
    num_gpus = len(slowness)
    for layer in range(layers):
        slots = plan[layer].reshape(num_gpus, -1)
        on = np.zeros((experts, num_gpus), np.bool_)
        count = np.zeros(experts)
        for g in range(num_gpus):
            for e in slots[g]:
                on[e, g] = True
                count[e] += 1.0
        replica, load = np.empty(experts), np.zeros(num_gpus)
        for e in range(experts):
            replica[e] = tokens[layer, e] / count[e]
        for g in range(num_gpus):
            for e in slots[g]:
                load[g] += replica[e]
        while True:
            full = 0
            for g in range(1, num_gpus):
                if load[g] * slowness[g] > load[full] * slowness[full]:
                    full = g
            i, other, j = _best_exchange(slots, replica, load, slowness, on, full)
            if other < 0:
                break
            e, f = slots[full, i], slots[other, j]
            slots[full, i], slots[other, j] = f, e
            on[e, full], on[f, other], on[f, full], on[e, other] = False, False, True, True
            load[full] += replica[f] - replica[e]
            load[other] += replica[e] - replica[f]


@compiled
def _best_exchange(slots: Any, replica: Any, load: Any, slowness: Any, on: Any, full: Any) -> Any:
    """Slots (i on the fullest GPU, j on `other`) whose exchange leaves the fuller of the two lightest; other = -1 if none."""
    best = load[full] * slowness[full] * (1.0 - _LEAST_GAIN)
    pick = (-1, -1, -1)
    for other in range(slots.shape[0]):
        if (load[full] + load[other]) / (1.0 / slowness[full] + 1.0 / slowness[other]) >= best:
            continue
        for i in range(slots.shape[1]):
            e = slots[full, i]
            if on[e, other]:
                continue
            for j in range(slots.shape[1]):
                f = slots[other, j]
                gap = replica[e] - replica[f]
                fuller = max((load[full] - gap) * slowness[full], (load[other] + gap) * slowness[other])
                if fuller < best and not on[f, full]:
                    best = fuller
                    pick = (i, other, j)
    return pick
