"""Score: what the modelled rack drew and did, second by second, next to the same rack without caps, and what came of plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qstream.demo.energy.rack import OVERHEAD_W, Rack, Second
from qstream.node.device import LIMIT
from qstream.node.fake import FakeNvml
from schemas.energy import EnergyPlan, TargetReason
from schemas.tasks import EnergySchedule, TaskGraph

ROUNDING_W = 1e-6
Floats = NDArray[np.float64]


@dataclass(slots=True)
class Score:
    """Sums of joules and work by GPU, with caps and without; series of the rack's watts; what was counted of plans.

    `watts`, `uncapped_w` and `budgets_w` have one value a modelled second, without what nodes draw besides their GPUs.
    """

    rack: Rack
    watts: list[float] = field(default_factory=list)
    uncapped_w: list[float] = field(default_factory=list)
    budgets_w: list[float] = field(default_factory=list)
    violations: int = 0
    plans: list[EnergyPlan] = field(default_factory=list)
    graph: TaskGraph | None = None
    schedules: list[EnergySchedule] = field(default_factory=list)
    probed: set[tuple[str, float]] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    stale_gpus: int = 0
    dead_letters: int = 0
    _sums: Floats = field(default_factory=lambda: np.zeros((4, 0)))

    def second(self, second: Second, budget_w: float) -> None:
        """A modelled second under a budget of the rack. It is a violation if the rack draws more, or if its limits allow more."""
        new = np.stack([second.watts, second.speed, second.uncapped_w, second.uncapped_speed])
        self._sums = new if not self._sums.size else self._sums + new
        own_w = budget_w - OVERHEAD_W * len(self.rack.nodes)
        self.watts.append(float(second.watts.sum()))
        self.uncapped_w.append(float(second.uncapped_w.sum()))
        self.budgets_w.append(own_w)
        self.violations += max(self.watts[-1], float(second.limit_w.sum())) > own_w + ROUNDING_W

    def plan(self, plan: EnergyPlan) -> None:
        """A plan arrived."""
        self.plans.append(plan)
        self.stale_gpus = max(self.stale_gpus, plan.stale_gpus)
        self.probed |= {(plan.uuid[row], float(plan.sm_clock_mhz[row])) for row in rows_with(plan, TargetReason.PROBE)}
        self.accepted |= {plan.uuid[row] for row in rows_with(plan, TargetReason.ACCEPTED)}

    @property
    def saved_ratio(self) -> float | None:
        """Joules saved at equal work, of those that the rack without caps took; None before anything was done."""
        joules, work, free_joules, free_work = self._sums
        if not work.size or not free_joules.sum():
            return None
        return float(1 - (joules * free_work / work).sum() / free_joules.sum())

    @property
    def slowdown(self) -> Floats:
        """Of each GPU, by the work it did against the work without caps; over all seconds, probes and budgets included."""
        _, work, _, free_work = self._sums
        found: Floats = free_work / work - 1
        return found

    @property
    def unsafe_writes(self) -> int:
        """Writes to GPUs that may not be set, or of values that they do not take."""
        allowed = frozenset(self.rack.opted_in)
        return sum(unsafe(node.writes, node, allowed) for node in self.rack.nodes)


def rows_with(plan: EnergyPlan, reason: TargetReason) -> list[int]:
    """The targets that have this reason."""
    if plan.reason_of is None or reason not in plan.reason:
        return []
    return [int(row) for row in np.flatnonzero(plan.reason_of == plan.reason.index(reason))]


def unsafe(writes: Sequence[tuple[str, str, float | None]], node: FakeNvml, allowed: frozenset[str]) -> int:
    """How many writes are of a GPU that is not allowed, or outside what it takes. A clock of None takes a cap away."""
    found = 0
    for uuid, knob, value in writes:
        least, most = node.limits_w(uuid)[:2] if knob == LIMIT else node.clocks_mhz(uuid)
        within = value is None if value is None else least <= value <= most
        found += uuid not in allowed or not within or (value is None and knob == LIMIT)
    return found
