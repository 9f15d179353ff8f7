"""What dispatch shares gain, recounted from the published batches: on the tokens they were made of, and on those after them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qstream.routing.score import balancedness, gpu_loads
from schemas.experts import ExpertTopology
from schemas.shares import DispatchShares

Pair = tuple[float, float]  # balancedness split evenly, and by the shares


@dataclass(frozen=True, slots=True, eq=False)
class Recount:
    """Shares [L, P] and the tokens of each expert [L, E] that they were made of; `claimed` is what they say themselves."""

    version: int
    shares: NDArray[np.float32]
    counts: NDArray[np.float64]
    claimed: Pair

    def measured(self, placement: NDArray[np.int32], gpus: int) -> Pair:
        """Under the placement [L, P] that the shares are for."""
        return balancedness(placement, self.counts, gpus), balancedness(placement, self.counts, gpus, self.shares)


class SameTokens:
    """Finds the batches that shares were made of: they follow each other, and `gate_choices` says how many choices they have.

    `matched` counts the shares that were recounted. Where the published batches do not add up, nothing is from then on.
    """

    def __init__(self, topology: ExpertTopology) -> None:
        self.matched = 0
        self._lost = False
        self._shape = topology.num_layers, topology.num_logical_experts
        self._published: deque[tuple[int, NDArray[np.int64]]] = deque()

    def count(self, layer: int, counts: NDArray[np.int64]) -> None:
        """Note a published batch: its layer, and its gate choices by expert [E]."""
        self._published.append((layer, counts))

    def take(self, plan: DispatchShares) -> Recount | None:
        """Recount received shares; None if that cannot be done."""
        counts, left = np.zeros(self._shape), plan.gate_choices
        while not self._lost and left > 0 and self._published:
            layer, of_batch = self._published.popleft()
            counts[layer] += of_batch
            left -= int(of_batch.sum())
        self._lost |= left != 0
        if self._lost:
            return None
        self.matched += 1
        claimed = plan.score.balancedness_even, plan.score.balancedness
        return Recount(plan.placement_version, plan.shares, counts, claimed)


class NextTokens:
    """Serves each batch as an engine would, by the newest shares that came before it, and for comparison evenly.

    Shares hold for one placement; under another one the split is even until its own shares come. A stretch of tokens is
    scored when it is full; where the placement changes within it, it starts again.
    """

    def __init__(self, topology: ExpertTopology, stretch_tokens: int) -> None:
        self.scores: list[tuple[int, Pair]] = []  # placement version
        self._topology = topology
        self._token_layers = stretch_tokens * topology.num_layers
        self._version: int | None = None
        self._placement: NDArray[np.int32] | None = None
        self._newest: DispatchShares | None = None
        self._begin()

    def set_placement(self, version: int, placement: NDArray[np.int32]) -> None:
        """A placement [L, P] comes into force."""
        self._version, self._placement = version, placement
        self._begin()

    def take(self, plan: DispatchShares) -> None:
        """Shares come into force, once their placement is."""
        self._newest = plan

    def count(self, layer: int, counts: NDArray[np.int64], tokens: int) -> None:
        """Serve a batch."""
        if self._placement is None or self._version is None:
            return
        row, load = self._placement[layer : layer + 1], counts[None].astype(np.float64)
        newest = self._newest
        shares = None
        if newest is not None and newest.placement_version == self._version:
            shares = newest.shares[layer : layer + 1]
        self._even[layer] += gpu_loads(row, load, self._topology.num_gpus)[0]
        self._served[layer] += gpu_loads(row, load, self._topology.num_gpus, shares)[0]
        self._seen += tokens
        if self._seen >= self._token_layers:
            self.scores.append((self._version, (_balancedness(self._even), _balancedness(self._served))))
            self._begin()

    def _begin(self) -> None:
        self._even = np.zeros((self._topology.num_layers, self._topology.num_gpus))
        self._served = np.zeros_like(self._even)
        self._seen = 0


def _balancedness(loads: NDArray[np.float64]) -> float:
    """Of GPU loads [L, G], as `qstream.routing.score.balancedness`."""
    return float(loads.mean(1).sum() / loads.max(1).sum())
