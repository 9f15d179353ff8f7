"""Placer: when a model's placement is planned, and what is published of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from qstream.ahead import Ahead
from qstream.contract import Event
from qstream.learn.decision import mode
from qstream.module.planning import Planned, or_skipped, planned, start
from qstream.module.stamp import Stamp
from qstream.quantum.runtime import QuantumRuntime
from qstream.routing.decision import Decision, expected_balancedness
from qstream.routing.events import failed_event, placement_event
from qstream.routing.memory import Memory, RoutingState
from qstream.routing.options import RoutingOptions
from qstream.routing.plan import keep_placement
from qstream.routing.promise import judge, promise
from qstream.routing.snapshot import begin_plan, end_plan, planner, snapshot
from schemas.placement import PlacementPlan
from schemas.plan import SkipReason

CALIBRATION = "calibration"  # the learner's field in the state
BUSY = (SkipReason.NOT_ACKNOWLEDGED, SkipReason.SUPERSEDED)  # reasons that end by themselves, after which the plan is owed


@dataclass(frozen=True, slots=True)
class Placer:
    """Plans placements as the options say: next to the records with `ahead`, on a device with `runtime`."""

    options: RoutingOptions
    runtime: Callable[[], QuantumRuntime] | None
    ahead: Ahead[Planned[Decision]] | None

    def is_due(self, now: RoutingState, now_ns: int) -> bool:
        """Whether a placement is to be published now."""
        return now.planning.is_due(now_ns, self.options.plan_ms)

    def at_window_end(self, stamp: Stamp, memory: Memory) -> list[Event]:
        """Begin a plan from what is known now, unless the last one is too recent; the placement if it is due at once."""
        if self.options.placement == "off" or not memory.now.planning.may_begin(stamp.ts_ns, self.options.plan_every_s):
            return []
        begin_plan(memory, stamp.ts_ns, self.options.colocate)
        if self.is_due(memory.now, stamp.ts_ns):
            return self.publish(stamp, memory)
        start(self.ahead, stamp.key, snapshot(memory, self.options), lambda: planner(memory, self.options, self.runtime))
        return []

    def at_once(self, stamp: Stamp, memory: Memory) -> list[Event]:
        """A placement planned and published here and now, in the place of one that was being planned."""
        end_plan(memory)
        if self.options.placement == "off":
            return []
        memory.owe(True)
        return self.owed(stamp, memory, stamp.ts_ns)

    def is_owed(self, now: RoutingState, now_ns: int) -> bool:
        """Whether a placement that was wanted at once and refused can be planned by now."""
        return now.planning.owed and not self._is_held_up(now_ns, now)

    def owed(self, stamp: Stamp, memory: Memory, begun_ns: int) -> list[Event]:
        """A placement that does not wait for the end of a window, from what is known now."""
        begin_plan(memory, begun_ns, self.options.colocate)
        return self.publish(stamp, memory)

    def publish(self, stamp: Stamp, memory: Memory) -> list[Event]:
        """The placement that was being planned, as an event; none if placements were switched off meanwhile."""
        if self.options.placement == "off":
            end_plan(memory)
            memory.owe(False)
            return []
        ttl_s = self.options.ttl_s
        event = or_skipped(
            memory, stamp.key, lambda: self._placement(stamp, memory), lambda: failed_event(stamp, memory.now, ttl_s)
        )
        end_plan(memory)
        if not (isinstance(event.frame, PlacementPlan) and event.frame.skip_reason in BUSY):
            memory.owe(False)
        return [event]

    def _placement(self, stamp: Stamp, memory: Memory) -> Event:
        """The decision of the plan that is due; a new placement is proposed, or in force at once."""
        now, in_force = memory.now, memory.now.in_force
        reason, version, solver_s = self._reason_to_keep(stamp, now), in_force.version, None
        if reason is not None:
            decision = keep_placement(memory.history(), now.placement, now.topology, reason, self.options.dispatch)
        else:
            found = planned(
                self.ahead, stamp.key, snapshot(memory, self.options), lambda: planner(memory, self.options, self.runtime)
            )
            decision, solver_s = found.value, found.seconds
        if decision.skip_reason is None:
            # A tick that is repeated after a crash has the same id, and consumers drop it: so it must say the same version.
            version = in_force.next_version(stamp.ts_ns if stamp.cause else now.planning.due_ns(self.options.plan_ms))
            memory.propose(decision.physical_to_logical, version, stamp.ts_ns)
            if not self.options.acknowledge:
                memory.acknowledge(version)
        decision = self._calibrated(decision, version, memory)
        base, ttl_s = in_force.version, self.options.ttl_s
        return placement_event(stamp, decision, now, version=version, base_version=base, ttl_s=ttl_s, solver_s=solver_s)

    def judge(self, memory: Memory) -> None:
        """At the end of a window, before it closes: compare what was expected of it with what came."""
        now = memory.now
        said = now.promised
        if mode(self.options.learn, now.frozen, CALIBRATION) == "off" or said is None or said.window != now.closed:
            return
        placement = memory.placement_of(said.version)
        if placement is not None and now.open_count.any():
            came = expected_balancedness(placement, now.open_count.astype(np.float64), now.topology, self.options.dispatch)
            memory.set(calibration=judge(now.calibration, said, came), promised=None)

    def _calibrated(self, decision: Decision, version: int, memory: Memory) -> Decision:
        """The decision with what to expect of the next window under placement `version`, which is in force once it is applied."""
        now, score = memory.now, decision.score
        learn = mode(self.options.learn, now.frozen, CALIBRATION)
        if learn == "off" or not now.closed:
            return decision
        planned = score.balancedness if decision.skip_reason is None else score.balancedness_before
        said = promise(now.calibration, planned, version=version, window=now.closed)
        memory.set(promised=said)
        if learn != "on":
            return decision
        found = score.model_copy(update={"next_window": said.corrected, "next_window_low": said.low})
        return replace(decision, score=found)

    def _reason_to_keep(self, stamp: Stamp, now: RoutingState) -> SkipReason | None:
        """Why no new placement is wanted, though one was planned."""
        if now.in_force.version != now.planning.base_version:
            return SkipReason.SUPERSEDED
        if self._is_held_up(stamp.ts_ns, now):
            return SkipReason.NOT_ACKNOWLEDGED
        return None

    def _is_held_up(self, now_ns: int, now: RoutingState) -> bool:
        """Whether a placement that may still be acknowledged stands in the way of another one."""
        return self.options.acknowledge and now.in_force.holds_up(now_ns, self.options.ttl_s)
