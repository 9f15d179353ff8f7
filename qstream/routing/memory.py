"""Memory: what the module keeps of one model, and how a window of counts closes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qstream.arguments import read_only
from qstream.learn import calibration
from qstream.learn.calibration import CalibrationState
from qstream.learn.hedge import HedgeState
from qstream.learn.state import LearningState
from qstream.learn.window import (
    count_labels,
    demand,
    faded,
    known_labels,
    longest_queues,
    merged_labels,
    past_windows,
    with_rows,
    with_window,
)
from qstream.module.draft import Draft
from qstream.module.inforce import InForce
from qstream.module.planning import Planning
from qstream.routing import smoothing
from qstream.routing.problem import contiguous
from qstream.routing.promise import Promise
from qstream.routing.sample import add_pairs, empty_sample, faded_pairs, row_bytes, sample_tokens
from qstream.routing.smoothing import Smoothed
from schemas.experts import ExpertTopology
from schemas.frame import Axes, Count, Inner
from schemas.tokens import TokenBatch

REMEMBERED_WINDOWS: Final = 64
PAIR_WINDOWS: Final = 4  # over which co-activations fade
COUNTED_MAX: Final = 1 << 40  # tokens of an expert, at which counts stop: their sum over a model stays within int64
LABELLED_TOKENS: Final = 1 << 28  # times layers, of a window; a longer one counts no more labels, so that int32 holds them
LABEL_CHOICES: Final = 1 << 20  # of a label in a layer, above which its counts are halved: old ones fade
# Not strict: a tuple is stored as a list. Source and window id have up to 200 letters each.
WindowNames = Annotated[tuple[str, ...], Field(strict=False)]


class RoutingState(LearningState):
    """One model: its topology, a ring of window counts, the window that is filling, the placement in force.

    `in_force` has the versions of `placement`, and of `proposed`, which no consumer has acknowledged yet. `open_tokens` counts
    tokens times layers. `ring` holds the newest of the `closed` windows, as in `learn.window`. `seen_windows` are the newest
    load windows taken, as ``source/window_id``. `live_count` and `live_tokens` are what came since the last dispatch shares.
    `label_count` are gate choices by label, in the order of `label_names`; labels without a row of their own count as
    ``other``. `queued` are the tokens by label that wait for the next window. `sample` holds the experts of some of each
    layer's `sampled_of` tokens, as in `sample.py`; `pair_count` are co-activations that load windows brought.
    Learners are `shares`, which mixes looks at the `smoothed` loads, and `calibration`, which judges what was `promised` of a
    window.
    While `planning` is active, the ring is as it was when the plan was begun, and so are the fields named ``planning_``.
    """

    topology: Annotated[ExpertTopology, Inner()]
    in_force: InForce = Field(default=InForce(), strict=False)
    planning: Planning = Field(default=Planning(), strict=False)
    closed: int = Field(default=0, ge=0)
    open_tokens: int = Field(default=0, ge=0)
    seen_windows: WindowNames = Field(default=())
    ring: Annotated[NDArray[np.int32], Axes("windows", "layers", "experts")]
    open_count: Annotated[NDArray[np.int64], Axes("layers", "experts")]
    placement: Annotated[NDArray[np.int32], Axes("layers", "slots")]
    live_tokens: int = Field(default=0, ge=0)
    live_count: Annotated[NDArray[np.int64], Axes("layers", "experts")]
    proposed: Annotated[NDArray[np.int32], Axes("layers", "slots")] | None = None
    label_names: WindowNames = Field(default=())
    label_count: Annotated[NDArray[np.int32], Axes("layers", "labels", "experts")] | None = None
    queued: dict[str, Count] | None = Field(default=None)
    sample: Annotated[NDArray[np.uint8], Axes("layers", "sampled", "sample_bytes")] | None = None
    sampled_of: Annotated[NDArray[np.int64], Axes("layers")] | None = None
    pair_count: Annotated[NDArray[np.int32], Axes("layers", "experts", "experts")] | None = None
    shares: HedgeState
    smoothed: Smoothed | None = None
    calibration: CalibrationState
    promised: Promise | None = None
    planning_labels: Annotated[NDArray[np.int32], Axes("known", "layers", "experts")] | None = None
    planning_queued: Annotated[NDArray[np.int64], Axes("known")] | None = None
    planning_sample: Annotated[NDArray[np.uint8], Axes("layers", "planning_sampled", "planning_sample_bytes")] | None = None
    planning_sampled_of: Annotated[NDArray[np.int64], Axes("layers")] | None = None
    planning_pairs: Annotated[NDArray[np.int32], Axes("layers", "experts", "experts")] | None = None

    @classmethod
    def example(cls) -> Self:
        return cls(**dict(Memory.fresh(ExpertTopology.example(), windows=2).now))


class Memory(Draft[RoutingState]):
    """A model's state while records change it."""

    @classmethod
    def fresh(cls, topology: ExpertTopology, windows: int, version: int = 0) -> Self:
        """A model seen for the first time: contiguous placement, no history."""
        shape = topology.num_layers, topology.num_logical_experts
        state = RoutingState(
            topology=topology,
            in_force=InForce(version=version),
            ring=np.zeros((windows, *shape), np.int32),
            open_count=np.zeros(shape, np.int64),
            live_count=np.zeros(shape, np.int64),
            placement=contiguous(topology),
            shares=smoothing.start(),
            calibration=calibration.start(),
        )
        return cls(state)

    def add(self, counts: NDArray[np.int64], layer: int | None, token_layers: int) -> None:
        """Count tokens of one layer ([E]) or of all ([L, E]), up to 2**53 each, into the open window and the live counts."""
        for name in ("open_count", "live_count"):
            total = self.edit(name, ... if layer is None else layer)
            np.minimum(total + counts, COUNTED_MAX, out=total)
        self.set(open_tokens=self.now.open_tokens + token_layers, live_tokens=self.now.live_tokens + token_layers)

    def add_batch(self, batch: TokenBatch, labels: int, pair_tokens: int) -> None:
        """Count the experts of a batch, its labels in at most so many rows, and a sample for co-activations of so many tokens.

        The batch fits the topology. One without gate counts nothing, nor do choices of -1 and tokens that have no other.
        """
        if batch.topk_ids is None or batch.layer is None:
            return
        experts, ids, label = self.now.topology.num_logical_experts, batch.topk_ids, batch.label
        counted, sampled = ids, ids  # a row a token
        if ids.min(initial=0) < 0:
            token = np.nonzero(ids >= 0)[0]
            counted = read_only(ids[ids >= 0][:, None])  # a row a choice
            label = None if label is None else read_only(label[token])
            sampled = ids[np.unique(token)]
            sampled = np.where(sampled >= 0, sampled, sampled.max(1, keepdims=True, initial=0))  # pairs count an expert once
        self.add(np.bincount(counted.ravel(), minlength=experts), batch.layer, len(sampled))
        if label is not None and labels and self.now.open_tokens <= LABELLED_TOKENS:
            self._add_labels(batch.layer, counted, label, batch.label_names, labels)
        if pair_tokens and self.now.topology.num_nodes > 1 and len(sampled):
            self._add_sample(batch.layer, sampled, pair_tokens)

    def _add_labels(
        self, layer: int, topk_ids: NDArray[np.int32], label: NDArray[np.int32], names: tuple[str, ...], most: int
    ) -> None:
        known, rows = known_labels(label, names, self.now.label_names, most)
        if known:
            layers, experts = self.now.open_count.shape
            count = np.zeros((layers, 0, experts), np.int32) if self.now.label_count is None else self.now.label_count
            self.set(label_names=known, label_count=with_rows(count, len(known)))
            count_labels(topk_ids, label, rows, self.edit("label_count", layer))

    def _add_sample(self, layer: int, topk_ids: NDArray[np.int32], pair_tokens: int) -> None:
        layers, experts = self.now.open_count.shape
        k = topk_ids.shape[1]
        # Begun with a batch of fewer experts a token, the sample would never hold more of any other.
        if self.now.sample is None or self.now.sample.shape[2] < row_bytes(experts, k):
            self.set(sample=empty_sample(layers, experts, k), sampled_of=np.zeros(layers, np.int64))
        self.edit("sample", layer)  # the one layer that is written
        seen = self.edit("sampled_of")
        if self.now.sample is not None:
            sample_tokens(topk_ids, layer, pair_tokens, self.now.sample, seen, experts)

    def add_pairs(self, cooccurrence: NDArray[np.int64]) -> None:
        """Count the co-activations of a load window, where nodes matter."""
        if self.now.topology.num_nodes > 1:
            self.set(pair_count=add_pairs(self.now.pair_count, cooccurrence))

    def queue(self, queued: Mapping[str, int], most: int) -> None:
        """Note the tokens that wait, by at most `most` labels."""
        self.set(queued=longest_queues(queued, self.now.label_names, most))

    def remember_window(self, name: str) -> bool:
        """Note a load window; False if it was counted before."""
        if name in self.now.seen_windows:
            return False
        self.set(seen_windows=(*self.now.seen_windows, name)[-REMEMBERED_WINDOWS:])
        return True

    def is_full(self, window_tokens: int) -> bool:
        """Whether the open window has its tokens, in all layers together."""
        return self.now.open_tokens >= window_tokens * self.now.topology.num_layers

    def is_live(self, shares_tokens: int) -> bool:
        """Whether enough tokens came for new dispatch shares, in all layers together."""
        return 0 < shares_tokens * self.now.topology.num_layers <= self.now.live_tokens

    def take_live(self) -> NDArray[np.int64]:
        """The live counts [L, E], which begin again at 0."""
        counts = self.now.live_count
        self.set(live_count=np.zeros_like(counts), live_tokens=0)
        return counts

    def owe(self, owed: bool) -> None:
        """Note whether a plan is wanted at once."""
        self.set(planning=self.now.planning.owing(owed))

    def demand(self) -> tuple[NDArray[np.int32], NDArray[np.int64]] | None:
        """Tokens that each label had so far [K, L, E], and those that wait [K], 0 if unknown; None without labels."""
        count = self.now.label_count
        return None if count is None else demand(count, self.now.label_names, self.now.queued)

    def counts_by_label(self) -> dict[str, NDArray[np.int32]]:
        """Gate choices [L, E] of the tokens of each label so far."""
        count = self.now.label_count
        return {} if count is None else {name: count[:, row] for row, name in enumerate(self.now.label_names)}

    def propose(self, placement: NDArray[np.int32], version: int, now_ns: int) -> None:
        """Note a placement that is in force once it is acknowledged."""
        self.set(proposed=placement, in_force=self.now.in_force.proposed(version, now_ns))

    def acknowledge(self, version: int) -> bool:
        """Put the proposed placement in force; False if the version is neither that one nor the one in force."""
        in_force = self.now.in_force
        if self.now.proposed is not None and in_force.waiting and version == in_force.proposed_version:
            self.set(placement=self.now.proposed, proposed=None, in_force=in_force.acknowledged())
        return version == self.now.in_force.version

    def placement_of(self, version: int) -> NDArray[np.int32] | None:
        """The placement of this version, if it is in force or waits to be acknowledged."""
        in_force = self.now.in_force
        if version == in_force.version:
            return self.now.placement
        return self.now.proposed if in_force.waiting and version == in_force.proposed_version else None

    def close_window(self, windows: int) -> None:
        """Move the open window into the ring of `windows` rows."""
        now = self.now
        self.set(ring=with_window(now.ring, now.closed, now.open_count, windows), closed=now.closed + 1)
        self.set(open_count=np.zeros_like(now.open_count), open_tokens=0)

    def fade(self, labels: int, pairs: bool) -> None:
        """At the end of a window: old counts of labels and pairs fade, the queue is served, labels beyond `labels` merge."""
        self.set(queued=None)
        if not pairs:
            self.set(sample=None, sampled_of=None, pair_count=None)
        elif self.now.pair_count is not None:
            self.set(pair_count=faded_pairs(self.now.pair_count, PAIR_WINDOWS))
        if not labels:
            self.set(label_names=(), label_count=None)
        elif self.now.label_count is not None:
            merged, names = merged_labels(self.now.label_count, self.now.label_names, labels)
            self.set(label_count=faded(merged, LABEL_CHOICES), label_names=names)

    def history(self) -> NDArray[np.int64]:
        """The closed windows in the ring int64 [W, L, E], newest last; an empty one if none has closed."""
        past = past_windows(self.now.ring, self.now.closed)
        return np.stack(past or [np.zeros_like(self.now.open_count)]).astype(np.int64)
