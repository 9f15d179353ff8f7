"""From an engine's map to the next one: experts keep their GPUs, and groups their nodes, while that costs little balance."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.routing.empty import filled
from qstream.routing.placement import PlaceOptions, placement_problem, solve
from schemas.experts import ExpertTopology

MOVE_COST: Final = 0.001  # of the mean GPU load, that one moved expert must save
_STEPS: Final = 2000  # of annealing a layer, shared by its nodes; more win nothing, for the search begins at the old map
_WHOLE: Final = 1 << 30  # the largest load after scaling, of loads that are not whole


def next_map(
    load: NDArray[np.float64], old: NDArray[np.integer[Any]], slots: int, groups: int, nodes: int, gpus: int
) -> NDArray[np.int64] | None:
    """The next map int64 [L, slots] near the map in force, as an engine has it; None if nothing of that can be kept.

    As `with_few_moves`, but GPUs may have come or gone at the end of `old`, which may name experts that are none.
    """
    layers, experts = load.shape
    if old.ndim != 2 or len(old) != layers or slots > experts * gpus:
        return None
    before = np.full((layers, slots), -1, np.int64)
    width = min(slots, old.shape[1])
    before[:, :width] = old[:, :width]
    return with_few_moves(load, np.where(before < experts, before, -1), groups, nodes, gpus)


def with_few_moves(load: NDArray[np.float64], old: NDArray[np.int64], groups: int, nodes: int, gpus: int) -> NDArray[np.int64]:
    """The next map int64 [L, P]: every expert has a slot, no GPU holds one twice, and few differ from `old`.

    Groups of experts stay on one node where `rebalance_experts` keeps them there.

    Parameters
    ----------
    load : float64 [L, E]
        Tokens of each expert, finite and >= 0.
    old : int64 [L, P]
        The expert in each slot, -1 for a slot without one. P is a multiple of `gpus`, E <= P <= E * `gpus`.
    groups, nodes, gpus : int
        As in `rebalance_experts`.
    """
    experts, per_gpu = load.shape[1], old.shape[1] // gpus
    if not len(load):
        return old
    if nodes > 1 and groups % nodes == 0 and gpus % nodes == 0 and per_gpu <= experts // nodes:
        return _by_node(load, old, groups, nodes, gpus)
    return _placed(load, old, gpus, MOVE_COST, _STEPS)


def _placed(load: NDArray[np.float64], old: NDArray[np.int64], gpus: int, move_cost: float, steps: int) -> NDArray[np.int64]:
    layers, experts = load.shape
    topology = ExpertTopology(num_layers=layers, num_logical_experts=experts, num_gpus=gpus, slots_per_gpu=old.shape[1] // gpus)
    problem = placement_problem(
        _counts(load)[None],
        topology,
        labels=None,
        queued=None,
        previous=_completed(load, old, gpus).astype(np.int32),
        move_cost=move_cost,
        options=PlaceOptions(steps=steps),
        seed=0,
    )
    return solve(problem).physical_to_logical.astype(np.int64)


def _by_node(load: NDArray[np.float64], old: NDArray[np.int64], groups: int, nodes: int, gpus: int) -> NDArray[np.int64]:
    """Groups to nodes, near where they are; then the experts of each node to its GPUs."""
    layers, experts = load.shape
    size, width = experts // groups, old.shape[1] // nodes
    group_cost = MOVE_COST * old.shape[1] / groups  # with a group, all its slots move
    homes, group_load = _homes(old, groups, size, nodes), load.reshape(layers, groups, size).sum(2)
    group = _placed(group_load, homes, nodes, group_cost, _STEPS // nodes)
    out = np.empty_like(old)
    for node, rows in enumerate(np.split(group, nodes, axis=1)):
        member = (rows[:, :, None] * size + np.arange(size)).reshape(layers, -1)
        number = np.full((layers, experts), -1, np.int64)  # of an expert within its node
        np.put_along_axis(number, member, np.arange(member.shape[1])[None], 1)
        part = slice(node * width, (node + 1) * width)
        was = np.where(old[:, part] >= 0, np.take_along_axis(number, np.maximum(old[:, part], 0), 1), -1)
        inner = _placed(np.take_along_axis(load, member, 1), was, gpus // nodes, MOVE_COST, _STEPS // nodes)
        out[:, part] = np.take_along_axis(member, inner, 1)
    return out


def _homes(old: NDArray[np.int64], groups: int, size: int, nodes: int) -> NDArray[np.int64]:
    """The groups on each node, int64 [L, groups]: each where most of it is, as far as there is room."""
    out = np.full((len(old), nodes, groups // nodes), -1, np.int64)
    node = np.arange(old.shape[1]) * nodes // old.shape[1]
    for row, home in zip(old, out, strict=True):
        held = row >= 0
        common = np.zeros((groups, nodes), np.int64)
        np.add.at(common, (row[held] // size, node[held]), 1)
        placed, room = np.zeros(groups, np.bool_), np.zeros(nodes, np.int64)
        for cell in np.argsort(-common, axis=None, kind="stable").tolist():
            group, at = divmod(cell, nodes)
            if not placed[group] and room[at] < groups // nodes:
                home[at, room[at]] = group
                placed[group] = True
                room[at] += 1
    return out.reshape(len(old), groups)


def _completed(load: NDArray[np.float64], old: NDArray[np.int64], gpus: int) -> NDArray[np.int64]:
    """The map with an expert in each slot, and each expert in one: absent ones first, then the heaviest replicas."""
    out = filled(load, old, gpus)
    for row, weight in zip(out, load, strict=True):
        count = np.bincount(row, minlength=load.shape[1])
        for expert in np.flatnonzero(count == 0):
            slot = np.where(count[row] > 1, weight[row] / count[row], np.inf).argmin()
            count[row[slot]] -= 1
            row[slot], count[expert] = expert, 1
    return out


def _counts(load: NDArray[np.float64]) -> NDArray[np.int64]:
    """Loads as whole numbers."""
    if load.max() < _WHOLE and not (load % 1).any():
        return load.astype(np.int64)
    return np.rint(load * (_WHOLE / max(float(load.max()), 1e-300))).astype(np.int64)
