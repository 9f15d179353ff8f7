"""Units of a placement: ranks that stay together, contracted at falling thresholds of their traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.kernels import compiled

MOST_LEVELS: Final = 3  # coarse ones; the units themselves come on top


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """Units u, each some ranks, and the traffic between them, both directions added.

    ``first[u]`` to ``first[u + 1]`` are the entries of unit u in `neighbour` int32 and `weight` float64; `size` int64 [u] ranks;
    `inner` float64 [u] the traffic within; `pinned` int32 [u] its block, or -1; `of_rank` int64 [n] the unit of each rank.
    """

    first: NDArray[np.int64]
    neighbour: NDArray[np.int32]
    weight: NDArray[np.float64]
    size: NDArray[np.int64]
    inner: NDArray[np.float64]
    pinned: NDArray[np.int32]
    of_rank: NDArray[np.int64]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.size)

    def rows(self) -> NDArray[np.int64]:
        """The unit of each entry, int64 [entries]."""
        return np.repeat(np.arange(self.count), np.diff(self.first))


def units_of(
    src: NDArray[np.int64], dst: NDArray[np.int64], nbytes: NDArray[np.float64], pin: NDArray[np.int32], label: NDArray[np.int64]
) -> Units:
    """Units of traffic between ranks.

    Parameters
    ----------
    pin : int32 [n]
        The block of each rank, or -1; equal in a unit, or -1 for all but those of one block.
    label : int64 [n]
        The unit of each rank, 0 to units - 1.
    """
    count = int(label.max()) + 1
    a, b = label[src], label[dst]
    pinned = np.full(count, -1, np.int32)
    np.maximum.at(pinned, label, pin)
    crossing = a != b
    inner = np.bincount(a[~crossing], nbytes[~crossing], count).astype(np.float64)
    key = np.concatenate([a[crossing] * count + b[crossing], b[crossing] * count + a[crossing]])
    pair, at = np.unique(key, return_inverse=True)
    weight = np.bincount(at, np.tile(nbytes[crossing], 2), len(pair)).astype(np.float64)
    first = np.searchsorted(pair, np.arange(count + 1) * count)
    return Units(first, (pair % count).astype(np.int32), weight, np.bincount(label, minlength=count), inner, pinned, label)


def contracted(units: Units, label: NDArray[np.int64]) -> Units:
    """These units merged into larger ones by `label` int64 [u]."""
    count = int(label.max()) + 1
    a, b = label[units.rows()], label[units.neighbour]
    crossing = a != b
    inner = np.bincount(label, units.inner, count) + np.bincount(a[~crossing], units.weight[~crossing], count) / 2
    pair, at = np.unique(a[crossing] * count + b[crossing], return_inverse=True)
    weight = np.bincount(at, units.weight[crossing], len(pair)).astype(np.float64)
    pinned = np.full(count, -1, np.int32)
    np.maximum.at(pinned, label, units.pinned)
    size = np.bincount(label, units.size, count).astype(np.int64)
    first = np.searchsorted(pair, np.arange(count + 1) * count)
    return Units(first, (pair % count).astype(np.int32), weight, size, inner, pinned, label[units.of_rank])


def coarser(units: Units, limit: int) -> list[Units]:
    """Units merged where traffic is at least a threshold and no more than `limit` ranks come together; coarsest first.

    Each has at least 1.5 times as many units as the one before. Pinned units stay alone.
    """
    rows = units.rows()
    free = units.pinned < 0
    edge = np.flatnonzero((rows < units.neighbour) & free[rows] & free[units.neighbour])
    edge = edge[np.argsort(-units.weight[edge], kind="stable")]
    if not len(edge):
        return []
    falls = np.append(np.flatnonzero(np.diff(units.weight[edge]) < -1e-9 * units.weight[edge[:-1]]) + 1, len(edge))
    merged = merge(rows[edge], units.neighbour[edge], falls, units.size, limit)
    used = np.flatnonzero(merged >= 0)
    found: list[Units] = []
    remaining = units.count - len(used)
    for last in np.unique(merged[used])[::-1]:
        count = units.count - int(np.count_nonzero(merged[used] <= last))
        if found and count < 1.5 * remaining:
            continue
        keep = used[merged[used] <= last]
        found.append(contracted(units, _components(units.count, rows[edge[keep]], units.neighbour[edge[keep]])))
        remaining = count
        if len(found) == MOST_LEVELS:
            break
    return found


@compiled
def merge(
    a: NDArray[np.int64], b: NDArray[np.int32], falls: NDArray[np.int64], size: NDArray[np.int64], limit: int
) -> NDArray[np.int64]:
    """The number of the threshold at which each edge merges two components of at most `limit` ranks, or -1.

    Edges a, b [edges] come heaviest first; ``falls[t]`` is where those of threshold t end.
    """
    n = len(size)
    whole, part, total = np.arange(n), np.arange(n), size.copy()
    merged = np.full(len(a), -1)
    begin = 0
    for t in range(len(falls)):
        for e in range(begin, falls[t]):
            i, j = _root(whole, a[e]), _root(whole, b[e])
            if i != j:
                whole[i] = j
                total[j] += total[i]
        for e in range(begin, falls[t]):
            if total[_root(whole, a[e])] <= limit:
                i, j = _root(part, a[e]), _root(part, b[e])
                if i != j:
                    part[i] = j
                    merged[e] = t
        begin = falls[t]
    return merged


@compiled
def _root(parent: NDArray[np.int64], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def _components(n: int, a: NDArray[np.int64], b: NDArray[np.int32]) -> NDArray[np.int64]:
    """The number of the component of each of n nodes, in the order of their first nodes."""
    from scipy.sparse import coo_array  # noqa: PLC0415 - slow to import
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415 - as above

    _, label = connected_components(coo_array((np.ones(len(a), np.int8), (a, b)), (n, n)), directed=False)
    _, at, inverse = np.unique(label, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(at))[inverse].astype(np.int64)
