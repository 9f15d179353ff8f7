"""Processor: records of one model and its state, to plans and the next state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Self

import numpy as np

from qstream.ahead import Ahead
from qstream.contract import Batch, Event, Processor, Record, Result, Tick
from qstream.errors import Poison, ProblemError, Transient
from qstream.learn.decision import mode
from qstream.module.device import prepare_device
from qstream.module.inforce import InForce
from qstream.module.planning import Planned
from qstream.module.stamp import Stamp, event_ns
from qstream.quantum.runtime import QuantumRuntime
from qstream.routing import smoothing
from qstream.routing.decision import Decision
from qstream.routing.events import reset_event, shares_event
from qstream.routing.memory import Memory, RoutingState
from qstream.routing.options import RoutingOptions
from qstream.routing.placer import CALIBRATION, Placer
from qstream.routing.problem import live_slots
from qstream.routing.requests import route_requests
from qstream.routing.shares import dispatch_shares
from qstream.routing.smoothing import servable
from qstream.routing.snapshot import pair_tokens
from qstream.routing.tokens import check_batch, check_load, route_tokens
from qstream.routing.topology import check_topology, kept_topology, same_slots
from qstream.routing.warm import warm
from schemas.control import Scalar
from schemas.experts import ExpertLoad, ExpertTopology
from schemas.placement import PlacementAck
from schemas.plan import ResetReason
from schemas.routing import RoutingPlan
from schemas.tokens import TokenBatch
from schemas.topics import (
    DISPATCH_SHARES,
    EXPERTS_LOAD,
    EXPERTS_TOPOLOGY,
    LEARN_COMMAND,
    PLACEMENT_ACK,
    PLACEMENT_PLAN,
    ROUTING_PLAN,
    TOKENS_BATCH,
)
from schemas.wording import must_be

TICK_S = 1.0
SHARES = "shares"  # the learner's field in the state
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
    inputs = (TOKENS_BATCH, EXPERTS_LOAD, EXPERTS_TOPOLOGY, PLACEMENT_ACK, LEARN_COMMAND)
    outputs = (ROUTING_PLAN, PLACEMENT_PLAN, DISPATCH_SHARES)
    state = RoutingState
    learners = (SHARES, CALIBRATION)
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
        self.placer = Placer(self.options, runtime, ahead)

    def configure(self, options: Mapping[str, Scalar]) -> Self:
        changed = type(self)(self.options.changed(options), self.runtime, self.ahead)
        if changed.options.device != self.options.device:
            prepare_device(changed.options.device, changed.runtime)
        return changed

    def warm(self) -> None:
        warm()
        prepare_device(self.options.device, self.runtime)

    def on_tick(self, tick: Tick, state: RoutingState) -> Result[RoutingState]:
        """Publish the placement of a window, or one that is owed, where no record came since the last tick."""
        owed = self.placer.is_owed(state, tick.now_ns)
        if not tick.idle or not (owed or self.placer.is_due(state, tick.now_ns)):
            return Result()
        memory, stamp = Memory(state), Stamp.of_tick(tick, 0)
        if owed:
            events = self.placer.owed(stamp, memory, state.in_force.held_until_ns(self.options.ttl_s))
        else:
            events = self.placer.publish(stamp, memory)
        return Result(events, (), memory.state())

    def process(self, batch: Batch, state: RoutingState | None, now_ns: int) -> Result[RoutingState]:
        memory = None if state is None else Memory(state)
        events: list[Event] = []
        dead: list[Poison] = []
        for record in batch.records:
            if memory is not None and self.placer.is_due(memory.now, event_ns(record)):
                events += (planned := self.placer.publish(Stamp.of(record, 0), memory))
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
        if self.placer.is_owed(memory.now, event_ns(record)):
            events += self.placer.owed(Stamp.of(record, n + len(events)), memory, event_ns(record))
        if memory.is_live(self.options.shares_tokens):
            events.append(self._shares(Stamp.of(record, n + len(events)), memory))
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

    def _shares(self, stamp: Stamp, memory: Memory) -> Event:
        """The shares for the tokens to come, from those that came since the last ones and, smoothed, from what came before."""
        counts, now = memory.take_live(), memory.now
        load, ttl_s = counts.astype(np.float64), self.options.ttl_s
        learn = mode(self.options.learn if self.options.smooth_shares else "off", now.frozen, SHARES)
        if learn == "off":
            shares = dispatch_shares(servable(load, now.placement, now.topology), now.placement, now.topology)
            return shares_event(stamp, counts, shares, now, smoothed=False, ttl_s=ttl_s)
        state, smoothed, arms = smoothing.learn(now.shares, now.smoothed, load, now.placement, now.topology)
        memory.set(shares=state, smoothed=smoothed)
        answers = learn == "on"
        shares = smoothing.mixed(state, arms) if answers else arms[smoothing.LIVE]
        return shares_event(stamp, counts, shares, now, smoothed=answers, ttl_s=ttl_s)

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
        events = self.placer.publish(Stamp.of(record, n), memory) if memory.now.planning.active else []
        self.placer.judge(memory)
        memory.close_window(self.options.windows)
        events += self.placer.at_window_end(Stamp.of(record, n + len(events)), memory)
        memory.fade(self.options.labels, self.options.colocate)
        return events

    def _adopt(self, stamp: Stamp, topology: ExpertTopology, memory: Memory | None) -> tuple[Memory, list[Event]]:
        """A new model starts without history; so does a changed topology, under a higher version: old slots mean nothing.
        Learners that are frozen stay as they are.

        Where no more than the capacity of GPUs changed, slots and history stay, and a placement is planned at once.
        """
        check_topology(topology)
        kept = kept_topology(topology)
        if memory is not None and kept == memory.now.topology:
            return memory, []
        if memory is not None and same_slots(kept, memory.now.topology):
            memory.set(topology=kept)
            return memory, self.placer.at_once(stamp, memory)
        before = None if memory is None else memory.now
        in_force = InForce() if before is None else before.in_force
        fresh = Memory.fresh(kept, self.options.windows, in_force.next_version(stamp.ts_ns))
        if before is not None:
            kept_fields = ("frozen", "commands", *before.frozen)
            fresh.set(**{name: getattr(before, name) for name in kept_fields})
            return fresh, [reset_event(stamp, fresh.now, in_force.version, ResetReason.TOPOLOGY_CHANGED)]
        if len(live_slots(kept)) < kept.num_slots:
            return fresh, [reset_event(stamp, fresh.now, 0, ResetReason.CAPACITY_MISSING)]
        return fresh, []
