"""What the demo measures: plans against tokens that they have not seen, and answers against questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qstream.routing.memory import contiguous
from qstream.routing.options import RoutingOptions
from qstream.routing.plan import plan_route
from qstream.routing.score import balancedness, moved_experts
from schemas.deadletter import DeadLetter
from schemas.experts import ExpertTopology
from schemas.frame import Frame
from schemas.placement import PlacementPlan
from schemas.routing import RoutingPlan
from schemas.tokens import TokenBatch


@dataclass(frozen=True, slots=True)
class Versus:
    """One quantity under the fixed contiguous placement and under the plans, on the same tokens; None: nothing measured."""

    contiguous: float | None
    plan: float | None


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds; None: nothing measured."""

    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Ends:
    """The first and the last value of a series."""

    first: float | None
    last: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a run, as they go to JSON. `windows` are those scored, `lost` the token batches without a plan."""

    seconds: float
    tokens: int
    token_batches: int
    routing_plans: int
    placement_plans: int
    placement_plans_skipped: int
    windows: int
    next_window_balancedness: Versus
    moved_experts: int
    cross_node_copies_per_token: Versus
    latency_ms: Percentiles
    dead_letters: int
    lost: int
    repeated: int
    loss: Ends


class NextWindow:
    """Scores placements on windows of tokens that came after them.

    A window is scored with the newest placement received before its first batch was published, as an engine would have
    had it, and beside that with the contiguous one. Windows before the first plan are not scored.
    """

    def __init__(self, topology: ExpertTopology, window_tokens: int) -> None:
        self.scores: list[tuple[float, float]] = []  # contiguous, plan in force
        self.plans = self.skipped = self.moved = self.version = 0
        self._topology = topology
        self._token_layers = window_tokens * topology.num_layers
        self._contiguous = self._newest = self._in_force = contiguous(topology)
        self._open = np.zeros((topology.num_layers, topology.num_logical_experts), np.float64)
        self._seen = 0

    def apply(self, plan: PlacementPlan) -> None:
        """Take a received plan; it is in force from the next window on."""
        placement = plan.physical_to_logical_map
        if placement is None:
            self.skipped += 1
            return
        self.plans += 1
        self.moved += round(moved_experts(self._newest, placement, plan.num_gpus) * len(placement))
        self.version, self._newest = plan.version, placement

    def count(self, batch: TokenBatch) -> None:
        """Count a published batch; score the window that it fills, and open the next one."""
        assert batch.topk_ids is not None
        assert batch.layer is not None
        self._open[batch.layer] += np.bincount(batch.topk_ids.ravel(), minlength=self._open.shape[1])
        self._seen += len(batch.token_id)
        if self._seen < self._token_layers:
            return
        if self._in_force is not self._contiguous:
            gpus = self._topology.num_gpus
            self.scores.append((balancedness(self._contiguous, self._open, gpus), balancedness(self._in_force, self._open, gpus)))
        self._in_force = self._newest
        self._open = np.zeros_like(self._open)
        self._seen = 0


class Score:
    """All figures of a run: told of what is published and what is received, by one thread; times in seconds."""

    def __init__(self, topology: ExpertTopology, window_tokens: int) -> None:
        self.placement = NextWindow(topology, window_tokens)
        self.waiting: dict[str, tuple[float, float]] = {}  # batch id -> published at, copies under contiguous
        self._first_version: int | None = None  # of the contiguous placement, which the first batches meet
        self.dead_letters = self.tokens = 0
        self._topology = topology
        self._contiguous = contiguous(topology)
        self._batches = self._repeated = 0
        self._latency_ms: list[float] = []
        self._copies: list[tuple[float, float]] = []
        self._losses: list[float] = []

    def trained(self, tokens: int, loss: float) -> None:
        self.tokens += tokens
        self._losses.append(loss)

    def published(self, batch: TokenBatch, at_s: float) -> None:
        route = plan_route(batch, self._contiguous, self._topology, RoutingOptions())
        self.waiting[batch.batch_id] = at_s, route.metrics.cross_node_copies_per_token or 0.0
        self._batches += 1
        self.placement.count(batch)

    def received(self, frame: Frame, at_s: float) -> None:
        if isinstance(frame, PlacementPlan):
            self.placement.apply(frame)
        elif isinstance(frame, DeadLetter):
            self.dead_letters += 1
        elif isinstance(frame, RoutingPlan):
            self._answered(frame, at_s)

    def _answered(self, plan: RoutingPlan, at_s: float) -> None:
        asked = self.waiting.pop(plan.batch_id, None)
        if asked is None:
            self._repeated += 1
            return
        published_s, copies = asked
        self._latency_ms.append((at_s - published_s) * 1000)
        self._first_version = plan.placement_version if self._first_version is None else self._first_version
        if plan.placement_version > self._first_version:
            self._copies.append((copies, plan.metrics.cross_node_copies_per_token or 0.0))

    def summary(self, seconds: float, repeated_on_the_wire: int = 0) -> Summary:
        """The figures up to now; `repeated_on_the_wire` are plans that subscribers have dropped by their id."""
        placement, latency = self.placement, self._latency_ms
        return Summary(
            seconds=round(seconds, 3),
            tokens=self.tokens,
            token_batches=self._batches,
            routing_plans=len(latency),
            placement_plans=placement.plans,
            placement_plans_skipped=placement.skipped,
            windows=len(placement.scores),
            next_window_balancedness=_means(placement.scores),
            moved_experts=placement.moved,
            cross_node_copies_per_token=_means(self._copies),
            latency_ms=Percentiles(*np.percentile(latency, [50, 99]).round(3).tolist()) if latency else Percentiles(None, None),
            dead_letters=self.dead_letters,
            lost=len(self.waiting),
            repeated=self._repeated + repeated_on_the_wire,
            loss=Ends(round(self._losses[0], 4), round(self._losses[-1], 4)) if self._losses else Ends(None, None),
        )


def _means(pairs: Sequence[tuple[float, float]]) -> Versus:
    return Versus(*np.mean(pairs, axis=0).round(4).tolist()) if pairs else Versus(None, None)
