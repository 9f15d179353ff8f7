"""The placement problem of one model: arrays, rules, bounds, and the two forms of a plan.

Axis letters of this package: L layers, E logical experts, P physical slots, G GPUs, S slots per GPU (P = G * S; slot p is
on GPU p // S), N nodes, W windows, T tokens, K experts a token (top-k), X the most replicas that an expert has, M moves.

A plan is ``physical_to_logical`` int32 [L, P]: the expert in each slot. Its invariants: every expert has a slot, and no
GPU holds an expert twice (a second replica there would balance nothing). An expert's load is split evenly over its replicas.
Objective: the load of the fullest GPU of each layer, seen as balancedness = mean / max, each summed over layers first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array
from qstream.errors import ProblemError
from schemas.experts import ExpertTopology
from schemas.wording import Shown, must_be


def check_load(field: str, load: NDArray[np.float64]) -> None:
    """Raise ProblemError unless every value is finite and >= 0."""
    if load.size and not (load.min() >= 0 and load.max() < np.inf):  # a NaN fails both
        raise ProblemError(must_be(field, "finite and >= 0", Shown(f"values from {load.min()} to {load.max()}")))


def check_ids(field: str, ids: NDArray[np.integer[Any]], count: int, *, least: int = 0) -> None:
    """Raise ProblemError unless every value is in least..count-1."""
    if ids.size and not least <= ids.min() <= ids.max() < count:
        raise ProblemError(must_be(field, f"{least} to {count - 1}", Shown(f"values from {ids.min()} to {ids.max()}")))


def check_slots(experts: int, num_gpus: int, slots_per_gpu: int) -> None:
    """Raise ProblemError unless `experts` fit without a duplicate on a GPU: 1 <= E <= G * S and S <= E."""
    if experts < 1:
        raise ProblemError(must_be("load", "of at least one expert", Shown(f"{experts} experts")))
    if num_gpus < 1:
        raise ProblemError(must_be("num_gpus", ">= 1", num_gpus))
    if slots_per_gpu < 1:
        raise ProblemError(must_be("slots_per_gpu", ">= 1", slots_per_gpu))
    slots = num_gpus * slots_per_gpu
    if slots < experts:
        found = Shown(f"{slots_per_gpu} x {num_gpus} GPUs = {slots} slots")
        raise ProblemError(must_be("slots_per_gpu", f"enough for {experts} experts", found))
    if slots_per_gpu > experts:
        allowed = f"<= {experts} experts, or replicas would share a GPU"
        raise ProblemError(must_be("slots_per_gpu", allowed, slots_per_gpu))


def slots_per_gpu(slots: int, num_gpus: int) -> int:
    """S for P slots on G GPUs; ProblemError if P is not a multiple of G."""
    if num_gpus < 1 or slots % num_gpus:
        raise ProblemError(must_be("num_gpus", f">= 1 and a divisor of the {slots} slots", num_gpus))
    return slots // num_gpus


def plan_array(field: str, physical_to_logical: NDArray[np.int32], experts: int, num_gpus: int) -> NDArray[np.int32]:
    """Return a plan as int32 [L, P]; ProblemError unless P is a multiple of G and every expert is in 0..E-1."""
    plan: NDArray[np.int32] = array(field, physical_to_logical, np.int32, "L P")
    slots_per_gpu(plan.shape[1], num_gpus)
    check_ids(field, plan, experts)
    return plan


def numbered(plan: NDArray[np.int32], experts: int) -> tuple[NDArray[np.int32], int]:
    """A plan [L, P] whose empty slots, -1, hold an expert of their own behind the others; and how many experts that makes."""
    if plan.size and plan.min() == -1:
        return np.where(plan < 0, experts, plan).astype(np.int32), experts + 1
    return plan, experts


def replica_counts(physical_to_logical: NDArray[np.int32], experts: int) -> NDArray[np.int32]:
    """Replicas of each expert, int32 [L, E], of a plan [L, P]; `ProblemError` as in `logical_maps`."""
    plan, known = numbered(physical_to_logical, experts)
    plan = plan_array("physical_to_logical", plan, known, 1)
    return _counts(plan, known)[1].reshape(len(plan), known)[:, :experts].astype(np.int32)


def _counts(plan: NDArray[np.int32], experts: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each slot's expert, numbered through all layers, int64 [L * P], and the replicas of each, int64 [L * E]."""
    flat = (plan + np.arange(len(plan))[:, None] * experts).ravel()
    return flat, np.bincount(flat, minlength=len(plan) * experts)


