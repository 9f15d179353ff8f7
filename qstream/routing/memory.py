"""Memory: what the module keeps of one model, and how a window of counts closes."""

from __future__ import annotations

from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from schemas.experts import ExpertTopology
from schemas.frame import Axes, Frame

COUNT_MAX = np.iinfo(np.int32).max
REMEMBERED_WINDOWS = 64
# Not strict: a tuple is stored as a list. Source and window id have up to 200 letters each.
WindowNames = Annotated[tuple[str, ...], Field(strict=False)]


class RoutingState(Frame):
    """One model: its topology, a ring of window counts, the window that is filling, the placement in force.

    `open_tokens` counts tokens times layers. Window w of the `closed` ones stands in ring row ``w % windows``.
    `seen_windows` are the newest load windows taken, as ``source/window_id``. `live_count` and `live_tokens` are what came
    since the last dispatch shares. `proposed` is a placement that no consumer has acknowledged yet, of `proposed_version`.
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
        names = (
            "topology", "version", "closed", "open_tokens", "seen_windows", "ring", "open_count", "placement",
            "live_tokens", "live_count", "proposed_version", "proposed_ns", "proposed",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

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

    def close_window(self, windows: int) -> NDArray[np.int64]:
        """Move the open window into the ring of `windows` rows. Returns the history int64 [W, L, E], newest last."""
        history = [*self._past(), np.minimum(self.open_count, COUNT_MAX)][-windows:]
        ring = np.zeros((windows, *self.open_count.shape), np.int32)
        self.closed += 1
        for age, counts in enumerate(reversed(history)):
            ring[(self.closed - 1 - age) % windows] = counts
        self.ring = ring
        self.open_count[:] = 0
        self.open_tokens = 0
        return np.stack(history).astype(np.int64)

    def _past(self) -> list[NDArray[np.int32]]:
        rows = len(self.ring)
        return [self.ring[window % rows] for window in range(max(0, self.closed - rows), self.closed)]


def contiguous(topology: ExpertTopology) -> NDArray[np.int32]:
    """Slot p holds expert p % E: int32 [L, P], what an engine does without a plan."""
    row = np.arange(topology.num_slots, dtype=np.int32) % topology.num_logical_experts
    return np.tile(row, (topology.num_layers, 1))
