"""From the plan in force to the next one: fewest moves by renaming GPUs and slots, and the moves in the order of their worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array
from qstream.errors import ProblemError
from qstream.kernels import compiled
from qstream.routing.problem import plan_array
from qstream.routing.score import gpu_loads, holds
from schemas.wording import Shown, must_be

_CELLS_AT_ONCE: Final = 1 << 22  # moves times GPUs, of which sources are looked for together


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """Experts to load, best first; columns of equal length M.

    Attributes
    ----------
    layer, expert, src_gpu, dst_gpu : int32 [M]
        src_gpu held the expert in the plan before; -1 if no GPU did.
    gain_per_byte : float64 [M]
        Tokens a byte: what the fullest GPU of the layer loses, shared evenly by the layer's moves (they only pay together),
        over the bytes of an expert.
    """

    layer: NDArray[np.int32]
    expert: NDArray[np.int32]
    src_gpu: NDArray[np.int32]
    dst_gpu: NDArray[np.int32]
    gain_per_byte: NDArray[np.float64]


def align(previous: NDArray[np.int32], plan: NDArray[np.int32], num_gpus: int) -> NDArray[np.int32]:
    """Rename the GPUs of each layer of `plan`, and order their slots, so that the fewest experts move from `previous`.

    The loads of the GPUs are the same, only renamed; an expert that stays on a GPU stays in its slot. Fewest among all
    renamings (linear assignment on the overlaps, Kuhn 1955; O(L G^3)); equal ones keep the names of `plan`.

    Parameters
    ----------
    previous, plan : int32 [L, P]
    num_gpus : int

    Returns
    -------
    physical_to_logical : int32 [L, P]

    Raises
    ------
    ProblemError
        Shapes differ, P is not a multiple of G, or an expert is negative.
    """
    experts = _experts(previous, plan)
    old = plan_array("previous", previous, experts, num_gpus)
    new = plan_array("plan", plan, experts, num_gpus)
    if old.shape != new.shape:
        raise ProblemError(must_be("plan", f"{old.shape}, the shape of previous", Shown(f"shape {new.shape}")))
    was, on = (holds(p, experts, num_gpus).astype(np.float64) for p in (old, new))
    common = on @ was.transpose(0, 2, 1)
    worth = common * (num_gpus + 1) + np.eye(num_gpus)
    out = np.empty_like(new)
    _align(old, new, experts, -worth, out)
    return out


def moves(
    previous: NDArray[np.int32],
    plan: NDArray[np.int32],
    load: NDArray[np.float64],
    num_gpus: int,
    expert_bytes: int,
    node_of_gpu: NDArray[np.int32] | None = None,
) -> Moves:
    """Experts that some GPU must load to go from `previous` to `plan`, by falling gain per byte, then layer, then load.

    Parameters
    ----------
    previous, plan : int32 [L, P]
    load : float64 [L, E]
        Tokens of each expert, for which `plan` was made.
    num_gpus : int
    expert_bytes : int
        Weights of one expert of one layer, > 0.
    node_of_gpu : int32 [G], optional
        A source on the node of the target is preferred; then the lowest GPU.

    Raises
    ------
    ProblemError
        Shapes disagree or an argument is out of range.
    """
    if expert_bytes <= 0:
        raise ProblemError(must_be("expert_bytes", "> 0", expert_bytes))
    node = np.zeros(num_gpus, np.int32) if node_of_gpu is None else array("node_of_gpu", node_of_gpu, np.int32, "G")
    if len(node) != num_gpus:
        raise ProblemError(must_be("node_of_gpu", f"{num_gpus} values, one for each GPU", Shown(f"{len(node)} values")))
    fullest = [gpu_loads(p, load, num_gpus).max(1) for p in (previous, plan)]
    was, on = (holds(p, load.shape[1], num_gpus) for p in (previous, plan))
    layer, dst, expert = np.nonzero(on & ~was)
    gain = (fullest[0] - fullest[1]) / np.maximum(np.bincount(layer, minlength=len(load)), 1) / expert_bytes
    src = np.empty(len(layer), np.int64)
    step = max(1, _CELLS_AT_ONCE // num_gpus)
    for some in (slice(start, start + step) for start in range(0, len(layer), step)):
        distance = np.where(was[layer[some], :, expert[some]], (node != node[dst[some]][:, None]).astype(np.int8), 2)
        src[some] = np.where(distance.min(1) < 2, distance.argmin(1), -1)
    order = np.lexsort((-load[layer, expert], layer, -gain[layer]))
    return Moves(
        layer=layer[order].astype(np.int32),
        expert=expert[order].astype(np.int32),
        src_gpu=src[order].astype(np.int32),
        dst_gpu=dst[order].astype(np.int32),
        gain_per_byte=gain[layer][order],
    )


def _experts(*plans: NDArray[np.int32]) -> int:
    return 1 + max(int(plan.max(initial=0)) for plan in plans)


@compiled
def _align(old: Any, new: Any, experts: int, cost: Any, out: Any) -> None:
    layers, gpus = cost.shape[:2]
    for layer in range(layers):
        name = _assignment(cost[layer])
        before, after = old[layer].reshape(gpus, -1), new[layer].reshape(gpus, -1)
        named = out[layer].reshape(gpus, -1)
        pending = np.zeros(experts, np.int64)
        for g in range(gpus):
            row = named[name[g]]
            for e in after[g]:
                pending[e] += 1
            row[:] = -1
            for s, e in enumerate(before[name[g]]):
                if pending[e] > 0:
                    row[s] = e
                    pending[e] -= 1
            s = 0
            for e in after[g]:
                if pending[e] > 0:
                    pending[e] -= 1
                    while row[s] >= 0:
                        s += 1
                    row[s] = e


@compiled
def _assignment(cost: Any) -> Any:
    """Column of each row of a square cost matrix, with the least sum: Hungarian method with shortest augmenting paths."""
    n = len(cost)
    row_price, column_price = np.zeros(n + 1), np.zeros(n + 1)
    row_of = np.full(n + 1, -1)  # column n is the root of the search
    for row in range(n):
        row_of[n] = row
        column = n
        slack, parent, done = np.full(n, np.inf), np.full(n, n), np.zeros(n + 1, np.bool_)
        while row_of[column] >= 0:
            done[column] = True
            r, nearest = row_of[column], -1
            for c in range(n):
                if not done[c]:
                    gap = cost[r, c] - row_price[r] - column_price[c]
                    if gap < slack[c]:
                        slack[c], parent[c] = gap, column
                    if nearest < 0 or slack[c] < slack[nearest]:
                        nearest = c
            step = slack[nearest]
            for c in range(n + 1):
                if done[c]:
                    row_price[row_of[c]] += step
                    column_price[c] -= step
                elif c < n:
                    slack[c] -= step
            column = nearest
        while column != n:
            row_of[column] = row_of[parent[column]]
            column = parent[column]
    out = np.empty(n, np.int64)
    for c in range(n):
        out[row_of[c]] = c
    return out
