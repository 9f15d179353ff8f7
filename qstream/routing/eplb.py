"""A drop-in for DeepSeek's EPLB: the same call and maps, by the published algorithm or by ours without duplicates on a GPU."""

from __future__ import annotations

import sys
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array
from qstream.errors import ProblemError
from qstream.kernels import compiled
from qstream.routing.pack import pack, place_window, swap
from qstream.routing.problem import check_load
from schemas.wording import must_be

Algorithm = Literal["default", "eplb"]
Maps = tuple[NDArray[np.int64], NDArray[np.int64]]


def rebalance_experts(
    weight: Any, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int, algorithm: Algorithm = "default"
) -> tuple[Any, Any, Any]:
    """Place the replicas of all layers, as ``eplb.rebalance_experts`` does.

    Groups of experts stay on one node where `num_groups` is a multiple of `num_nodes` (hierarchical), else every GPU may hold
    every expert (global). ``"eplb"`` repeats the published algorithm, identical up to ties: the published code sorts unstably,
    here ties go to the lower index. ``"default"`` packs with `place_window`: no GPU holds an expert twice, the fullest GPU is
    lighter, and GPUs need not divide among the nodes (it is global then, and where a node has too few experts to fill a GPU).
    Where a GPU has more slots than there are experts, duplicates are unavoidable, and both are the published algorithm.

    Parameters
    ----------
    weight : float or int [L, E], NumPy array or torch tensor
        Tokens of each expert, finite and >= 0.
    num_replicas : int
        P >= E, a multiple of `num_gpus`.
    num_groups : int
        Groups of equal size, in order; divides E where groups are used (hierarchical).
    num_nodes, num_gpus : int
        N and G.
    algorithm : {"default", "eplb"}

    Returns
    -------
    physical_to_logical : int64 [L, P]
    logical_to_physical : int64 [L, E, X]
        Slots of an expert, padded with -1.
    replica_count : int64 [L, E]
        All of the kind of `weight`; tensors are on the CPU.

    Raises
    ------
    ProblemError
        An argument breaks a rule above; with ``"eplb"``, `num_gpus` is not a multiple of `num_nodes` in the hierarchical case.

    References
    ----------
    DeepSeek EPLB (2025).
    """
    torch = sys.modules.get("torch")
    is_tensor = torch is not None and isinstance(weight, torch.Tensor)
    load = array("weight", weight.detach().cpu().double().numpy() if is_tensor else weight, np.float64, "L E")
    check_load("weight", load)
    _check_counts(load.shape[1], num_replicas, num_groups, num_nodes, num_gpus)
    if num_groups % num_nodes:
        num_groups = num_nodes = 1
    if load.shape[1] % num_groups:
        raise ProblemError(must_be("num_groups", f"a divisor of the {load.shape[1]} experts", num_groups))
    if algorithm == "default" and num_replicas > num_gpus * load.shape[1]:
        algorithm = "eplb"
        if num_gpus % num_nodes:
            num_groups = num_nodes = 1
    if not len(load):
        plan = rank = np.empty((0, num_replicas), np.int64)
    elif algorithm == "eplb":
        plan, rank = _published(load.astype(np.float32), num_replicas, num_groups, num_nodes, num_gpus)
    elif algorithm == "default":
        plan, rank = _ours(load, num_replicas, num_groups, num_nodes, num_gpus)
    else:
        raise ProblemError(must_be("algorithm", "'default' or 'eplb'", algorithm))
    maps = plan, *_turned(plan, rank, load.shape[1])
    return tuple(torch.from_numpy(m) for m in maps) if is_tensor else maps  # type: ignore[union-attr]


def _check_counts(experts: int, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int) -> None:
    for field, value in (("num_groups", num_groups), ("num_nodes", num_nodes), ("num_gpus", num_gpus)):
        if value < 1:
            raise ProblemError(must_be(field, ">= 1", value))
    if experts < 1 or num_replicas < experts or num_replicas % num_gpus:
        allowed = f">= {experts} experts and a multiple of {num_gpus} GPUs"
        raise ProblemError(must_be("num_replicas", allowed, num_replicas))


