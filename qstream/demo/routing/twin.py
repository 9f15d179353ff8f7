"""The routing module a second time, in this process and never switched: what its plans would do on the same tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from qstream.routing.options import RoutingOptions
from qstream.routing.processor import RoutingProcessor
from qstream.testing.feed import Feed
from schemas.control import Scalar
from schemas.experts import ExpertTopology
from schemas.placement import PlacementPlan
from schemas.shares import DispatchShares
from schemas.tokens import TokenBatch


class Twin:
    """Given each batch that the agent is given; its n-th placement and shares wait until the agent's n-th have come.

    So both are equally late, and equal as long as both have the same options.
    """

    def __init__(self, topology: ExpertTopology, options: Mapping[str, Scalar]) -> None:
        self._feed = Feed(RoutingProcessor(RoutingOptions().changed({**options, "routing_plans": False})))
        self._placements: deque[PlacementPlan] = deque()
        self._shares: deque[DispatchShares] = deque()
        self._feed.send(topology, 0)

    def published(self, batch: TokenBatch) -> None:
        """Plan from a batch."""
        for event in self._feed.send(batch, batch.ts_ns // 1_000_000).events:
            if isinstance(event.frame, PlacementPlan):
                self._placements.append(event.frame)
            elif isinstance(event.frame, DispatchShares):
                self._shares.append(event.frame)

    def placement(self) -> PlacementPlan | None:
        """The oldest that waits."""
        return self._placements.popleft() if self._placements else None

    def shares(self) -> DispatchShares | None:
        """The oldest that wait."""
        return self._shares.popleft() if self._shares else None
