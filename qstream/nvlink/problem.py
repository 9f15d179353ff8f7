"""The placement of ranks as arrays: what is given, checked once; its cost, its bound, and the order that engines begin with.

Letters: n ranks, k blocks (sets of GPUs without difference among them: racks, hosts, or single GPUs), e entries of traffic.
A cost is in bytes times the price of a byte: in us/KB, the unit of distances made from GB/s, 1e-3 of it is us.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import array, real_number, whole_number
from qstream.errors import ProblemError
from schemas.wording import Shown, must_be

MAX_RANKS: Final = 65_536
MAX_BLOCKS: Final = 4_096
_TRIED: Final = 100_000  # nodes of the search for any order that fits


@dataclass(frozen=True, slots=True, eq=False)
class RankProblem:
    """Minimise sum bytes x distance(block of src, block of dst) + move_cost x moved ranks.

    `src`, `dst` int64 [e] and `nbytes` float64 [e], of different ranks; `capacity` int64 [k]; `distance` float64 [k, k]; `pin`
    int32 [n] the block of a rank or -1; `group` int64 [n] the atomic group of each rank, numbered by first ranks, where a rank
    alone is one; `current` int32 [n] or None.
    """

    src: NDArray[np.int64]
    dst: NDArray[np.int64]
    nbytes: NDArray[np.float64]
    capacity: NDArray[np.int64]
    distance: NDArray[np.float64]
    pin: NDArray[np.int32]
    group: NDArray[np.int64]
    current: NDArray[np.int32] | None
    move_cost: float

    @property
    def ranks(self) -> int:
        """How many there are."""
        return len(self.pin)

    def cost(self, block: NDArray[np.int32]) -> float:
        """The objective of blocks [n]."""
        at = block.take(self.src).astype(np.int64)
        at *= len(self.capacity)
        at += block.take(self.dst)
        cost = float(self.nbytes @ self.distance.ravel().take(at))
        if self.current is not None and self.move_cost:
            cost += self.move_cost * int(np.count_nonzero(block != self.current))
        return cost

    def holds(self, block: NDArray[np.int32]) -> bool:
        """Whether blocks [n] keep capacities, pins and atomic groups."""
        if block.min() < 0 or (np.bincount(block, minlength=len(self.capacity)) > self.capacity).any():
            return False
        if (block[self.pin >= 0] != self.pin[self.pin >= 0]).any():
            return False
        of_group = np.zeros(int(self.group.max()) + 1, np.int32)
        of_group[self.group] = block
        return bool((of_group[self.group] == block).all())

    def bound(self) -> float:
        """A cost that no placement falls below: each rank with its heaviest neighbours at the nearest distances."""
        n = self.ranks
        near = np.minimum(self.distance, self.distance.T)
        nearest = np.full(n - 1, np.inf)
        for block in np.flatnonzero(self.capacity):
            order = np.argsort(near[block], kind="stable")
            slots = self.capacity[order] - (order == block)  # the rank itself takes one
            np.minimum(nearest, np.repeat(near[block, order], slots)[: n - 1], out=nearest)
        key = np.concatenate([self.src * n + self.dst, self.dst * n + self.src])
        pair, inverse = np.unique(key, return_inverse=True)
        weight = np.bincount(inverse, np.tile(self.nbytes, 2), len(pair))
        rank = pair // n
        heavy = np.lexsort((-weight, rank))
        rank, weight = rank[heavy], weight[heavy]
        place = np.arange(len(rank)) - np.searchsorted(rank, rank)
        return float(weight @ nearest[place]) / 2 if len(pair) else 0.0


def rank_problem(
    src: ArrayLike,
    dst: ArrayLike,
    nbytes: ArrayLike,
    capacity: ArrayLike,
    distance: ArrayLike,
    *,
    ranks: int | None,
    atomic: Iterable[Iterable[int]],
    pins: Mapping[int, int] | None,
    current: ArrayLike | None,
    move_cost: float,
) -> RankProblem:
    """Check what is given; arguments and errors as in `place_ranks`."""
    given_src, given_dst = array("src", src, np.int64, "entries"), array("dst", dst, np.int64, "entries")
    sizes = array("nbytes", nbytes, np.float64, "entries")
    for name, values in (("dst", given_dst), ("nbytes", sizes)):
        if len(values) != len(given_src):
            raise ProblemError(must_be(name, f"as long as src, {len(given_src)}", Shown(f"{len(values)} entries")))
    not_negative("nbytes", sizes)
    room = array("capacity", capacity, np.int64, "blocks")
    k = len(room)
    if not 1 <= k <= MAX_BLOCKS or room.min() < 0:
        raise ProblemError(must_be("capacity", f"1 to {MAX_BLOCKS} whole numbers >= 0", Shown(f"{room.tolist()}")))
    apart = array("distance", distance, np.float64, "blocks blocks")
    if apart.shape != (k, k):
        raise ProblemError(must_be("distance", f"[{k}, {k}], a row and a column for each block", Shown(f"shape {apart.shape}")))
    not_negative("distance", apart)
    now = None if current is None else array("current", current, np.int32, "ranks")
    seen = int(max(given_src.max(), given_dst.max())) + 1 if len(given_src) else 0
    n = whole_number("ranks", (seen if now is None else len(now)) if ranks is None else ranks, 1, MAX_RANKS)
    for name, values in (("src", given_src), ("dst", given_dst)):
        if len(values) and not 0 <= values.min() <= values.max() < n:
            raise ProblemError(must_be(name, f"ranks from 0 to {n - 1}", Shown(f"{values.min()} to {values.max()}")))
    if now is not None and (len(now) != n or now.min() < -1 or now.max() >= k):
        raise ProblemError(must_be("current", f"{n} blocks from 0 to {k - 1}, or -1 for none", Shown(f"{now.tolist()}")))
    if room.sum() < n:
        raise ProblemError(must_be("capacity", f"at least the {n} ranks together", Shown(f"room for {room.sum()}")))
    group = _groups(atomic, n)
    pin = _pins(pins, group, n, k)
    apart_ranks = given_src != given_dst
    return RankProblem(
        given_src[apart_ranks],
        given_dst[apart_ranks],
        sizes[apart_ranks],
        room,
        apart,
        pin,
        group,
        now,
        real_number("move_cost", move_cost, 0, 1e300),
    )


def in_order(problem: RankProblem) -> NDArray[np.int32]:
    """The linear order int32 [n]: ranks, or atomic groups, one after the other into the first block with room, after the pinned.

    Where that leaves a group without a block, larger groups go first, and come back as often as they must.

    Raises
    ------
    ProblemError
        No order was found in which pinned ranks and atomic groups fit.
    """
    if problem.group[-1] == problem.ranks - 1 and (problem.pin < 0).all():
        return np.repeat(np.arange(len(problem.capacity), dtype=np.int32), problem.capacity)[: problem.ranks]
    size = np.bincount(problem.group)
    block = np.full(len(size), -1, np.int64)
    block[problem.group] = problem.pin
    room = problem.capacity - np.bincount(block[block >= 0], size[block >= 0], len(problem.capacity)).astype(np.int64)
    if (room < 0).any():
        at = int(np.argmax(room < 0))
        raise ProblemError(must_be("pins", f"at most {problem.capacity[at]} ranks in block {at}", Shown(f"{-room[at]} more")))
    free = np.flatnonzero(block < 0)
    found = _first_fit(size, free, room)
    if found is None:
        found = _any_fit(size, free[np.argsort(-size[free], kind="stable")], room)
    if found is None:
        largest = int(size[free].max())
        raise ProblemError(must_be("atomic", "groups that fit into the blocks", Shown(f"{largest} ranks in the largest")))
    block[list(found)] = list(found.values())
    return block[problem.group].astype(np.int32)


def not_negative(name: str, values: NDArray[np.float64]) -> None:
    """`ProblemError` unless all are finite and >= 0."""
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = ", ".join(map(str, at))
        raise ProblemError(must_be(f"{name}[{where}]", "finite and >= 0", Shown(f"{values[at]}")))


def _first_fit(size: NDArray[np.int64], units: NDArray[np.int64], room: NDArray[np.int64]) -> dict[int, int] | None:
    left, found = room.copy(), {}
    for unit in units.tolist():
        fits = left >= size[unit]
        at = int(fits.argmax())
        if not fits[at]:
            return None
        left[at] -= size[unit]
        found[unit] = at
    return found


def _any_fit(size: NDArray[np.int64], units: NDArray[np.int64], room: NDArray[np.int64]) -> dict[int, int] | None:
    """Depth-first, each unit into the tightest block first, blocks of equal room once."""
    left, sizes, tried = room.tolist(), size[units].tolist(), 0
    chosen: list[int] = []
    options = [_rooms(left, sizes[0])]
    while options:
        if not options[-1]:
            options.pop()
            if chosen:
                left[chosen[-1]] += sizes[len(chosen) - 1]
                chosen.pop()
            continue
        at = options[-1].pop()
        left[at] -= sizes[len(chosen)]
        chosen.append(at)
        tried += 1
        if len(chosen) == len(sizes):
            return dict(zip(units.tolist(), chosen, strict=True))
        if tried > _TRIED:
            return None
        options.append(_rooms(left, sizes[len(chosen)]))
    return None


def _rooms(left: list[int], need: int) -> list[int]:
    """Blocks with room, the tightest last; of those with equal room one."""
    return sorted({room: at for at, room in enumerate(left) if room >= need}.values(), key=lambda at: -left[at])


def _groups(atomic: Iterable[Iterable[int]], n: int) -> NDArray[np.int64]:
    """The group of each rank, numbered in the order of first ranks."""
    label = np.arange(n)
    taken = np.zeros(n, np.bool_)
    for number, members in enumerate(atomic):
        ranks = np.array([whole_number(f"atomic[{number}]", rank, 0, n - 1) for rank in members], np.int64)
        if len(np.unique(ranks)) < len(ranks) or taken[ranks].any():
            raise ProblemError(must_be(f"atomic[{number}]", "ranks that are in no group yet", ranks.tolist()))
        taken[ranks] = True
        label[ranks] = ranks.min() if len(ranks) else 0
    return np.unique(label, return_inverse=True)[1].astype(np.int64)


def _pins(pins: Mapping[int, int] | None, group: NDArray[np.int64], n: int, k: int) -> NDArray[np.int32]:
    """The block of each rank that is pinned, or is in a group with one that is; else -1."""
    of_group = np.full(int(group.max()) + 1, -1, np.int32)
    for rank, block in (pins or {}).items():
        at = whole_number(f"pins[{rank}]", block, 0, k - 1)
        members = group[whole_number("a pinned rank", rank, 0, n - 1)]
        if of_group[members] not in (-1, at):
            raise ProblemError(must_be(f"pins[{rank}]", f"{of_group[members]}, as of its atomic group", at))
        of_group[members] = at
    return of_group[group]