def logical_maps(physical_to_logical: NDArray[np.int32], experts: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Turn a plan round: the slots of each expert.

    Parameters
    ----------
    physical_to_logical : int32 [L, P]
        -1 for an empty slot.
    experts : int
        E.

    Returns
    -------
    logical_to_physical : int32 [L, E, X]
        Slots of an expert in rising order, padded with -1.
    replica_count : int32 [L, E]

    Raises
    ------
    ProblemError
        An expert of the plan is not in -1..E-1.

    >>> logical_maps(np.array([[1, 0, 0]], np.int32), 2)[0].tolist()
    [[[1, 2], [0, -1]]]
    """
    plan, known = numbered(physical_to_logical, experts)
    plan = plan_array("physical_to_logical", plan, known, 1)
    layers, slots = plan.shape
    flat, counts = _counts(plan, known)
    order = np.argsort(flat, kind="stable")
    rank = np.arange(flat.size) - np.repeat(np.cumsum(counts) - counts, counts)
    logical = np.full((layers * known, int(counts.max(initial=0))), -1, np.int32)
    logical[flat[order], rank] = order % slots
    counts = counts.reshape(layers, known)[:, :experts]
    return logical.reshape(layers, known, -1)[:, :experts, : int(counts.max(initial=0))], counts.astype(np.int32)


def capacities(topology: ExpertTopology) -> NDArray[np.float64]:
    """Speed of each GPU, float64 [G]; 1 unless the topology says otherwise, 0 for one that serves nothing."""
    given = topology.gpu_capacity
    return np.ones(topology.num_gpus) if given is None else given.astype(np.float64)


def live_slots(topology: ExpertTopology) -> NDArray[np.int64]:
    """The slots of GPUs with capacity, in rising order."""
    return np.flatnonzero(np.repeat(capacities(topology) > 0, topology.slots_per_gpu))


def contiguous(topology: ExpertTopology) -> NDArray[np.int32]:
    """Slot p holds expert p % E: int32 [L, P], what an engine does without a plan.

    With GPUs that have no capacity, only the slots of the others count.
    """
    experts = topology.num_logical_experts
    row = np.arange(topology.num_slots, dtype=np.int32) % experts
    live = live_slots(topology)
    row[live] = np.arange(len(live)) % experts
    return np.tile(row, (topology.num_layers, 1))


def relative_capacity(capacity: NDArray[np.float64] | None, num_gpus: int) -> NDArray[np.float64]:
    """Capacity of each GPU with mean 1, float64 [G], all ones for None; ProblemError unless every value is finite and > 0."""
    if capacity is None:
        return np.ones(num_gpus)
    given = array("capacity", capacity, np.float64, "G")
    check_load("capacity", given)
    if len(given) != num_gpus or given.min(initial=1.0) == 0.0:
        raise ProblemError(must_be("capacity", f"{num_gpus} values > 0", given.tolist()))
    scaled: NDArray[np.float64] = given / given.mean()
    return scaled


def fullest_gpu_bound(load: NDArray[np.float64], counts: NDArray[np.int32], num_gpus: int) -> NDArray[np.float64]:
    """Lower bound float64 [L] on the load of the fullest GPU: the mean GPU, or the heaviest replica of load / counts [L, E]."""
    bound: NDArray[np.float64] = np.maximum(load.sum(1) / num_gpus, (load / counts).max(1))
    return bound