def _published(load: NDArray[np.float32], slots: int, groups: int, nodes: int, gpus: int) -> Maps:
    """Groups to nodes, replicas within a node, replicas to its GPUs; all in float32, whose rounding decides ties."""
    if gpus % nodes:
        raise ProblemError(must_be("num_gpus", f"a multiple of {nodes} nodes for algorithm 'eplb' with groups", gpus))
    layers, experts = load.shape
    group_load = load.reshape(layers, groups, -1).sum(2)
    node, place_in_node = _equal_packs(group_load, nodes)
    per_node, per_gpu = experts // nodes, slots // gpus
    first = (node * (groups // nodes) + place_in_node) * (experts // groups)
    member = np.argsort((first[:, :, None] + np.arange(experts // groups)).reshape(layers, experts), axis=1)
    local = np.take_along_axis(load, member, 1).reshape(layers * nodes, per_node)
    copy_of, rank, count = _copies(local, slots // nodes)
    copy_load: NDArray[np.float32] = (local / count).astype(np.float32)
    gpu, place_in_gpu = _equal_packs(np.take_along_axis(copy_load, copy_of, 1), gpus // nodes)
    slot = np.argsort(gpu * per_gpu + place_in_gpu, axis=1)
    expert = np.take_along_axis(copy_of, slot, 1).reshape(layers, nodes, -1) + np.arange(0, experts, per_node)[:, None]
    plan = np.take_along_axis(member, expert.reshape(layers, slots), 1)
    return plan, np.take_along_axis(rank, slot, 1).reshape(layers, slots)


def _equal_packs(load: NDArray[np.float32], packs: int) -> Maps:
    """Pack and place within it of each item [X, n]: heaviest first, to the lightest pack with room."""
    rows, items = load.shape
    if items == packs:
        return np.tile(np.arange(items), (rows, 1)), np.zeros((rows, items), np.int64)
    pack_of, place_in = np.empty((rows, items), np.int64), np.empty((rows, items), np.int64)
    _fill(load, np.argsort(-load, axis=1, kind="stable"), packs, pack_of, place_in)
    return pack_of, place_in


@compiled
def _fill(load: Any, order: Any, packs: int, pack_of: Any, place_in: Any) -> None:
    rows, items = load.shape
    for row in range(rows):
        total = np.zeros(packs, np.float32)
        held = np.zeros(packs, np.int64)
        for item in order[row]:
            best = -1
            for p in range(packs):
                if held[p] < items // packs and (best < 0 or total[p] < total[best]):
                    best = p
            pack_of[row, item], place_in[row, item] = best, held[best]
            total[best] += load[row, item]
            held[best] += 1


def _copies(load: NDArray[np.float32], slots: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Expert and number of each copy [X, slots], copies of each expert [X, n]; the next copy is of the heaviest."""
    rows, experts = load.shape
    expert, rank = np.zeros((rows, slots), np.int64), np.zeros((rows, slots), np.int64)
    expert[:, :experts] = np.arange(experts)
    count = np.ones((rows, experts), np.int64)
    every = np.arange(rows)
    for slot in range(experts, slots):
        heaviest = (load / count.astype(np.float32)).argmax(1)
        expert[:, slot], rank[:, slot] = heaviest, count[every, heaviest]
        count[every, heaviest] += 1
    return expert, rank, count


def _ours(load: NDArray[np.float64], slots: int, groups: int, nodes: int, gpus: int) -> Maps:
    grouped = nodes > 1 and gpus % nodes == 0 and slots // gpus <= load.shape[1] // nodes
    placed = _place_groups(load, slots, groups, nodes, gpus) if grouped else place_window(load, gpus, slots)
    plan = placed.astype(np.int64)
    order = np.argsort(plan, axis=1, kind="stable")
    in_order = np.take_along_axis(plan, order, 1)
    rank = np.empty_like(plan)
    for layer, row in enumerate(in_order):
        rank[layer, order[layer]] = np.arange(slots) - np.searchsorted(row, row)
    return plan, rank


def _place_groups(load: NDArray[np.float64], slots: int, groups: int, nodes: int, gpus: int) -> NDArray[np.int64]:
    """Groups to nodes, then the experts of each node to its GPUs."""
    layers, experts = load.shape
    group_load = load.reshape(layers, groups, -1).sum(2)
    group = swap(pack(group_load, np.ones((layers, groups), np.int32), nodes), group_load, nodes)
    size = experts // groups
    member = (group[:, :, None].astype(np.int64) * size + np.arange(size)).reshape(layers * nodes, -1)
    local = np.take_along_axis(np.repeat(load, nodes, axis=0), member, 1)
    inner = place_window(local, gpus // nodes, slots // nodes).astype(np.int64)
    return np.take_along_axis(member, inner, 1).reshape(layers, slots)


def _turned(plan: NDArray[np.int64], rank: NDArray[np.int64], experts: int) -> Maps:
    """Slots of each expert by number of the copy, [L, E, X] with -1 for none, and copies of each expert."""
    layers, slots = plan.shape
    logical = np.full((layers, experts, int(rank.max(initial=-1)) + 1), -1, np.int64)
    logical[np.arange(layers)[:, None], plan, rank] = np.arange(slots)
    return logical, (logical >= 0).sum(2)
