"""Memory: what the module keeps of one model, and how a window of counts closes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qstream.routing.counts import count_labels
from qstream.routing.problem import contiguous
from qstream.routing.sample import COUNT_MAX, add_pairs, empty_sample, row_bytes, sample_tokens, sampled_coactivation
from schemas.experts import ExpertTopology
from schemas.frame import Axes, Count, Frame
from schemas.tokens import TokenBatch

REMEMBERED_WINDOWS = 64
OTHER = "other"
PAIR_WINDOWS = 4  # over which co-activations fade
LABELLED_TOKENS = 1 << 28  # times layers, of a window; a longer one counts no more labels, so that int32 holds them
LABEL_CHOICES = 1 << 20  # of a label in a layer, above which its counts are halved: old ones fade
# Not strict: a tuple is stored as a list. Source and window id have up to 200 letters each.
WindowNames = Annotated[tuple[str, ...], Field(strict=False)]


class RoutingState(Frame):
    """One model: its topology, a ring of window counts, the window that is filling, the placement in force.

    `open_tokens` counts tokens times layers. Window w of the `closed` ones stands in ring row ``w % windows``.
    `seen_windows` are the newest load windows taken, as ``source/window_id``. `live_count` and `live_tokens` are what came
    since the last dispatch shares. `proposed` is a placement that no consumer has acknowledged yet, of `proposed_version`.
    `label_count` are gate choices by label, in the order of `label_names`; labels without a row of their own count as
    ``other``. `queued` are the tokens by label that wait for the next window. `sample` holds the experts of some of each
    layer's `sampled_of` tokens, as in `sample.py`; `pair_count` are co-activations that load windows brought.
    `planned_ns` is when the last planned window closed. While `planning`, its placement is still to be published: the ring is
    as it was then, and so are the fields that begin with ``planning_``.
    """

    topology: ExpertTopology
    version: int = Field(default=0, ge=0)
    closed: int = Field(default=0, ge=0)
    open_tokens: int = Field(default=0, ge=0)
    seen_windows: WindowNames = Field(default=())
    ring: Annotated[NDArray[np.int32], Axes("windows", "layers", "experts")]
    open_count: Annotated[NDArray[np.int64], Axes("layers", "experts")]
    placement: Annotated[NDArray[np.int32], Axes("layers", "slots")]
    live_tokens: int = Field(default=0, ge=0)
    live_count: Annotated[NDArray[np.int64], Axes("layers", "experts")] | None = None
    proposed_version: int = Field(default=0, ge=0)
    proposed_ns: int = Field(default=0, ge=0)
    proposed: Annotated[NDArray[np.int32], Axes("layers", "slots")] | None = None
    label_names: WindowNames = Field(default=())
    label_count: Annotated[NDArray[np.int32], Axes("layers", "labels", "experts")] | None = None
    queued: dict[str, Count] | None = Field(default=None)
    sample: Annotated[NDArray[np.uint8], Axes("layers", "sampled", "sample_bytes")] | None = None
    sampled_of: Annotated[NDArray[np.int64], Axes("layers")] | None = None
    pair_count: Annotated[NDArray[np.int32], Axes("layers", "experts", "experts")] | None = None
    planned_ns: int = Field(default=0, ge=0)
    planning: bool = Field(default=False)
    planning_version: int = Field(default=0, ge=0)
    planning_labels: Annotated[NDArray[np.int32], Axes("known", "layers", "experts")] | None = None
    planning_queued: Annotated[NDArray[np.int64], Axes("known")] | None = None
    planning_sample: Annotated[NDArray[np.uint8], Axes("layers", "planning_sampled", "planning_sample_bytes")] | None = None
    planning_sampled_of: Annotated[NDArray[np.int64], Axes("layers")] | None = None
    planning_pairs: Annotated[NDArray[np.int32], Axes("layers", "experts", "experts")] | None = None

    @classmethod
    def example(cls) -> Self:
        return cls.build(**Memory.fresh(ExpertTopology.example(), windows=2).fields())


class Memory:
    """A model's state while a batch is processed: a working copy that can be filled, and read out again as a state."""

    def __init__(self, state: RoutingState) -> None:
        self.topology = state.topology
        self.version = state.version
        self.closed = state.closed
        self.open_tokens = state.open_tokens
        self.seen_windows = state.seen_windows
        self.placement = state.placement
        self.ring = state.ring
        self.open_count = state.open_count.copy()
        self.live_tokens = state.live_tokens
        self.live_count = np.zeros_like(self.open_count) if state.live_count is None else state.live_count.copy()
        self.proposed_version = state.proposed_version
        self.proposed_ns = state.proposed_ns
        self.proposed = state.proposed
        self.label_names = state.label_names
        self.label_count = state.label_count
        self.queued = state.queued
        self.sample = state.sample
        self.sampled_of = state.sampled_of
        self.pair_count = state.pair_count
        self.planned_ns = state.planned_ns
        self.planning = state.planning
        self.planning_version = state.planning_version
        self.planning_labels = state.planning_labels
        self.planning_queued = state.planning_queued
        self.planning_sample = state.planning_sample
        self.planning_sampled_of = state.planning_sampled_of
        self.planning_pairs = state.planning_pairs
        self._rows: dict[tuple[str, ...], NDArray[np.int64]] = {}  # of the label names of batches; -1 for those without row

    @classmethod
    def fresh(cls, topology: ExpertTopology, windows: int) -> Self:
        """A model seen for the first time: contiguous placement, no history."""
        layers, experts = topology.num_layers, topology.num_logical_experts
        state = RoutingState(
            topology=topology,
            ring=np.zeros((windows, layers, experts), np.int32),
            open_count=np.zeros((layers, experts), np.int64),
            placement=contiguous(topology),
        )
        return cls(state)

    def fields(self) -> dict[str, Any]:
        """The fields of the state."""
        return {name: getattr(self, name) for name in RoutingState.model_fields if name != "frame"}

    def state(self) -> RoutingState:
        """The state as it is now."""
        return RoutingState(**self.fields())

    def add(self, counts: NDArray[np.int64], layer: int | None, token_layers: int) -> None:
        """Count tokens of one layer ([E]) or of all ([L, E]) into the open window and the live counts."""
        for total in (self.open_count, self.live_count):
            if layer is None:
                total += counts
            else:
                total[layer] += counts
        self.open_tokens += token_layers
        self.live_tokens += token_layers

    def add_batch(self, batch: TokenBatch, labels: int, pair_tokens: int) -> None:
        """Count the experts of a batch, its labels in at most so many rows, and a sample for co-activations of so many tokens.

        The batch fits the topology. One without gate counts nothing.
        """
        if batch.topk_ids is None or batch.layer is None:
            return
        counts = np.bincount(batch.topk_ids.ravel(), minlength=self.open_count.shape[1])
        self.add(counts, batch.layer, len(batch.token_id))
        if batch.label is not None and labels and self.open_tokens <= LABELLED_TOKENS:
            self._add_labels(batch.layer, batch.topk_ids, batch.label, batch.label_names, labels)
        if pair_tokens and self.topology.num_nodes > 1:
            layers, experts = self.open_count.shape
            k = batch.topk_ids.shape[1]
            # Begun with a batch of fewer experts a token, the sample would never hold more of any other.
            if self.sample is None or self.sampled_of is None or self.sample.shape[2] < row_bytes(experts, k):
                self.sample, self.sampled_of = empty_sample(layers, experts, k), np.zeros(layers, np.int64)
            elif not self.sample.flags.writeable:
                self.sample, self.sampled_of = self.sample.copy(), self.sampled_of.copy()
            sample_tokens(batch.topk_ids, batch.layer, pair_tokens, self.sample, self.sampled_of, experts)

    def add_pairs(self, cooccurrence: NDArray[np.int64]) -> None:
        """Count the co-activations of a load window, where nodes matter."""
        if self.topology.num_nodes > 1:
            self.pair_count = add_pairs(self.pair_count, cooccurrence)

    def _add_labels(
        self, layer: int, topk_ids: NDArray[np.int32], label: NDArray[np.int32], names: tuple[str, ...], most: int
    ) -> None:
        row = self._rows.get(names)
        if row is None:
            known = {name: index for index, name in enumerate(self.label_names)}
            row = self._rows[names] = np.array([known.get(name, -1) for name in names] or [-1], np.int64)
        if self.label_count is None:
            self._add_rows(label, names, row, most)
        elif not self.label_count.flags.writeable:
            self.label_count = self.label_count.copy()
        while self.label_count is not None and not count_labels(topk_ids, label, row, self.label_count[layer]):
            self._add_rows(label, names, row, most)

    def _add_rows(self, label: NDArray[np.int32], names: tuple[str, ...], row: NDArray[np.int64], most: int) -> None:
        """Give the labels of a batch their rows, with room for their counts."""
        for index in np.unique(label[label >= 0]).tolist():
            row[index] = self._label_row(names[index], most)
        layers, experts = self.open_count.shape
        old = np.zeros((layers, 0, experts), np.int32) if self.label_count is None else self.label_count
        if new := len(self.label_names) - old.shape[1]:
            self.label_count = np.concatenate([old, np.zeros((layers, new, experts), np.int32)], axis=1)

    def _label_row(self, name: str, most: int) -> int:
        """The row of a label, a new one while there is room."""
        if name not in self.label_names:
            if len(self.label_names) >= most - 1:
                name = OTHER
            if name not in self.label_names:
                self.label_names = (*self.label_names, name)
        return self.label_names.index(name)

    def queue(self, queued: Mapping[str, int], most: int) -> None:
        """Note the tokens that wait, by label: known labels and long queues by name, the rest as ``other``."""
        ranked = sorted(queued.items(), key=lambda item: (item[0] not in self.label_names, -item[1], item[0]))
        kept = dict(ranked[:most])
        if rest := sum(tokens for _, tokens in ranked[most:]):
            kept[OTHER] = kept.get(OTHER, 0) + rest
        self.queued = kept or None

    def begin_plan(self, now_ns: int, pairs: bool) -> None:
        """Keep what is known now, at the end of a window, until the placement is planned."""
        self.planned_ns, self.planning, self.planning_version = now_ns, True, self.version
        self.planning_labels, self.planning_queued = self.demand() or (None, None)
        if pairs:
            self.planning_pairs = self.pair_count
            if self.sample is not None and self.sampled_of is not None:
                self.planning_sample, self.planning_sampled_of = self.sample.copy(), self.sampled_of.copy()

    def planning_coactivation(self, pair_tokens: int) -> Callable[[], NDArray[np.int64] | None]:
        """How co-activations [L, E, E] are had of what `begin_plan` kept, a pure function; None where nothing is known."""
        layers, experts = self.open_count.shape
        counted, sample, of = self.planning_pairs, self.planning_sample, self.planning_sampled_of
        rows = empty_sample(layers, experts, 1) if sample is None else sample
        tokens = np.zeros(layers, np.int64) if of is None else of

        def counts() -> NDArray[np.int64] | None:
            if counted is None and not (rows.size and tokens.any()):
                return None
            return sampled_coactivation(rows, tokens, experts, pair_tokens, counted)

        return counts

    def end_plan(self) -> None:
        """Forget what was kept for a plan: it is made, or nobody wants it."""
        self.planning = False
        self.planning_labels = self.planning_queued = None
        self.planning_sample = self.planning_sampled_of = self.planning_pairs = None

    def demand(self) -> tuple[NDArray[np.int32], NDArray[np.int64]] | None:
        """Tokens that each label had so far [K, L, E], and those that wait [K], 0 if unknown; None without labels."""
        if self.label_count is None:
            return None
        # A last row, without a token, for labels that nothing is known of.
        labels = np.concatenate([self.label_count, np.zeros_like(self.label_count[:, :1])], axis=1).transpose(1, 0, 2)
        rows = {name: row for row, name in enumerate(self.label_names)}
        unknown = rows.get(OTHER, len(rows))
        queued = np.zeros(len(labels), np.int64)
        for name, tokens in (self.queued or {}).items():
            queued[rows.get(name, unknown)] += tokens
        return labels, queued

    def counts_by_label(self) -> dict[str, NDArray[np.int32]]:
        """Gate choices [L, E] of the tokens of each label so far."""
        count = self.label_count
        return {} if count is None else {name: count[:, row] for row, name in enumerate(self.label_names)}

    def remember_window(self, name: str) -> bool:
        """Note a load window; False if it was counted before."""
        if name in self.seen_windows:
            return False
        self.seen_windows = (*self.seen_windows, name)[-REMEMBERED_WINDOWS:]
        return True

    def is_full(self, window_tokens: int) -> bool:
        """Whether the open window has its tokens, in all layers together."""
        return self.open_tokens >= window_tokens * self.topology.num_layers

    def is_live(self, shares_tokens: int) -> bool:
        """Whether enough tokens came for new dispatch shares, in all layers together."""
        return 0 < shares_tokens * self.topology.num_layers <= self.live_tokens

    def take_live(self) -> NDArray[np.int64]:
        """The live counts [L, E], which begin anew."""
        counts, self.live_count, self.live_tokens = self.live_count, np.zeros_like(self.live_count), 0
        return counts

    def propose(self, placement: NDArray[np.int32], version: int, now_ns: int) -> None:
        """Note a placement that is in force once it is acknowledged."""
        self.proposed, self.proposed_version, self.proposed_ns = placement, version, now_ns

    def acknowledge(self, version: int) -> bool:
        """Put the proposed placement in force; False if the version is neither that one nor the one in force."""
        if self.proposed is not None and version == self.proposed_version:
            self.placement, self.version, self.proposed = self.proposed, version, None
        return version == self.version

    def close_window(self, windows: int) -> None:
        """Move the open window into the ring of `windows` rows."""
        history = [*self._past(), np.minimum(self.open_count, COUNT_MAX)][-windows:]
        ring = np.zeros((windows, *self.open_count.shape), np.int32)
        self.closed += 1
        for age, counts in enumerate(reversed(history)):
            ring[(self.closed - 1 - age) % windows] = counts
        self.ring = ring
        self.open_count[:] = 0
        self.open_tokens = 0

    def fade(self, labels: int, pairs: bool) -> None:
        """At the end of a window: old counts of labels and pairs fade, the queue is served, labels beyond `labels` merge."""
        self.queued = None
        if not pairs:
            self.sample = self.sampled_of = self.pair_count = None
        elif self.pair_count is not None:
            faded = (self.pair_count.astype(np.int64) * (PAIR_WINDOWS - 1) // PAIR_WINDOWS).astype(np.int32)
            self.pair_count = faded if faded.any() else None
        self._rows = {}
        if not labels:
            self.label_names, self.label_count = (), None
        elif self.label_count is not None:
            count = self._merged_labels(self.label_count.astype(np.int64), labels)
            excess = np.maximum(count.sum(2, keepdims=True) / LABEL_CHOICES, 1.0)
            self.label_count = (count >> np.ceil(np.log2(excess)).astype(np.int64)).astype(np.int32)

    def _merged_labels(self, count: NDArray[np.int64], most: int) -> NDArray[np.int64]:
        """The counts, with the labels beyond the first ones in one row if there are more than `most`."""
        names = self.label_names
        if len(names) <= most:
            return count
        named = [row for row, name in enumerate(names) if name != OTHER][: most - 1]
        rest = [row for row in range(len(names)) if row not in named]
        self.label_names = (*(names[row] for row in named), OTHER)
        return np.concatenate([count[:, named], count[:, rest].sum(1, keepdims=True)], axis=1)

    def history(self) -> NDArray[np.int64]:
        """The closed windows in the ring int64 [W, L, E], newest last; an empty one if none has closed."""
        return np.stack(self._past() or [np.zeros_like(self.open_count)]).astype(np.int64)

    def _past(self) -> list[NDArray[np.int32]]:
        rows = len(self.ring)
        return [self.ring[window % rows] for window in range(max(0, self.closed - rows), self.closed)]
