"""The placements that were received, what they are for, and their balance on windows of tokens that came after them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qstream.routing.placement import COLOCATION
from qstream.routing.problem import contiguous
from qstream.routing.score import balancedness, moved_experts
from schemas.experts import ExpertTopology
from schemas.placement import PlacementPlan

Goal = Literal["balance", "colocate"]
Scored = tuple[int, tuple[float, float]]  # placement version; contiguous, plan in force


class Placements:
    """The placements received, by version; the first one, before any plan, is the contiguous one and has no goal."""

    def __init__(self, topology: ExpertTopology) -> None:
        self.contiguous = self.newest = contiguous(topology)
        self.goal: dict[int, Goal] = {}
        self.map: dict[int, NDArray[np.int32]] = {}
        self.moved: dict[int, int] = {}
        self.skipped = 0
        self.version: int | None = None

    def versions(self, goal: Goal) -> set[int]:
        """Those of the placements made for a goal."""
        return {version for version, of in self.goal.items() if of == goal}

    def apply(self, plan: PlacementPlan) -> bool:
        """Take a received plan; False if it leaves the placement as it is."""
        placement = plan.physical_to_logical_map
        if placement is None:
            self.skipped += 1
            return False
        self.goal[plan.version] = "colocate" if plan.solver.variant == COLOCATION else "balance"
        self.moved[plan.version] = round(moved_experts(self.newest, placement, plan.num_gpus) * len(placement))
        self.map[plan.version] = self.newest = placement
        self.version = plan.version
        return True


class NextWindow:
    """Scores placements on windows of tokens that came after them.

    A window is scored with the newest placement received before its first batch was published, as an engine would have
    had it, and with the contiguous one. Windows before the first plan are not scored.
    """

    def __init__(self, topology: ExpertTopology, window_tokens: int, placements: Placements) -> None:
        self.scores: dict[int, Scored] = {}  # by number of the window
        self._windows = 0
        self._topology = topology
        self._placements = placements
        self._token_layers = window_tokens * topology.num_layers
        self._in_force: int | None = None
        self._begin()

    def count(self, layer: int, counts: NDArray[np.int64], tokens: int) -> None:
        """Count a published batch; score the window that it fills, and open the next one."""
        self._open[layer] += counts
        self._seen += tokens
        if self._seen < self._token_layers:
            return
        if self._in_force is not None:
            maps = self._placements.contiguous, self._placements.map[self._in_force]
            first, second = (balancedness(placement, self._open, self._topology.num_gpus) for placement in maps)
            self.scores[self._windows] = self._in_force, (first, second)
        self._windows += 1
        self._in_force = self._placements.version
        self._begin()

    def _begin(self) -> None:
        self._open = np.zeros((self._topology.num_layers, self._topology.num_logical_experts), np.float64)
        self._seen = 0
