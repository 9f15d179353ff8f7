"""What the demo measures: plans against tokens that they have not seen, and answers against questions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from qstream.demo.routing.placements import Goal, NextWindow, Placements, Scored
from qstream.demo.routing.shares import NextTokens, Recount, SameTokens
from qstream.demo.routing.summary import Ends, Gains, Percentiles, Split, Summary, Versus
from qstream.demo.routing.twin import Twin
from qstream.routing.tokens import route_tokens
from schemas.deadletter import DeadLetter
from schemas.experts import ExpertTopology
from schemas.frame import Frame
from schemas.placement import PlacementPlan
from schemas.routing import RoutingPlan
from schemas.shares import DispatchShares
from schemas.tokens import TokenBatch

P = TypeVar("P")


class Track:
    """A series of plans, and what they do to the tokens that come after them."""

    def __init__(self, topology: ExpertTopology, window_tokens: int, stretch_tokens: int) -> None:
        self.placements = Placements(topology)
        self.windows = NextWindow(topology, window_tokens, self.placements)
        self.next_tokens = NextTokens(topology, stretch_tokens)

    def count(self, layer: int, counts: NDArray[np.int64], tokens: int) -> None:
        """Note a published batch: its layer, gate choices by expert [E], tokens."""
        self.windows.count(layer, counts, tokens)
        self.next_tokens.count(layer, counts, tokens)

    def apply(self, plan: PlacementPlan) -> None:
        """Take a placement, or the word that it stays."""
        if self.placements.apply(plan):
            self.next_tokens.set_placement(plan.version, self.placements.newest)


class Score:
    """All figures of a run, from what is published and what is received; for one thread, times in seconds."""

    def __init__(self, topology: ExpertTopology, window_tokens: int, stretch_tokens: int, twin: Twin) -> None:
        self.agent = Track(topology, window_tokens, stretch_tokens)
        self.instead = Track(topology, window_tokens, stretch_tokens)
        self.waiting: dict[str, tuple[float, float, float]] = {}  # batch id -> published at; copies contiguous, by the twin
        self.switched = False  # set when the agent is asked to colocate experts
        self.dead_letters = self.tokens = 0
        self._twin = twin
        self._topology = topology
        self._same_tokens = SameTokens(topology)
        self._batches = self._repeated = self._shares = 0
        self._recounts: list[Recount] = []  # of placements that are not known yet: topics have no order between them
        self._on_their_tokens: list[Scored] = []
        self._claim_error: float | None = None
        self._latency_ms: list[float] = []
        self._copies: list[tuple[int, tuple[float, float, float]]] = []  # placement version; contiguous, plan, the twin's
        self._losses: list[float] = []
        self._colocated: tuple[int, int] | None = None  # version and stretches of the twin when the first such plan came

    def trained(self, tokens: int, loss: float) -> None:
        self.tokens += tokens
        self._losses.append(loss)

    def published(self, batch: TokenBatch, at_s: float) -> None:
        assert batch.topk_ids is not None
        assert batch.layer is not None
        placements = self.instead.placements
        fixed, instead = (self._copies_under(placement, batch) for placement in (placements.contiguous, placements.newest))
        self.waiting[batch.batch_id] = at_s, fixed, instead
        self._batches += 1
        counts = np.bincount(batch.topk_ids.ravel(), minlength=self._topology.num_logical_experts)
        self._same_tokens.count(batch.layer, counts)
        for track in (self.agent, self.instead):
            track.count(batch.layer, counts, len(batch.token_id))
        self._twin.published(batch)

    def received(self, frame: Frame, at_s: float) -> None:
        if isinstance(frame, PlacementPlan):
            self._placed(frame)
        elif isinstance(frame, DispatchShares):
            self._shared(frame)
        elif isinstance(frame, DeadLetter):
            self.dead_letters += 1
        elif isinstance(frame, RoutingPlan):
            self._answered(frame, at_s)

    def _placed(self, plan: PlacementPlan) -> None:
        self.agent.apply(plan)
        if self._colocated is None and self.agent.placements.versions("colocate"):
            self._colocated = self.instead.placements.version or 0, len(self.instead.next_tokens.scores)
        if (twin := self._twin.placement()) is not None:
            self.instead.apply(twin)

    def _shared(self, plan: DispatchShares) -> None:
        self._shares += 1
        self.agent.next_tokens.take(plan)
        if (recount := self._same_tokens.take(plan)) is not None:
            self._recounts.append(recount)
        if (twin := self._twin.shares()) is not None:
            self.instead.next_tokens.take(twin)

    def _answered(self, plan: RoutingPlan, at_s: float) -> None:
        asked = self.waiting.pop(plan.batch_id, None)
        if asked is None:
            self._repeated += 1
            return
        published_s, fixed, instead = asked
        self._latency_ms.append((at_s - published_s) * 1000)
        self._copies.append((plan.placement_version, (fixed, plan.metrics.cross_node_copies_per_token or 0.0, instead)))

    def summary(self, seconds: float, repeated_on_the_wire: int = 0) -> Summary:
        """The figures up to now; `repeated_on_the_wire` are plans that subscribers have dropped by their id."""
        self._measure_recounts()
        placements, latency = self.agent.placements, self._latency_ms
        return Summary(
            seconds=round(seconds, 3),
            tokens=self.tokens,
            token_batches=self._batches,
            routing_plans=len(latency),
            placement_plans=len(placements.map),
            placement_plans_skipped=placements.skipped,
            moved_experts=sum(placements.moved.values()),
            dispatch_shares=self._shares,
            dispatch_shares_recounted=self._same_tokens.matched,
            claim_error=None if self._claim_error is None else round(self._claim_error, 6),
            switched=self.switched,
            balance=self._gains("balance"),
            colocate=self._gains("colocate"),
            balance_instead=self._gains_instead(),
            latency_ms=Percentiles(*np.percentile(latency, [50, 99]).round(3).tolist()) if latency else Percentiles(None, None),
            dead_letters=self.dead_letters,
            lost=len(self.waiting),
            repeated=self._repeated + repeated_on_the_wire,
            loss=Ends(round(self._losses[0], 4), round(self._losses[-1], 4)) if self._losses else Ends(None, None),
        )

    def _measure_recounts(self) -> None:
        waiting = []
        for recount in self._recounts:
            placement = self.agent.placements.map.get(recount.version)
            if placement is None:
                waiting.append(recount)
                continue
            pair = recount.measured(placement, self._topology.num_gpus)
            self._on_their_tokens.append((recount.version, pair))
            error = max(abs(said - found) for said, found in zip(recount.claimed, pair, strict=True))
            self._claim_error = max(error, self._claim_error or 0.0)
        self._recounts = waiting

    def _gains(self, goal: Goal) -> Gains:
        placements, versions = self.agent.placements, self.agent.placements.versions(goal)
        windows = [pair for version, pair in self.agent.windows.scores.values() if version in versions]
        return Gains(
            placement_plans=len(versions),
            moved_experts=sum(placements.moved[version] for version in versions),
            windows=len(windows),
            next_window_balancedness=_means(Versus, windows),
            shares_on_their_tokens=_means(Split, [pair for version, pair in self._on_their_tokens if version in versions]),
            shares_on_next_tokens=_means(Split, [pair for version, pair in self.agent.next_tokens.scores if version in versions]),
            cross_node_copies_per_token=_means(
                Versus, [(fixed, plan) for version, (fixed, plan, _) in self._copies if version in versions]
            ),
        )

    def _gains_instead(self) -> Gains:
        """Of the twin, while plans of the agent that colocate experts are in force."""
        placements, versions = self.instead.placements, self.agent.placements.versions("colocate")
        since, stretches = self._colocated or (math.inf, len(self.instead.next_tokens.scores))
        made = [version for version in placements.map if version > since]
        scored = (number for number, (version, _) in self.agent.windows.scores.items() if version in versions)
        windows = [self.instead.windows.scores[number][1] for number in scored if number in self.instead.windows.scores]
        return Gains(
            placement_plans=len(made),
            moved_experts=sum(placements.moved[version] for version in made),
            windows=len(windows),
            next_window_balancedness=_means(Versus, windows),
            shares_on_their_tokens=Split(None, None),
            shares_on_next_tokens=_means(Split, [pair for _, pair in self.instead.next_tokens.scores[stretches:]]),
            cross_node_copies_per_token=_means(
                Versus, [(fixed, instead) for version, (fixed, _, instead) in self._copies if version in versions]
            ),
        )

    def _copies_under(self, placement: NDArray[np.int32], batch: TokenBatch) -> float:
        return route_tokens(batch, self._topology, placement=placement).metrics.cross_node_copies_per_token or 0.0


def _means(kind: Callable[[float | None, float | None], P], pairs: Sequence[tuple[float, float]]) -> P:
    return kind(*np.mean(pairs, axis=0).round(4).tolist()) if pairs else kind(None, None)
