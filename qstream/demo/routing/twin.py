"""The routing module a second time, in this process and never switched: what its plans would do on the same tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from qstream.contract import Batch, Record
from qstream.routing.options import RoutingOptions
from qstream.routing.processor import RoutingProcessor
from schemas.control import Scalar
from schemas.experts import ExpertTopology
from schemas.frame import Frame
from schemas.placement import PlacementPlan
from schemas.shares import DispatchShares
from schemas.tokens import TokenBatch
from schemas.topics import EXPERTS_TOPOLOGY, TOKENS_BATCH, Topic


class Twin:
    """Given each batch that the agent is given; its n-th placement and shares wait until the agent's n-th have come.

    So both are equally late, and equal as long as both have the same options.
    """

    def __init__(self, topology: ExpertTopology, options: Mapping[str, Scalar]) -> None:
        self._processor = RoutingProcessor(RoutingOptions().changed({**options, "routing_plans": False}))
        self._placements: deque[PlacementPlan] = deque()
        self._shares: deque[DispatchShares] = deque()
        first = Batch(topology.model, (self._record(EXPERTS_TOPOLOGY, topology.model, topology, 0, 0),))
        self._state = self._processor.process(first, None, 0).state
        self._offset = 0

    def published(self, batch: TokenBatch) -> None:
        """Plan from a batch."""
        record = self._record(TOKENS_BATCH, batch.model, batch, self._offset, batch.ts_ns // 1_000_000)
        self._offset += 1
        result = self._processor.process(Batch(batch.model, (record,)), self._state, batch.ts_ns)
        self._state = result.state
        for event in result.events:
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

    @staticmethod
    def _record(topic: Topic, key: str, frame: Frame, offset: int, timestamp_ms: int) -> Record:
        return Record(topic.name, 0, offset, key, frame, timestamp_ms)
