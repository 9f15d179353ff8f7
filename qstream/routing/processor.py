"""Processor: records of one model and its state, to plans and the next state."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from qstream.ahead import Ahead
from qstream.contract import Batch, Event, Processor, Record, Result, Tick
from qstream.errors import OptionError, Poison, ProblemError, Transient
from qstream.metrics import ROUTING_SOLVER_SECONDS
from qstream.quantum.record import Refused
from qstream.quantum.runtime import QuantumRuntime
from qstream.routing.decision import Decision, map_arrays, placement_frame
from qstream.routing.memory import PAIR_WINDOWS, Memory, RoutingState
from qstream.routing.options import RoutingOptions
from qstream.routing.plan import keep_placement, plan_placement
from qstream.routing.problem import capacities, live_slots
from qstream.routing.requests import route_requests
from qstream.routing.score import balancedness
from qstream.routing.shares import dispatch_shares
from qstream.routing.tokens import check_batch, route_tokens
from qstream.routing.warm import warm
from schemas.control import Scalar
from schemas.experts import ExpertLoad, ExpertTopology
from schemas.placement import PlacementAck, PlacementPlan
from schemas.plan import ResetReason, SkipReason
from schemas.routing import RoutingPlan
from schemas.shares import DispatchShares, SharesScore
from schemas.solver import SolverRecord
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

NAME_LENGTH = 200
SLOT_BYTES = 32  # of a plan, a slot in the worst case: its expert, its share, and the five columns of a move
TIME_MAX_MS = 9 * 10**12  # in the year 2255; in ns still an int64
DEVICE_READY_S = 30.0
TICK_S = 1.0
LONGEST_WINDOW = 8  # a window stays open while the placement of the one before is planned, up to so many times its tokens


@dataclass(frozen=True, slots=True, eq=False)
class Stamp:
    """Whose an event is, its id and time, and the record that caused it."""

    key: str
    id: str
    ts_ns: int
    cause: Record | None

    @classmethod
    def of(cls, record: Record, n: int) -> Self:
        """The n-th event of a record."""
        return cls(record.key, record.event_id(n), _event_ns(record), record)

    @property
    def plan_id(self) -> str:
        """The id as a name, without what comes first of one with a long key: its end tells it from the model's others."""
        return self.id[-NAME_LENGTH:]


