"""A layer as items in bins, what such a partition costs, and one window of it: exact costs, and an Ising model for a circuit.

Items are slots on GPUs, or experts on nodes. Further letters than in `problem`: I items, B bins, n free items of a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.ising import IsingProblem
from qstream.quantum.qaoa.fixed_weight import weight_spins

# Price of the squared difference of two nodes' loads, in parts of all co-activations: of .02 to .5 the one whose windows gained
# most of what enumeration gains on recorded routing.
_UNEVEN: Final = 0.05


@dataclass(frozen=True, slots=True)
class Prices:
    """What a partition pays: `traffic` for all co-activations between bins together, `balance` for the fullest bin, `over` for
    each unit of load above `limit`. Loads are in units of the mean bin."""

    traffic: float = 0.0
    balance: float = 0.0
    over: float = 0.0
    limit: float = math.inf


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """One layer. `kind` is the expert of an item: no bin takes one that it holds.

    Parameters
    ----------
    bin_of : int64 [I]
    kind : int64 [I]
    load : float64 [I, W]
        In each scenario, in units of the mean bin.
    weights : float64 [W]
        Of the scenarios, sum 1.
    share : float64 [B]
        Of the load that a bin should carry, mean 1.
    group : int64 [B]
        Items change bins within a group only.
    together : float64 [I, I], optional
        Co-activations as parts of those of all pairs: symmetric, diagonal 0.
    unary : float64 [I, B]
        What an item costs in a bin, as the move that brings it there.
    """

    bin_of: NDArray[np.int64]
    kind: NDArray[np.int64]
    load: NDArray[np.float64]
    weights: NDArray[np.float64]
    share: NDArray[np.float64]
    group: NDArray[np.int64]
    together: NDArray[np.float64] | None
    unary: NDArray[np.float64]
    prices: Prices

    def levels(self) -> NDArray[np.float64]:
        """Load over share, float64 [B, W]."""
        carried = np.zeros((len(self.share), self.load.shape[1]))
        np.add.at(carried, self.bin_of, self.load)
        return carried / self.share[:, None]

    def objective(self) -> float:
        """What windows lower: traffic between bins, the mean over scenarios of the fullest bin, load above limits, and moves."""
        prices, levels = self.prices, self.levels()
        above = np.maximum(levels - prices.limit, 0.0).sum(0)
        cost = float(self.weights @ (prices.balance * levels.max(0) + prices.over * above))
        cost += float(self.unary[np.arange(len(self.bin_of)), self.bin_of].sum())
        if self.together is not None:
            cost += prices.traffic * float(np.triu(self.together * (self.bin_of[:, None] != self.bin_of), 1).sum())
        return cost

    def free(self, a: int, b: int) -> NDArray[np.intp]:
        """Items of the bins a and b that may change places: those whose expert is not twice in the two."""
        inside = np.flatnonzero((self.bin_of == a) | (self.bin_of == b))
        kind = self.kind[inside]
        alone: NDArray[np.intp] = inside[np.bincount(kind)[kind] == 1]
        return alone


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Free items of the bins a (spin +1) and b (-1), all others fixed; `weight` items stay in b.

    `pair` [n, n] upper triangular and `field` [n] are the costs of traffic and moves in spins, `fixed` [2, W] and `load` [n, W]
    the loads of what stays in a and b and of the items, `rest` [W] the fullest of the other bins over its share.
    """

    bins: tuple[int, int]
    items: NDArray[np.intp]
    spins: NDArray[np.int8]
    pair: NDArray[np.float64]
    field: NDArray[np.float64]
    load: NDArray[np.float64]
    fixed: NDArray[np.float64]
    rest: NDArray[np.float64]
    share: tuple[float, float]
    weights: NDArray[np.float64]
    prices: Prices

    @property
    def weight(self) -> int:
        return int(np.count_nonzero(self.spins < 0))

    def costs(self, spins: NDArray[np.int8]) -> NDArray[np.float64]:
        """The partition's objective [S] for spins [S, n], less what no spin changes."""
        s = spins.astype(np.float64)
        first = (self.fixed[0] + 0.5 * (1.0 + s) @ self.load) / self.share[0]
        second = (self.fixed[1] + 0.5 * (1.0 - s) @ self.load) / self.share[1]
        prices = self.prices
        cost: NDArray[np.float64] = s @ self.field + np.einsum("si,si->s", s @ self.pair, s)
        if prices.balance:
            cost += prices.balance * (np.maximum(np.maximum(first, second), self.rest) @ self.weights)
        if prices.over:
            above = np.maximum(first - prices.limit, 0.0) + np.maximum(second - prices.limit, 0.0)
            cost += prices.over * (above @ self.weights)
        return cost

    def ising(self) -> IsingProblem:
        """Traffic and moves, and for the loads of the two bins the square of their difference, mean over scenarios.

        ``J_ij = -W_ij / (2 W_all) + 2 rho <w_i, w_j>``: experts used together attract, experts hot at the same time repel.
        Over the solutions of this window's weight the energies have mean 0 and deviation 1, so that angles transfer.
        """
        a, b = self.share
        moved = self.load * (0.5 / a + 0.5 / b)
        gap = self.fixed[0] / a - self.fixed[1] / b + self.load.sum(0) * (0.5 / a - 0.5 / b)
        now = gap + self.spins @ moved
        # Near the incumbent the square costs what the fuller of the two bins has above their mean.
        rho = self.prices.traffic * _UNEVEN + self.prices.balance * 0.5 / max(math.sqrt(float(self.weights @ now**2)), 1e-9)
        weighted = rho * self.weights * moved
        pair = self.pair + np.triu(2.0 * weighted @ moved.T, 1)
        field = self.field + 2.0 * weighted @ gap
        s = weight_spins(len(self.items), self.weight).astype(np.float64)
        energies = s @ field + np.einsum("si,si->s", s @ pair, s)
        mean, deviation = float(energies.mean()), float(energies.std())
        # All solutions are equal up to rounding: energies of 0.
        scale = 1.0 / deviation if deviation > 1e-12 * max(1.0, float(np.abs(energies).max())) else 0.0
        return IsingProblem(len(self.items), scale * pair, scale * field, -scale * mean)


