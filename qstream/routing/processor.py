"""Processor: records of one model and its state, to plans and the next state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray

from qstream.contract import Batch, Event, Record, Result
from qstream.errors import OptionError, Poison, ProblemError, Transient
from qstream.quantum.record import Refused
from qstream.quantum.runtime import QuantumRuntime
from qstream.routing.decision import Decision, map_arrays, placement_frame
from qstream.routing.memory import Memory, RoutingState
from qstream.routing.options import RoutingOptions
from qstream.routing.plan import keep_placement, plan_placement, plan_route
from qstream.routing.problem import capacities, live_slots
from qstream.routing.score import balancedness
from qstream.routing.shares import dispatch_shares
from qstream.routing.warm import warm
from schemas.control import Scalar
from schemas.experts import ExpertLoad, ExpertTopology
from schemas.placement import PlacementAck, PlacementPlan, PlacementScore
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

SLOT_BYTES = 32  # of a plan, a slot in the worst case: its expert, its share, and the five columns of a move
TIME_MAX_MS = 10**14
DEVICE_READY_S = 30.0


class RoutingProcessor:
    """Counts the tokens of each expert in windows; plans the placement when a window closes, the shares of replicas as
    tokens come, and every batch's slots.

    With the option `acknowledge` a published placement is in force once a consumer says that it has applied it; until then,
    or until its time is over, no other is planned. A token batch or load of a model without topology waits for it
    (`Transient`); one that contradicts the topology is poison. Windows close at records, so any split of the records into
    batches gives the same plans.
    """

    name = "routing"
    inputs = (TOKENS_BATCH, EXPERTS_LOAD, EXPERTS_TOPOLOGY, PLACEMENT_ACK)
    outputs = (ROUTING_PLAN, PLACEMENT_PLAN, DISPATCH_SHARES)
    state = RoutingState
    tick_s: float | None = None

    def __init__(self, options: RoutingOptions | None = None, runtime: Callable[[], QuantumRuntime] | None = None) -> None:
        """`runtime` makes or gives the one where devices are found; it is asked when a device is named."""
        self.options = options or RoutingOptions()
        self.runtime = runtime

    def configure(self, options: Mapping[str, Scalar]) -> Self:
        changed = type(self)(self.options.changed(options), self.runtime)
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

    def on_tick(self, key: str, state: RoutingState, now_ns: int, version: int) -> Result[RoutingState]:
        return Result()

    def process(self, batch: Batch, state: RoutingState | None, now_ns: int) -> Result[RoutingState]:
        memory = None if state is None else Memory(state)
        events: list[Event] = []
        dead: list[Poison] = []
        for record in batch.records:
            try:
                memory, planned = self._take(record, memory)
                events += planned
            except ProblemError as exc:
                dead.append(Poison(record, str(exc)))
        return Result(events, dead, None if memory is None else memory.state())

    def _take(self, record: Record, memory: Memory | None) -> tuple[Memory, list[Event]]:
        frame = record.frame
        if isinstance(frame, ExpertTopology):
            return self._adopt_topology(record, frame, memory)
        if memory is None:
            raise Transient(f"model {record.key!r} has no topology yet: publish it to {EXPERTS_TOPOLOGY.name}")
        events: list[Event] = []
        if isinstance(frame, TokenBatch):
            counts = _gate_counts(frame, memory.topology)
            if self.options.routing_plans:
                events.append(self._routing_event(record, frame, memory))
            if counts is not None:
                memory.add(counts, frame.layer, len(frame.token_id))
                memory.add_batch(frame, self.options.labels, self.options.colocate)
        elif isinstance(frame, ExpertLoad):
            _check_load(frame, memory.topology)
            if memory.remember_window(f"{frame.source}/{frame.window_id}"):
                memory.add(frame.logical_count, None, frame.num_tokens * memory.topology.num_layers)
                if frame.queued_by_label is not None and self.options.labels:
                    memory.queue(frame.queued_by_label, self.options.labels)
        elif isinstance(frame, PlacementAck) and not memory.acknowledge(frame.applied_version):
            waiting = "" if memory.proposed is None else f" and {memory.proposed_version}, which waits for it"
            raise ProblemError(
                f"applied_version is {frame.applied_version}, allowed are {memory.version}, which is in force,{waiting}"
            )
        if memory.is_full(self.options.window_tokens):
            history = memory.close_window(self.options.windows)
            if self.options.placement != "off":
                events.append(self._placement_event(record, history, memory, n=len(events)))
            memory.fade(self.options.labels, self.options.colocate)
        if memory.is_live(self.options.shares_tokens):
            events.append(self._shares_event(record, memory, n=len(events)))
        return memory, events

    def _adopt_topology(self, record: Record, topology: ExpertTopology, memory: Memory | None) -> tuple[Memory, list[Event]]:
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
            planned = self.options.placement != "off"
            return memory, [self._placement_event(record, memory.history(), memory, n=0)] if planned else []
        fresh = Memory.fresh(kept, self.options.windows)
        fresh.version = _next_version(0 if memory is None else memory.version, record)
        if memory is not None:
            return fresh, [self._reset_event(record, fresh, memory.version, "the topology changed")]
        if live < topology.num_slots:
            return fresh, [self._reset_event(record, fresh, 0, "GPUs without capacity hold no expert")]
        return fresh, []

    def _reset_event(self, record: Record, fresh: Memory, base: int, reason: str) -> Event:
        """The placement that a topology begins with, so that readers know what the slots of the next plans mean."""
        topology, event_id = fresh.topology, record.event_id(0)
        plan = PlacementPlan(
            model=record.key, plan_id=event_id, ts_ns=_event_ns(record), version=fresh.version, base_version=base,
            num_gpus=topology.num_gpus, slots_per_gpu=topology.slots_per_gpu, reset_reason=reason,
            expected=PlacementScore(balancedness_before=1.0, balancedness=1.0, worst_layer_balancedness=1.0, moved_experts=0),
            solver=SolverRecord(tier=0, name="contiguous"), **map_arrays(fresh.placement, topology),
        )  # fmt: skip
        return Event(PLACEMENT_PLAN, record.key, event_id, plan, record)

    def _routing_event(self, record: Record, batch: TokenBatch, memory: Memory) -> Event:
        route = plan_route(batch, memory.placement, memory.topology, self.options)
        event_id = record.event_id(0)
        plan = RoutingPlan(
            plan_id=event_id, batch_id=batch.batch_id, model=batch.model, layer=batch.layer, ts_ns=batch.ts_ns,
            ttl_s=None if batch.deadline_ms is None else batch.deadline_ms / 1000,
            placement_version=memory.version, metrics=route.metrics,
            solver=SolverRecord(tier=0, name="hash", seed=self.options.seed),
            assignment=route.assignment, slot_ids=route.slot_ids,
        )  # fmt: skip
        return Event(ROUTING_PLAN, record.key, event_id, plan, record)

    def _shares_event(self, record: Record, memory: Memory, n: int) -> Event:
        counts, topology, placement = memory.take_live(), memory.topology, memory.placement
        load, even, capacity = counts.astype(np.float64), None, None
        if topology.gpu_capacity is not None:
            capacity, maps = capacities(topology), map_arrays(placement, topology)
            load, even = load * (maps["logical_replica_count"] > 0), maps["replica_shares"]
        shares = dispatch_shares(load, placement, topology)
        event_id = record.event_id(n)
        plan = DispatchShares(
            model=record.key, plan_id=event_id, ts_ns=_event_ns(record), ttl_s=self.options.ttl_s,
            placement_version=memory.version, gate_choices=int(counts.sum()), shares=shares,
            score=SharesScore(
                balancedness_even=balancedness(placement, load, topology.num_gpus, even, capacity),
                balancedness=balancedness(placement, load, topology.num_gpus, shares, capacity),
            ),
        )  # fmt: skip
        return Event(DISPATCH_SHARES, record.key, event_id, plan, record)

    def _placement_event(self, record: Record, history: NDArray[np.int64], memory: Memory, n: int) -> Event:
        base = version = memory.version
        decision = self._decide(record, history, memory)
        if decision.skip_reason is None:
            version = _next_version(max(base, memory.proposed_version), record)
            memory.propose(decision.physical_to_logical, version, _event_ns(record))
            if not self.options.acknowledge:
                memory.acknowledge(version)
        event_id = record.event_id(n)
        plan = placement_frame(
            decision, memory.topology, model=record.key, plan_id=event_id, ts_ns=_event_ns(record), version=version,
            base_version=base, ttl_s=self.options.ttl_s,
        )  # fmt: skip
        return Event(PLACEMENT_PLAN, record.key, event_id, plan, record)

    def _decide(self, record: Record, history: NDArray[np.int64], memory: Memory) -> Decision:
        """A new plan, unless one is still waiting to be acknowledged."""
        age_s = (_event_ns(record) - memory.proposed_ns) / 1e9
        if self.options.acknowledge and memory.proposed is not None and age_s <= self.options.ttl_s:
            reason = f"version {memory.proposed_version} is not acknowledged yet"
            return keep_placement(history, memory.placement, memory.topology, reason)
        labels, queued = memory.demand() or (None, None)
        runtime = self.runtime() if self.options.device and self.runtime else None
        pairs = memory.coactivation() if self.options.colocate else None
        return plan_placement(
            history, memory.placement, memory.topology, self.options,
            labels=labels, queued=queued, coactivation=pairs, runtime=runtime,
        )  # fmt: skip


def _without_capacity(topology: ExpertTopology) -> ExpertTopology:
    return topology.model_copy(update={"gpu_capacity": None})


def _event_ns(record: Record) -> int:
    return record.timestamp_ms * 1_000_000


def _next_version(version: int, record: Record) -> int:
    """Higher than before, and than any before a loss of the state: the record's time where that is one."""
    return max(version + 1, record.timestamp_ms if record.timestamp_ms < TIME_MAX_MS else 0)


def _gate_counts(batch: TokenBatch, topology: ExpertTopology) -> NDArray[np.int64] | None:
    """Tokens by expert of the batch's layer, int64 [E]; None without gate. `ProblemError` if it contradicts the topology."""
    if batch.topk_ids is None or batch.layer is None:
        return None
    experts = topology.num_logical_experts
    if batch.layer >= topology.num_layers:
        raise ProblemError(f"layer is {batch.layer}, allowed are 0 to {topology.num_layers - 1} by the topology")
    highest = int(batch.topk_ids.max())
    if highest >= experts:
        raise ProblemError(f"topk_ids has expert {highest}, allowed are 0 to {experts - 1} by the topology")
    return np.bincount(batch.topk_ids.ravel(), minlength=experts)


def _check_load(load: ExpertLoad, topology: ExpertTopology) -> None:
    allowed = (topology.num_layers, topology.num_logical_experts)
    if load.logical_count.shape != allowed:
        shape = list(load.logical_count.shape)
        raise ProblemError(f"logical_count has shape {shape}, allowed is {list(allowed)} by the topology")
