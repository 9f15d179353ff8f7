"""Growth of a placement from its frontier: blocks are filled one after the other, each with what talks most to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qstream.kernels import compiled


@compiled
def grow(
    first: NDArray[np.int64],
    neighbour: NDArray[np.int32],
    weight: NDArray[np.float64],
    size: NDArray[np.int64],
    capacity: NDArray[np.int64],
    order: NDArray[np.int64],
    start: int,
    loyalty: float,
    block: NDArray[np.int32],
) -> int:
    """Place every unit whose `block` [u] is -1, in place, and return how many found no room.

    A block begins with the free unit that has most traffic to all that is placed, the very first one with `start`, and takes
    those with most traffic to the block plus `loyalty` of that to all that is placed, of those that still fit. To grow from the
    frontier leaves no scattered rest. O(units^2 + edges).

    Parameters
    ----------
    first, neighbour, weight
        The symmetric traffic of units, by rows: those of unit u are ``first[u]`` to ``first[u + 1]``.
    size : int64 [u]
        Ranks in each unit.
    capacity : int64 [k]
        Ranks that each block takes.
    order : int64 [k]
        Blocks in the order in which they are filled.
    """
    n = len(size)
    to_all, to_block, room = np.zeros(n), np.zeros(n), capacity.copy()
    free = np.empty(n, np.int32)
    left = 0
    for u in range(n):
        if block[u] < 0:
            free[left] = u
            left += 1
        else:
            room[block[u]] -= size[u]
            for e in range(first[u], first[u + 1]):
                to_all[neighbour[e]] += weight[e]
    begun = left < n
    for b in order:
        for u in range(n):
            to_block[u] = 0.0
        empty = True
        if room[b] < capacity[b]:
            for u in range(n):
                if block[u] == b:
                    empty = False
                    for e in range(first[u], first[u + 1]):
                        to_block[neighbour[e]] += weight[e]
        while left > 0 and room[b] > 0:
            at, most = -1, -1.0
            for i in range(left):
                u = free[i]
                if size[u] <= room[b]:
                    score = to_all[u] if empty else to_block[u] + loyalty * to_all[u]
                    if not begun and u == start:
                        score = np.inf
                    if score > most or (score == most and u < free[at]):
                        at, most = i, score
            if at < 0:
                break
            u = free[at]
            left -= 1
            free[at] = free[left]
            block[u] = b
            room[b] -= size[u]
            empty, begun = False, True
            for e in range(first[u], first[u + 1]):
                to_all[neighbour[e]] += weight[e]
                to_block[neighbour[e]] += weight[e]
    return left
