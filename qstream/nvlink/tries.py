"""Tries: layouts of a job drawn, ranked by their bound and by what a model says of contention, and the first ones simulated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qstream.nvlink.contention import ContentionModel, rank_layouts
from qstream.nvlink.fluid import drain
from qstream.nvlink.layouts import Layout, bound_s, layout_features

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]
HASHES: Final = 4  # ways in which flows may fall on spines, of which the mean counts
MERGE: Final = 0.005


class Tried(NamedTuple):
    """Layouts that were simulated: `at` are their numbers, the best first, and `time_us` the ends of their last flows."""

    at: list[int]
    time_us: Floats

    def gain(self, at: int, over: int) -> float:
        """Part of the time of a layout which another saves; all of it where only the first never ends."""
        after, before = (float(self.time_us[self.at.index(each)]) for each in (at, over))
        return 1 - after / before if before > 0 and after < np.inf else 0.0

    def worth(self, known: Sequence[int], min_gain: float) -> int:
        """The fastest layout, if it is one of those `known` or saves `min_gain` of the time of the first of them; else the
        fastest of those known."""
        best = self.at[0]
        if best in known or self.gain(best, known[0]) >= min_gain:
            return best
        return next(at for at in self.at if at in known)


def draw(block_of_rank: Ints, room: NDArray[np.int64], fixed: Sequence[int], count: int, seed: int) -> list[Ints]:
    """Layouts [ranks] of blocks, at most `count`, the given one first: its slices moved to other blocks that have room.

    The ranks that share a block stay together, and those in blocks of `fixed`, where some are pinned, stay where they are.
    """
    home, of_rank, size = np.unique(block_of_rank, return_inverse=True, return_counts=True)
    rng = np.random.default_rng(seed)
    movable = ~np.isin(home, fixed)
    found, seen = [block_of_rank], {home.tobytes()}
    for _ in range(4 * count):
        if len(found) >= count:
            break
        left, to = room.copy(), home.copy()
        left[home[~movable]] = 0
        for slice_ in rng.permutation(np.flatnonzero(movable)).tolist():
            fits = np.flatnonzero(left >= size[slice_])
            if not len(fits):
                break
            to[slice_] = rng.choice(fits)
            left[to[slice_]] = 0
        else:
            if to.tobytes() not in seen:
                seen.add(to.tobytes())
                found.append(to[of_rank].astype(np.int32))
    return found


def tried(
    layouts: Sequence[Layout], model: ContentionModel | None, top: int, *, always: Sequence[int], extra_us: Sequence[float]
) -> Tried:
    """Rank layouts and simulate the `top` first ones, besides those of `always`.

    They are ranked by the bound times 1 + half the probability of contention, without a `model` by the bound alone. `extra_us`
    is added to the time of each layout: what it costs to move there.
    """
    bounds = np.array([bound_s(layout) for layout in layouts])
    score = bounds
    if model is not None:
        score = rank_layouts(model, np.array([layout_features(*layout) for layout in layouts]), bounds)
    chosen = list(dict.fromkeys([*always, *np.argsort(score, kind="stable").tolist()]))[: max(top, len(always))]
    times = np.array([simulated_us(layouts[at]) + extra_us[at] for at in chosen])
    most = float(times[np.isfinite(times)].max(initial=0.0))
    order = np.argsort(np.round(times / most, 9) if most > 0 else times, kind="stable")  # rounding makes no layout faster
    return Tried([chosen[place] for place in order.tolist()], times[order])


def simulated_us(layout: Layout) -> float:
    """When the last flow ends, in us, if each takes one spine by hash and links are shared fairly: the mean of four hashes."""
    src, dst, size = (np.asarray(column) for column in layout[:3])
    if not len(src):
        return 0.0
    leaf, up, down = np.asarray(layout.leaf_of_node), np.asarray(layout.up_gb_s), np.asarray(layout.down_gb_s)
    nodes, (leaves, spines) = len(leaf), up.shape
    a, b = leaf[src], leaf[dst]
    cross = a != b
    ways = (up[a] > 0) & (down.T[b] > 0)
    count = ways.sum(axis=1)
    if (count[cross] == 0).any():
        return float("inf")
    nth = np.argsort(~ways, axis=1, kind="stable")  # the spines of a flow that work come first
    speed = np.concatenate([np.full(2 * nodes, layout.port_gb_s), up.ravel(), down.ravel()])
    first = np.concatenate([[0], np.cumsum(np.where(cross, 4, 2))])
    ends = []
    for turn in range(HASHES):
        spine = nth[np.arange(len(src)), _hash(src, dst, turn) % np.maximum(count, 1)]
        link = np.stack([src, nodes + dst, 2 * nodes + a * spines + spine, 2 * nodes + leaves * spines + spine * leaves + b], 1)
        kept = np.ones_like(link, dtype=bool)
        kept[~cross, 2:] = False
        ends.append(float(drain(first, link[kept], size, speed, merge=MERGE).max()))
    return float(np.mean(ends))


def _hash(src: NDArray[np.int64], dst: NDArray[np.int64], turn: int) -> NDArray[np.int64]:
    """Numbers of at least 0 that depend on all three (finaliser of splitmix64; Steele, Lea, Flood 2014)."""
    x = (src.astype(np.uint64) << np.uint64(32)) + dst.astype(np.uint64) + np.uint64((turn + 1) * 0x9E3779B97F4A7C15 % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)