class RoutingProcessor(Processor[RoutingState]):
    """Counts the tokens of each expert in windows; plans the placement when a window closes, the shares of replicas as
    tokens come, and every batch's slots.

    With the option `acknowledge` a published placement is in force once a consumer says that it has applied it; until then,
    or until its time is over, no other is planned. A token batch or load of a model without topology waits for it
    (`Transient`); one that contradicts the topology is poison. Windows close at records, so any split of the records into
    batches gives the same plans.

    A placement is planned from what was known at the end of its window, and published with the first record that is `plan_ms`
    younger; where no record comes any more, by a tick. Meanwhile the next window stays open. With `ahead`, which computes the
    plan meanwhile, no record waits for it; without, the same plans come later.
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
        ahead: Ahead[Decision] | None = None,
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
        """Have the device ready before a plan asks for it; one that cannot be had is told in each plan's `fallback_reason`."""
        device = self.options.device
        if device is not None and self.runtime is not None:
            try:
                self.runtime().prepare(device, timeout_s=DEVICE_READY_S)
            except Refused as refused:
                raise OptionError(f"option device: {device!r}, {refused.detail}") from refused

    def on_tick(self, tick: Tick, state: RoutingState) -> Result[RoutingState]:
        """Publish the placement of a window where no record came since the last tick."""
        if not tick.idle or not state.planning or not self._is_due(state, tick.now_ns):
            return Result()
        memory = Memory(state)
        events = self._end_plan(Stamp(tick.key, tick.event_id(0), tick.now_ns, None), memory)
        return Result(events, (), memory.state())

    def process(self, batch: Batch, state: RoutingState | None, now_ns: int) -> Result[RoutingState]:
        memory = None if state is None else Memory(state)
        events: list[Event] = []
        dead: list[Poison] = []
        for record in batch.records:
            due = memory is not None and self._is_due(memory, _event_ns(record))
            planned = self._end_plan(Stamp.of(record, 0), memory) if due and memory is not None else []
            try:
                memory, more = self._take(record, memory, len(planned))
                planned += more
            except ProblemError as exc:
                dead.append(Poison(record, str(exc)))
            events += planned
        return Result(events, dead, None if memory is None else memory.state())

    def _take(self, record: Record, memory: Memory | None, n: int) -> tuple[Memory, list[Event]]:
        """The memory after a record, and its events from the n-th on."""
        frame = record.frame
        if isinstance(frame, ExpertTopology):
            return self._adopt_topology(record, frame, memory, n)
        if memory is None:
            raise Transient(f"model {record.key!r} has no topology yet: publish it to {EXPERTS_TOPOLOGY.name}")
        events: list[Event] = []
        if isinstance(frame, TokenBatch):
            check_batch(frame, memory.topology)
            served = frame
            if self.options.routing_plans:
                plan = self._route(record.event_id(n), frame, memory)
                events.append(Event(ROUTING_PLAN, record.key, plan.plan_id, plan, record))
                served = frame if plan.expert_ids is None else frame.model_copy(update={"topk_ids": plan.expert_ids})
            memory.add_batch(served, self.options.labels, self._pair_tokens())
        elif isinstance(frame, ExpertLoad):
            _check_load(frame, memory.topology)
            if memory.remember_window(f"{frame.source}/{frame.window_id}"):
                memory.add(frame.logical_count, None, frame.num_tokens * memory.topology.num_layers)
                if frame.cooccurrence is not None and self.options.colocate:
                    memory.add_pairs(frame.cooccurrence)
                if frame.queued_by_label is not None and self.options.labels:
                    memory.queue(frame.queued_by_label, self.options.labels)
        elif isinstance(frame, PlacementAck) and not memory.acknowledge(frame.applied_version):
            waiting = "" if memory.proposed is None else f" and {memory.proposed_version}, which waits for it"
            raise ProblemError(
                f"applied_version is {frame.applied_version}, allowed are {memory.version}, which is in force,{waiting}"
            )
        if memory.is_full(self.options.window_tokens * (LONGEST_WINDOW if memory.planning else 1)):
            events += self._close_window(record, memory, n + len(events))
        if memory.is_live(self.options.shares_tokens):
            events.append(self._shares_event(Stamp.of(record, n + len(events)), memory))
        return memory, events

    def _close_window(self, record: Record, memory: Memory, n: int) -> list[Event]:
        """The window that is full joins the history, and a placement is planned for what follows."""
        events = self._end_plan(Stamp.of(record, n), memory) if memory.planning else []
        memory.close_window(self.options.windows)
        now_ns = _event_ns(record)
        since_ns = abs(now_ns - memory.planned_ns)
        # Clocks that stand still say nothing of when the last plan was made.
        if self.options.placement != "off" and (since_ns >= self.options.plan_every_s * 1e9 or since_ns == 0):
            memory.begin_plan(now_ns, self.options.colocate)
            if self._is_due(memory, now_ns):
                events += self._end_plan(Stamp.of(record, n + len(events)), memory)
            elif self.ahead is not None:
                self.ahead.start(self._plan_key(record.key, memory), self._plan(memory))
        memory.fade(self.options.labels, self.options.colocate)
        return events

    def _adopt_topology(
        self, record: Record, topology: ExpertTopology, memory: Memory | None, n: int
    ) -> tuple[Memory, list[Event]]:
        """A new model starts afresh; a changed topology does too, under a higher version, since old slots mean nothing.

        Where no more than the capacity of GPUs changed, slots and history stay, and a placement is planned at once.
        """
        live = len(live_slots(topology))
        if live < topology.num_logical_experts:
            raise ProblemError(
                f"gpu_capacity leaves {live} slots of GPUs with capacity, allowed are at least {topology.num_logical_experts},"
                " one an expert"
            )
        size = topology.num_layers * (SLOT_BYTES * topology.num_slots + 4 * topology.num_logical_experts)
        if size > PlacementPlan.MAX_BYTES * 0.95:
            raise ProblemError(f"a plan of this topology may have {size} bytes, allowed are at most {PlacementPlan.MAX_BYTES}")
        # The state keeps what planning needs; the cost matrix of a large cluster would outgrow a field.
        kept = topology.model_copy(update={"rank_cost": None})
        if memory is not None and kept == memory.topology:
            return memory, []
        if memory is not None and _without_capacity(kept) == _without_capacity(memory.topology):
            memory.topology = kept
            memory.end_plan()
            if self.options.placement == "off":
                return memory, []
            memory.begin_plan(_event_ns(record), self.options.colocate)
            return memory, self._end_plan(Stamp.of(record, n), memory)
        fresh = Memory.fresh(kept, self.options.windows)
        fresh.version = _next_version(0 if memory is None else memory.version, _event_ns(record))
        if memory is not None:
            return fresh, [self._reset_event(Stamp.of(record, n), fresh, memory.version, ResetReason.TOPOLOGY_CHANGED)]
        if live < topology.num_slots:
            return fresh, [self._reset_event(Stamp.of(record, n), fresh, 0, ResetReason.CAPACITY_MISSING)]
        return fresh, []

    def _reset_event(self, stamp: Stamp, fresh: Memory, base: int, reason: ResetReason) -> Event:
        """The placement that a topology begins with, so that readers know what the slots of the next plans mean."""
        topology = fresh.topology
        plan = PlacementPlan(
            model=stamp.key,
            plan_id=stamp.id,
            ts_ns=stamp.ts_ns,
            version=fresh.version,
            base_version=base,
            num_gpus=topology.num_gpus,
            slots_per_gpu=topology.slots_per_gpu,
            reset_reason=reason,
            solver=SolverRecord(solver="contiguous"),
            **map_arrays(fresh.placement, topology),
        )
        return Event(PLACEMENT_PLAN, stamp.key, stamp.id, plan, stamp.cause)

    def _route(self, plan_id: str, batch: TokenBatch, memory: Memory) -> RoutingPlan:
        """The slots of the batch's tokens and, if asked, the nodes of its requests."""
        plan = route_tokens(
            batch,
            memory.topology,
            self.options,
            placement=memory.placement,
            plan_id=plan_id,
            placement_version=memory.version,
        )
        if not self.options.request_nodes or batch.request_id is None:
            return plan
        requests = route_requests(batch, memory.topology, memory.placement, label_counts=memory.counts_by_label())
        return plan.model_copy(update={"request_id": requests.request_id, "request_node": requests.node})

    def _shares_event(self, stamp: Stamp, memory: Memory) -> Event:
        counts, topology, placement = memory.take_live(), memory.topology, memory.placement
        load, even, capacity = counts.astype(np.float64), None, None
        if topology.gpu_capacity is not None:
            capacity, maps = capacities(topology), map_arrays(placement, topology)
            load, even = load * (maps["logical_replica_count"] > 0), maps["replica_shares"]
        shares = dispatch_shares(load, placement, topology)
        plan = DispatchShares(
            model=stamp.key,
            plan_id=stamp.id,
            ts_ns=stamp.ts_ns,
            ttl_s=self.options.ttl_s,
            placement_version=memory.version,
            gate_choices=int(counts.sum()),
            solver=SolverRecord(solver="water-filling"),
            shares=shares,
            score=SharesScore(
                balancedness_even=balancedness(placement, load, topology.num_gpus, even, capacity),
                balancedness=balancedness(placement, load, topology.num_gpus, shares, capacity),
            ),
        )
        return Event(DISPATCH_SHARES, stamp.key, stamp.id, plan, stamp.cause)

    def _is_due(self, memory: Memory | RoutingState, now_ns: int) -> bool:
        """Whether the placement that is being planned is to be published now."""
        return memory.planning and now_ns >= memory.planned_ns + self.options.plan_ms * 1e6

    def _end_plan(self, stamp: Stamp, memory: Memory) -> list[Event]:
        """The placement that was being planned, as an event; none if placements were switched off meanwhile."""
        if self.options.placement == "off":
            memory.end_plan()
            return []
        base = version = memory.version
        decision = self._decide(stamp, memory)
        memory.end_plan()
        if decision.skip_reason is None:
            # A tick that is repeated after a crash has the same id, and consumers drop it: so it must say the same version.
            at_ns = stamp.ts_ns if stamp.cause else memory.planned_ns + int(self.options.plan_ms * 1e6)
            version = _next_version(max(base, memory.proposed_version), at_ns)
            memory.propose(decision.physical_to_logical, version, stamp.ts_ns)
            if not self.options.acknowledge:
                memory.acknowledge(version)
        plan = placement_frame(
            decision,
            memory.topology,
            model=stamp.key,
            plan_id=stamp.plan_id,
            ts_ns=stamp.ts_ns,
            version=version,
            base_version=base,
            ttl_s=self.options.ttl_s,
        )
        return [Event(PLACEMENT_PLAN, stamp.key, stamp.id, plan, stamp.cause)]

    def _decide(self, stamp: Stamp, memory: Memory) -> Decision:
        """The new plan, unless one still waits to be acknowledged or came into force while this one was made."""
        reason = None
        waits_s = abs(stamp.ts_ns - memory.proposed_ns) / 1e9
        if memory.version != memory.planning_version:
            reason = SkipReason.SUPERSEDED
        elif self.options.acknowledge and memory.proposed is not None and waits_s <= self.options.ttl_s:
            reason = SkipReason.NOT_ACKNOWLEDGED
        if reason is not None:
            return keep_placement(memory.history(), memory.placement, memory.topology, reason)
        if self.ahead is None:
            return self._plan(memory)()
        # Only made where the result is not there yet: making it copies the history.
        return self.ahead.result(self._plan_key(stamp.key, memory), lambda: self._plan(memory)())

    def _plan(self, memory: Memory) -> Callable[[], Decision]:
        """How the placement is planned: a pure function of what is known of the window's end, but for devices and deadlines."""
        history, placement, topology, options = memory.history(), memory.placement, memory.topology, self.options
        labels, queued = memory.planning_labels, memory.planning_queued
        pairs = memory.planning_coactivation(self._pair_tokens()) if options.colocate else None
        runtime = self.runtime() if options.device and self.runtime else None

        def plan() -> Decision:
            started = time.perf_counter()
            found = plan_placement(
                history,
                placement,
                topology,
                options,
                labels=None if labels is None else labels.astype(np.int64),
                queued=queued,
                coactivation=None if pairs is None else pairs(),
                runtime=runtime,
            )
            ROUTING_SOLVER_SECONDS.labels(found.solver.solver).observe(time.perf_counter() - started)
            return found

        return plan

    def _pair_tokens(self) -> int:
        """Tokens of a layer whose co-activations are remembered; 0 if none are."""
        return PAIR_WINDOWS * self.options.window_tokens if self.options.colocate else 0

    def _plan_key(self, key: str, memory: Memory) -> tuple[object, ...]:
        """What tells one plan from all others; capacities as well, which may change within the same millisecond."""
        return key, memory.planning_version, memory.planned_ns, memory.closed, self.options, capacities(memory.topology).tobytes()


def _without_capacity(topology: ExpertTopology) -> ExpertTopology:
    return topology.model_copy(update={"gpu_capacity": None})


def _event_ns(record: Record) -> int:
    return min(max(record.timestamp_ms, 0), TIME_MAX_MS) * 1_000_000


def _next_version(version: int, now_ns: int) -> int:
    """Higher than before, and than any before a loss of the state: the record's time where that is one."""
    now_ms = now_ns // 1_000_000
    return max(version + 1, now_ms if now_ms < TIME_MAX_MS else 0)


def _check_load(load: ExpertLoad, topology: ExpertTopology) -> None:
    allowed = (topology.num_layers, topology.num_logical_experts)
    if load.logical_count.shape != allowed:
        shape = list(load.logical_count.shape)
        raise ProblemError(f"logical_count has shape {shape}, allowed is {list(allowed)} by the topology")
