"""Processor: records of one model and its state, to plans and the next state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Self

from qstream.ahead import Ahead
from qstream.contract import Batch, Event, Processor, Record, Result, Tick
from qstream.errors import OptionError, Poison, ProblemError, Transient
from qstream.module.inforce import InForce
from qstream.module.planning import Planned, or_skipped, planned, start
from qstream.quantum.record import Refused
from qstream.quantum.runtime import QuantumRuntime
from qstream.routing.decision import Decision
from qstream.routing.events import Stamp, event_ns, failed_event, placement_event, reset_event, shares_event
from qstream.routing.memory import Memory, RoutingState
from qstream.routing.options import RoutingOptions
from qstream.routing.plan import keep_placement
from qstream.routing.problem import live_slots
from qstream.routing.requests import route_requests
from qstream.routing.snapshot import pair_tokens, planner, snapshot
from qstream.routing.tokens import check_batch, check_load, route_tokens
from qstream.routing.topology import check_topology, kept_topology, same_slots
from qstream.routing.warm import warm
from schemas.control import Scalar
from schemas.experts import ExpertLoad, ExpertTopology
from schemas.placement import PlacementAck, PlacementPlan
from schemas.plan import ResetReason, SkipReason
from schemas.routing import RoutingPlan
from schemas.tokens import TokenBatch
from schemas.topics import (
    DISPATCH_SHARES,
    EXPERTS_LOAD,
    EXPERTS_TOPOLOGY,
    PLACEMENT_ACK,
    PLACEMENT_PLAN,
    ROUTING_PLAN,
    TOKENS_BATCH,
)
from schemas.wording import must_be

DEVICE_READY_S = 30.0
TICK_S = 1.0
BUSY = (SkipReason.NOT_ACKNOWLEDGED, SkipReason.SUPERSEDED)  # reasons that end by themselves, after which the plan is owed
LONGEST_WINDOW = 8  # a window stays open while the placement of the one before is planned, up to so many times its tokens


class RoutingProcessor(Processor[RoutingState]):
    """Counts the tokens of each expert in windows; plans the placement when a window closes, the shares of replicas as
    tokens come, and every batch's slots.

    With the option `acknowledge` a published placement is in force once a consumer says that it has applied it; until then,
    or until its time is over, no other is planned; one that a change of capacity asks for is planned right after that. A
    token batch or load of a model without topology waits for it (`Transient`); one that contradicts the topology is poison.
    Windows close at records, so any split of the records into batches gives the same plans.

    A placement is planned from what was known at the end of its window, and published with the first record that is `plan_ms`
    younger; where no record comes any more, by a tick. Meanwhile the next window stays open. With `ahead`, which computes the
    plan meanwhile, that record waits if the plan is late (`NotYet`), and no other model does; without, the plan is computed
    with that record. Both give the same plans. One that fails is published as skipped.
    """

    name = "routing"
    inputs = (TOKENS_BATCH, EXPERTS_LOAD, EXPERTS_TOPOLOGY, PLACEMENT_ACK)
    outputs = (ROUTING_PLAN, PLACEMENT_PLAN, DISPATCH_SHARES)
    state = RoutingState
    tick_s: float | None = TICK_S

    def __init__(
        self,
        options: RoutingOptions | None = None,
        runtime: Callable[[], QuantumRuntime] | None = None,
        ahead: Ahead[Planned[Decision]] | None = None,
    ) -> None:
        """`runtime` makes or gives the one where devices are found; it is asked when a device is named."""
        self.options = options or RoutingOptions()
        self.runtime = runtime
        self.ahead = ahead

    def configure(self, options: Mapping[str, Scalar]) -> Self:
        changed = type(self)(self.options.changed(options), self.runtime, self.ahead)
        if changed.options.device != self.options.device:
            changed._prepare_device()
        return changed

    def warm(self) -> None:
        warm()
        self._prepare_device()

    def _prepare_device(self) -> None:
        """Have the device ready before a plan asks for it; each plan's `fallback_reason` says if it is not."""
        device = self.options.device
        if device is not None and self.runtime is not None:
            try:
                self.runtime().prepare(device, timeout_s=DEVICE_READY_S)
            except Refused as refused:
                raise OptionError(f"{must_be('option device', 'a device that is ready', device)}: {refused.detail}") from refused

    def on_tick(self, tick: Tick, state: RoutingState) -> Result[RoutingState]:
        """Publish the placement of a window, or one that is owed, where no record came since the last tick."""
        owed = self._is_owed(tick.now_ns, state)
        if not tick.idle or not (owed or state.planning.is_due(tick.now_ns, self.options.plan_ms)):
            return Result()
        memory = Memory(state)
        if owed:
            memory.begin_plan(state.in_force.held_until_ns(self.options.ttl_s), self.options.colocate)
        events = self._publish(Stamp(tick.key, tick.event_id(0), tick.now_ns, None), memory)
        return Result(events, (), memory.state())

    def process(self, batch: Batch, state: RoutingState | None, now_ns: int) -> Result[RoutingState]:
        memory = None if state is None else Memory(state)
        events: list[Event] = []
        dead: list[Poison] = []
        for record in batch.records:
            if memory is not None and memory.now.planning.is_due(event_ns(record), self.options.plan_ms):
                events += (planned := self._publish(Stamp.of(record, 0), memory))
            else:
                planned = []
            try:
                with nullcontext() if memory is None else memory.atomic():
                    memory, more = self._take(record, memory, len(planned))
                events += more
            except ProblemError as exc:
                dead.append(Poison(record, str(exc)))
        return Result(events, dead, None if memory is None else memory.state())

    def _take(self, record: Record, memory: Memory | None, n: int) -> tuple[Memory, list[Event]]:
        """The memory after a record, and its events from the n-th on."""
        frame = record.frame
        if isinstance(frame, ExpertTopology):
            return self._adopt(Stamp.of(record, n), frame, memory)
        if memory is None:
            raise Transient(f"model {record.key!r} has no topology yet: publish it to {EXPERTS_TOPOLOGY.name}")
        events: list[Event] = []
        if isinstance(frame, TokenBatch):
            events = self._take_tokens(record, frame, memory, n)
        elif isinstance(frame, ExpertLoad):
            self._take_load(frame, memory)
        elif isinstance(frame, PlacementAck) and not memory.acknowledge(frame.applied_version):
            known = memory.now.in_force
            waits = f", or {known.proposed_version}, which waits for it" if known.waiting else ""
            raise ProblemError(must_be("applied_version", f"{known.version}, which is in force{waits}", frame.applied_version))
        if memory.is_full(self.options.window_tokens * (LONGEST_WINDOW if memory.now.planning.active else 1)):
            events += self._close_window(record, memory, n + len(events))
        if self._is_owed(event_ns(record), memory.now):
            events += self._plan_now(Stamp.of(record, n + len(events)), memory)
        if memory.is_live(self.options.shares_tokens):
            stamp = Stamp.of(record, n + len(events))
            events.append(shares_event(stamp, memory.take_live(), memory.now, self.options.ttl_s))
        return memory, events

    def _take_tokens(self, record: Record, batch: TokenBatch, memory: Memory, n: int) -> list[Event]:
        """Route a batch, and count what it is served by."""
        check_batch(batch, memory.now.topology)
        if not self.options.routing_plans:
            memory.add_batch(batch, self.options.labels, pair_tokens(self.options))
            return []
        plan = self._route(record.event_id(n), batch, memory)
        served = batch if plan.expert_ids is None else batch.model_copy(update={"topk_ids": plan.expert_ids})
        memory.add_batch(served, self.options.labels, pair_tokens(self.options))
        return [Event(ROUTING_PLAN, record.key, plan.plan_id, plan, record)]

    def _take_load(self, load: ExpertLoad, memory: Memory) -> None:
        """Count a load window that was not counted before."""
        check_load(load, memory.now.topology)
        if memory.remember_window(f"{load.source}/{load.window_id}"):
            memory.add(load.logical_count, None, load.num_tokens * memory.now.topology.num_layers)
            if load.cooccurrence is not None and self.options.colocate:
                memory.add_pairs(load.cooccurrence)
            if load.queued_by_label is not None and self.options.labels:
                memory.queue(load.queued_by_label, self.options.labels)

    def _route(self, plan_id: str, batch: TokenBatch, memory: Memory) -> RoutingPlan:
        """The slots of the batch's tokens and, if asked, the nodes of its requests."""
        now = memory.now
        version = now.in_force.version
        plan = route_tokens(
            batch, now.topology, self.options, placement=now.placement, plan_id=plan_id, placement_version=version
        )
        if not self.options.request_nodes or batch.request_id is None:
            return plan
        requests = route_requests(batch, now.topology, now.placement, label_counts=memory.counts_by_label())
        return plan.model_copy(update={"request_id": requests.request_id, "request_node": requests.node})

    def _close_window(self, record: Record, memory: Memory, n: int) -> list[Event]:
        """The window that is full joins the history, and a placement is planned for what follows."""
        events = self._publish(Stamp.of(record, n), memory) if memory.now.planning.active else []
        memory.close_window(self.options.windows)
        stamp = Stamp.of(record, n + len(events))
        if self.options.placement != "off" and memory.now.planning.may_begin(stamp.ts_ns, self.options.plan_every_s):
            memory.begin_plan(stamp.ts_ns, self.options.colocate)
            if memory.now.planning.is_due(stamp.ts_ns, self.options.plan_ms):
                events += self._publish(stamp, memory)
            else:
                start(self.ahead, record.key, snapshot(memory, self.options), lambda: planner(memory, self.options, self.runtime))
        memory.fade(self.options.labels, self.options.colocate)
        return events

    def _adopt(self, stamp: Stamp, topology: ExpertTopology, memory: Memory | None) -> tuple[Memory, list[Event]]:
        """A new model starts without history; so does a changed topology, under a higher version: old slots mean nothing.

        Where no more than the capacity of GPUs changed, slots and history stay, and a placement is planned at once.
        """
        check_topology(topology)
        kept = kept_topology(topology)
        if memory is not None and kept == memory.now.topology:
            return memory, []
        if memory is not None and same_slots(kept, memory.now.topology):
            memory.end_plan()
            memory.set(topology=kept)
            if self.options.placement == "off":
                return memory, []
            memory.owe(True)
            return memory, self._plan_now(stamp, memory)
        before = None if memory is None else memory.now.in_force
        fresh = Memory.fresh(kept, self.options.windows, (before or InForce()).next_version(stamp.ts_ns))
        if before is not None:
            return fresh, [reset_event(stamp, fresh.now, before.version, ResetReason.TOPOLOGY_CHANGED)]
        if len(live_slots(kept)) < kept.num_slots:
            return fresh, [reset_event(stamp, fresh.now, 0, ResetReason.CAPACITY_MISSING)]
        return fresh, []

    def _plan_now(self, stamp: Stamp, memory: Memory) -> list[Event]:
        """A placement that does not wait for the end of a window."""
        memory.begin_plan(stamp.ts_ns, self.options.colocate)
        return self._publish(stamp, memory)

    def _publish(self, stamp: Stamp, memory: Memory) -> list[Event]:
        """The placement that was being planned, as an event; none if placements were switched off meanwhile."""
        if self.options.placement == "off":
            memory.end_plan()
            memory.owe(False)
            return []
        ttl_s = self.options.ttl_s
        event = or_skipped(
            memory, stamp.key, lambda: self._placement(stamp, memory), lambda: failed_event(stamp, memory.now, ttl_s)
        )
        memory.end_plan()
        if not (isinstance(event.frame, PlacementPlan) and event.frame.skip_reason in BUSY):
            memory.owe(False)
        return [event]

    def _placement(self, stamp: Stamp, memory: Memory) -> Event:
        """The decision of the plan that is due; a new placement is proposed, or in force at once."""
        now, in_force = memory.now, memory.now.in_force
        reason, version, solver_s = self._reason_to_keep(stamp, now), in_force.version, None
        if reason is not None:
            decision = keep_placement(memory.history(), now.placement, now.topology, reason)
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
        base, ttl_s = in_force.version, self.options.ttl_s
        return placement_event(stamp, decision, now, version=version, base_version=base, ttl_s=ttl_s, solver_s=solver_s)

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

    def _is_owed(self, now_ns: int, now: RoutingState) -> bool:
        """Whether a placement that was wanted at once and refused can be planned by now."""
        return now.planning.owed and not self._is_held_up(now_ns, now)