def window_of(partition: Partition, bins: tuple[int, int], items: NDArray[np.intp], levels: NDArray[np.float64]) -> Window:
    """The window of these items, all in one of the two bins, and of kinds that `Partition.free` allows.

    `levels` are those of the partition.
    """
    a, b = bins
    spins = np.where(partition.bin_of[items] == a, 1, -1).astype(np.int8)
    load = partition.load[items]
    carried = levels[[a, b]] * partition.share[[a, b], None]
    fixed = carried - np.stack([load[spins > 0].sum(0), load[spins < 0].sum(0)])
    others = np.delete(levels, (a, b), axis=0)
    rest = others.max(0, initial=0.0)
    field = 0.5 * (partition.unary[items, a] - partition.unary[items, b])
    pair = np.zeros((len(items), len(items)))
    if partition.together is not None:
        inside = partition.together[items]
        stays = np.ones(len(partition.bin_of), np.bool_)
        stays[items] = False
        with_a, with_b = (inside[:, stays & (partition.bin_of == side)].sum(1) for side in (a, b))
        field -= 0.5 * partition.prices.traffic * (with_a - with_b)
        pair = -0.5 * partition.prices.traffic * np.triu(inside[:, items], 1)
    return Window(
        bins,
        items,
        spins,
        pair,
        field,
        load,
        fixed,
        rest,
        (float(partition.share[a]), float(partition.share[b])),
        partition.weights,
        partition.prices,
    )


def moved(partition: Partition, window: Window, spins: NDArray[np.int8]) -> Partition:
    """The partition with the window's items where `spins` [n] put them."""
    bin_of = partition.bin_of.copy()
    bin_of[window.items] = np.where(spins > 0, *window.bins)
    return replace(partition, bin_of=bin_of)
