"""Annealing of a placement by exchanges: two units change blocks, or one moves where there is room."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qstream.kernels import GOLDEN, below, compiled, mix64

_UNIT = 2.0**-53
_SHIFT = np.uint64(11)


@compiled
def anneal(
    first: NDArray[np.int64],
    neighbour: NDArray[np.int32],
    weight: NDArray[np.float64],
    size: NDArray[np.int64],
    fixed: NDArray[np.bool_],
    capacity: NDArray[np.int64],
    distance: NDArray[np.float64],
    price: NDArray[np.float64],
    block: NDArray[np.int32],
    steps: int,
    hot: float,
    cold: float,
    seed: np.uint64,
) -> None:
    """Exchange units between blocks, in place, while the temperature falls from `hot` to `cold` in `steps` proposals.

    Half of the target blocks are those of a neighbour. What each unit would cost in each block is kept up to date, so that a
    proposal takes O(1) and only an accepted one O(degree x blocks).

    Parameters
    ----------
    first, neighbour, weight, size, capacity
        As in `grow`; `distance` float64 [k, k] is symmetric.
    fixed : bool [u]
        Units that stay.
    price : float64 [u, k]
        What a unit costs in a block by itself; it is overwritten.
    hot, cold
        In the units of the objective, > 0.
    """
    n, k = len(size), len(capacity)
    start, count, room = np.zeros(k + 1, np.int64), np.zeros(k, np.int64), capacity.copy()
    for a in range(k):
        start[a + 1] = start[a] + capacity[a]
    at, where = np.empty(start[k], np.int32), np.zeros(n, np.int64)
    movable, free = np.empty(n, np.int32), 0
    for u in range(n):
        b = block[u]
        room[b] -= size[u]
        if not fixed[u]:
            movable[free] = u
            free += 1
            where[u] = start[b] + count[b]
            at[where[u]] = u
            count[b] += 1
        for e in range(first[u], first[u + 1]):
            of = block[neighbour[e]]
            for a in range(k):
                price[u, a] += weight[e] * distance[a, of]
    cooling = (cold / hot) ** (1.0 / max(steps, 1))
    temperature, state = hot, seed
    if free == 0:
        return
    for _ in range(steps):
        temperature *= cooling
        state += GOLDEN
        u = movable[below(mix64(state), free)]
        a, degree = block[u], first[u + 1] - first[u]
        state += GOLDEN
        drawn = mix64(state)
        if degree > 0 and drawn & np.uint64(1):
            b = block[neighbour[first[u] + below(drawn, degree)]]
        else:
            b = np.int32(below(drawn, k))
        if a == b:
            continue
        state += GOLDEN
        place = below(mix64(state), count[b] + (room[b] // size[u] if room[b] > 0 else 0) + (1 if count[b] == 0 else 0))
        v = at[start[b] + place] if place < count[b] else np.int32(-1)
        taken = size[v] if v >= 0 else 0
        if size[u] > room[b] + taken or taken > room[a] + size[u]:
            continue
        change = price[u, b] - price[u, a]
        if v >= 0:
            change += price[v, a] - price[v, b]
        state += GOLDEN
        limit = -temperature * np.log((np.float64(mix64(state) >> _SHIFT) + 1.0) * _UNIT)
        if change >= limit:
            continue
        if v >= 0:
            for e in range(first[u], first[u + 1]):
                if neighbour[e] == v:
                    change += weight[e] * (2.0 * distance[a, b] - distance[a, a] - distance[b, b])
            if change >= limit:
                continue
        for e in range(first[u], first[u + 1]):
            for c in range(k):
                price[neighbour[e], c] += weight[e] * (distance[c, b] - distance[c, a])
        block[u] = b
        room[a] += size[u] - taken
        room[b] += taken - size[u]
        if v >= 0:
            for e in range(first[v], first[v + 1]):
                for c in range(k):
                    price[neighbour[e], c] += weight[e] * (distance[c, a] - distance[c, b])
            block[v] = a
            at[where[u]], at[where[v]] = v, u
            where[u], where[v] = where[v], where[u]
        else:
            count[a] -= 1
            last = at[start[a] + count[a]]
            at[where[u]], where[last] = last, where[u]
            where[u] = start[b] + count[b]
            at[where[u]] = u
            count[b] += 1
