"""The best placement of a few units by enumeration with bounds: it proves the optimum."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.kernels import compiled

MOST_UNITS: Final = 8
MOST_NODES: Final = 1_000_000
_ROUNDING: Final = 1e-12


def enumerate_blocks(
    nbytes: NDArray[np.float64],
    size: NDArray[np.int64],
    pinned: NDArray[np.int32],
    capacity: NDArray[np.int64],
    distance: NDArray[np.float64],
    price: NDArray[np.float64],
    incumbent: NDArray[np.int32],
) -> tuple[NDArray[np.int32], bool]:
    """Blocks int32 [u] of the least cost, and whether that is proven; the incumbent where nothing is lower.

    Parameters
    ----------
    nbytes : float64 [u, u]
        Traffic from unit to unit; on the diagonal, within one.
    size : int64 [u]
        Ranks in each.
    pinned : int32 [u]
        The block of a unit, or -1.
    capacity, distance : [k], [k, k]
        Of the blocks; distances need not be symmetric.
    price : float64 [u, k]
        What a unit costs in a block by itself.
    incumbent : int32 [u]
        Blocks that are allowed.
    """
    heavy = np.argsort(-(nbytes.sum(0) + nbytes.sum(1)), kind="stable")
    best = incumbent[heavy]
    alone = price[heavy] + np.diag(nbytes)[heavy, None] * np.diag(distance)
    flow = nbytes[np.ix_(heavy, heavy)]
    proven = search(flow, size[heavy], pinned[heavy], capacity, distance, alone, best, MOST_NODES, _ROUNDING)
    found = np.empty_like(best)
    found[heavy] = best
    return found, bool(proven)


@compiled
def search(
    flow: NDArray[np.float64],
    size: NDArray[np.int64],
    pinned: NDArray[np.int32],
    capacity: NDArray[np.int64],
    distance: NDArray[np.float64],
    alone: NDArray[np.float64],
    best: NDArray[np.int32],
    most_nodes: int,
    rounding: float,
) -> bool:
    """Depth-first over units in their order; `best` is overwritten by what is better. False where nodes ran out.

    The bound of a node: what is placed, each other unit at its cheapest to what is placed, pairs of others at the least distance.
    """
    n, k = len(size), len(capacity)
    same = np.inf
    other = np.inf
    for a in range(k):
        for b in range(k):
            if a == b:
                if capacity[a] > 1:
                    same = min(same, distance[a, a])
            else:
                other = min(other, distance[a, b])
    least = min(same, other)
    rest = np.zeros(n + 1)  # pairs of the units from i on, at the least distance
    for i in range(n - 1, -1, -1):
        rest[i] = rest[i + 1]
        for j in range(i + 1, n):
            rest[i] += (flow[i, j] + flow[j, i]) * least
    to = np.zeros((n + 1, n, k))  # what a unit costs in a block, after so many were placed
    lowest = 0.0
    for i in range(n):
        lowest += alone[i, best[i]]
        for a in range(k):
            to[0, i, a] = alone[i, a]
        for j in range(n):
            if i != j:
                lowest += flow[i, j] * distance[best[i], best[j]]
    room, block, cost = capacity.copy(), np.full(n, -1, np.int64), np.zeros(n + 1)
    depth, nodes = 0, 0
    while depth >= 0:
        if block[depth] >= 0:
            room[block[depth]] += size[depth]
        block[depth] += 1
        a = block[depth]
        if a == k:
            block[depth] = -1
            depth -= 1
            continue
        if room[a] < size[depth] or (pinned[depth] >= 0 and pinned[depth] != a):
            room[a] -= size[depth]
            continue
        room[a] -= size[depth]
        nodes += 1
        if nodes > most_nodes:
            return False
        cost[depth + 1] = cost[depth] + to[depth, depth, a]
        bound = cost[depth + 1] + rest[depth + 1]
        for j in range(depth + 1, n):
            cheapest = np.inf
            for b in range(k):
                here = to[depth, j, b] + flow[depth, j] * distance[a, b] + flow[j, depth] * distance[b, a]
                to[depth + 1, j, b] = here
                if room[b] >= size[j] and here < cheapest:
                    cheapest = here
            bound += cheapest
        if bound >= lowest - rounding * abs(lowest):
            continue
        if depth == n - 1:
            lowest = cost[n]
            for i in range(n):
                best[i] = block[i]
            continue
        depth += 1
    return True
