"""Processor: records of one power domain and its state, to plans and the next state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import groupby, takewhile
from typing import Final, Self

from qstream.ahead import Ahead
from qstream.contract import Batch, Event, Processor, Record, Result, Tick
from qstream.energy.acks import acknowledge
from qstream.energy.budgets import tree_of
from qstream.energy.children import heard, watermark_ns
from qstream.energy.enforced import held_until_ns
from qstream.energy.graphs import GraphPlan
from qstream.energy.learned import LEARNERS, WANTS
from qstream.energy.memory import MAX_PUBLISHED, EnergyState, Memory, Published, carried, fresh
from qstream.energy.options import EnergyOptions
from qstream.energy.outlook import SECOND_NS, advanced, fresh_outlook
from qstream.energy.parents import parent_events
from qstream.energy.plan import failed_frame, hold, plan_frame, released_frame
from qstream.energy.planner import adopt, choose, demanded, is_in_force
from qstream.energy.readings import drawn_w, fold
from qstream.energy.samples import gather
from qstream.energy.scheduler import Scheduler
from qstream.energy.serving import served
from qstream.energy.warm import warm
from qstream.errors import Poison, ProblemError, Transient
from qstream.learn.registry import Models, Registry
from qstream.module.device import prepare_device
from qstream.module.planning import Planned, or_skipped
from qstream.module.planning import planned as timed
from qstream.module.stamp import Stamp, event_ns
from qstream.quantum.runtime import QuantumRuntime
from schemas.control import Scalar
from schemas.energy import EnergyAck
from schemas.frame import Frame
from schemas.power import MAX_GPUS, GpuTelemetry, PowerBudget, PowerDemand, PowerTopology, ServingLoad
from schemas.tasks import TaskGraph
from schemas.topics import (
    ENERGY_ACK,
    ENERGY_PLAN,
    GPU_TELEMETRY,
    LEARN_COMMAND,
    LEARN_DECISION,
    MODELS,
    POWER_BUDGET,
    POWER_DEMAND,
    POWER_TOPOLOGY,
    SERVING_LOAD,
    TASK_GRAPH,
    TASK_SCHEDULE,
)
from schemas.wording import must_be

OWN_EVENTS: Final = 2 + MAX_GPUS  # of a record: a plan, a demand, and budgets of children
TICK_S: Final = 1.0
RENEWED: Final = 3  # times within its time that a plan which stays is published: a node that is cut off has a young one


class EnergyProcessor(Processor[EnergyState]):
    """Plans the power limits and clock caps of a domain from the telemetry of its GPUs.

    The time of a domain is the median over its nodes of the newest record of each, so that one node with a wrong clock, or none,
    neither drives nor holds it. The record that moves it past a multiple of `plan_s` closes a tick: measurements, then a plan,
    which is published if it differs from the one in force, or to renew that; the first tick only begins.
    A budget that falls makes a plan at once. Telemetry
    of a domain without topology waits for it (`Transient`); what contradicts the topology is poison. Where no record comes for
    `lost_s`, one plan lets go of all targets.

    A domain whose topology has a parent publishes what watts are worth to it, with each plan. One with children in place of GPUs
    takes such demands in place of telemetry, and its ticks publish the budgets of its children.

    A graph of tasks has a simple schedule at once, and the solved one with the first record that is `plan_ms` younger, or, where
    no record comes any more, by a tick. With `ahead`, which computes it meanwhile, that record waits if it is late (`NotYet`);
    without, it is computed with that record. Both give the same schedules. A window of demand on a served model that needs
    another number of replicas makes a plan at once.
    """

    name = "energy"
    inputs = (GPU_TELEMETRY, POWER_TOPOLOGY, POWER_BUDGET, POWER_DEMAND, ENERGY_ACK, TASK_GRAPH, SERVING_LOAD, LEARN_COMMAND)
    outputs = (ENERGY_PLAN, TASK_SCHEDULE, POWER_DEMAND, POWER_BUDGET, LEARN_DECISION)
    tables = (MODELS,)
    learners = LEARNERS
    state = EnergyState
    tick_s: float | None = TICK_S
    models: Models

    def __init__(
        self,
        options: EnergyOptions | None = None,
        runtime: Callable[[], QuantumRuntime] | None = None,
        ahead: Ahead[Planned[GraphPlan]] | None = None,
        models: Models | None = None,
        registry: Registry | None = None,
    ) -> None:
        """`runtime` makes or gives the one where devices are found; it is asked when a device is named."""
        self.options = options or EnergyOptions()
        self.runtime = runtime
        self.models = models or Models()
        self.registry = registry or Registry(self.name, WANTS)
        self.scheduler = Scheduler(self.options, runtime, ahead, self.models)

    def with_tables(self, rows: Mapping[str, Mapping[str, Frame]]) -> Self:
        models = self.registry.taken(rows[MODELS.name])
        return type(self)(self.options, self.runtime, self.scheduler.ahead, models, self.registry)

    def configure(self, options: Mapping[str, Scalar]) -> Self:
        changed = type(self)(self.options.changed(options), self.runtime, self.scheduler.ahead, self.models, self.registry)
        if changed.options.device != self.options.device:
            prepare_device(changed.options.device, changed.runtime)
        return changed

    def warm(self) -> None:
        warm(self.options)
        prepare_device(self.options.device, self.runtime)

    def process(self, batch: Batch, state: EnergyState | None, now_ns: int) -> Result[EnergyState]:
        memory = None if state is None else Memory(state)
        events: list[Event] = []
        dead: list[Poison] = []
        for is_telemetry, group in groupby(batch.records, _is_telemetry):
            records = list(group)
            while records:
                taken = 1
                if is_telemetry and memory is not None:
                    taken = self.scheduler.until_due(records, memory)
                    events += self._fold(records[:taken], memory, dead)
                else:
                    try:
                        memory, more = self._take(records[0], memory)
                        events += more
                    except ProblemError as exc:
                        dead.append(Poison(records[0], str(exc)))
                if memory is not None:
                    last = records[taken - 1]
                    events += self.scheduler.due(partial(_after, last, _own(last, events)), event_ns(last), memory)
                records = records[taken:]
        return Result(events, dead, None if memory is None else memory.state())

    def on_tick(self, tick: Tick, state: EnergyState) -> Result[EnergyState]:
        """Where no record comes any more: publish schedules that are due, and let go of all targets, once, after long."""
        if not tick.idle:
            return Result()
        memory = Memory(state)
        events = self.scheduler.due(partial(Stamp.of_tick, tick), tick.now_ns, memory)
        lost = tick.now_ns - state.watermark_ns > self.options.lost_s * 1e9
        if lost and not state.released and state.published_ns and state.children is None:
            events.append(self._released(tick, state, memory, len(events)))
        return Result(events, (), memory.state()) if events else Result()

    def _released(self, tick: Tick, state: EnergyState, memory: Memory, n: int) -> Event:
        """The plan that lets go of all targets."""
        plan_id = tick.event_id(n)
        version, base = state.in_force.next_version(tick.now_ns), state.in_force.version
        plan = released_frame(memory, self.options, plan_id=plan_id, ts_ns=tick.now_ns, version=version, base_version=base)
        memory.set(in_force=state.in_force.proposed(version, tick.now_ns).acknowledged(), released=True)
        memory.edit("target_w")[:] = -1
        memory.edit("target_mhz")[:] = -1
        return Event(ENERGY_PLAN, tick.key, plan_id, plan, None)

    def _take(self, record: Record, memory: Memory | None) -> tuple[Memory | None, list[Event]]:
        """The memory after a record, and its events."""
        frame = record.frame
        if isinstance(frame, PowerTopology):
            before = {} if memory is None else self._budgets_w(memory)
            return self._if_lower(record, _adopted(frame, memory), before)
        if memory is None and isinstance(frame, PowerDemand):
            return None, []  # the next one comes soon, and meanwhile the child goes on as it is
        if memory is None:
            raise Transient(f"domain {record.key!r} has no topology yet: publish it to {POWER_TOPOLOGY.name}")
        if isinstance(frame, PowerBudget):
            before = self._budgets_w(memory)
            hold(memory, frame)
            return self._if_lower(record, memory, before)
        if isinstance(frame, PowerDemand):
            return memory, self._hear(record, frame, memory)
        if isinstance(frame, ServingLoad):
            changes = self._serve(memory, frame) and memory.now.published_ns > 0
            return memory, self._publish(record, memory, at_once=True) if changes else []
        if isinstance(frame, TaskGraph):
            return memory, self.scheduler.take(partial(Stamp.of, record), frame, memory)
        if isinstance(frame, EnergyAck):
            acknowledge(memory, frame)
        return memory, []

    def _hear(self, record: Record, demand: PowerDemand, memory: Memory) -> list[Event]:
        """Take a child's demand in; one that moves the domain's time past the next multiple of `plan_s` closes a tick."""
        now = memory.now
        if now.children is None:
            raise ProblemError(must_be("domain", "one with children", demand.domain))
        children = heard(now.children, now.topology, demand, event_ns(record))
        memory.set(children=children, watermark_ns=max(now.watermark_ns, watermark_ns(children)))
        return self._close_tick(record, memory)

    def _close_tick(self, record: Record, memory: Memory) -> list[Event]:
        """A plan if the domain's time has passed the next multiple of `plan_s`."""
        period_ns, planned_ns = int(self.options.plan_s * 1e9), memory.now.planned_ns
        boundary_ns = memory.now.watermark_ns // period_ns * period_ns
        if boundary_ns <= planned_ns:
            return []
        memory.set(planned_ns=boundary_ns)
        # At the first tick nodes and children that have not been heard yet are not lost.
        return self._publish(record, memory, at_once=False) if planned_ns > 0 else []

    def _serve(self, memory: Memory, load: ServingLoad) -> bool:
        """Take a window of demand in; whether the number of active replicas should change."""
        before = memory.now.served
        memory.set(served=served(before, load, memory.now.topology))
        return [each.active for each in before] != [each.active for each in memory.now.served]

    def _if_lower(self, record: Record, memory: Memory, before_w: Mapping[str, float]) -> tuple[Memory, list[Event]]:
        """A plan at once if any budget is lower now than before; other changes wait for the next tick."""
        lower = any(watts < before_w.get(name, math.inf) for name, watts in self._budgets_w(memory).items())
        at_once = lower and memory.now.published_ns > 0
        return memory, self._publish(record, memory, at_once=True) if at_once else []

    def _budgets_w(self, memory: Memory) -> dict[str, float]:
        """The budgets that a plan made now must keep, by name."""
        now = memory.now
        tree = tree_of(now.topology, now.budgets, now.watermark_ns, held_until_ns(self.options, now.watermark_ns))
        return dict(zip(tree.names, tree.budget_w.tolist(), strict=True))

    def _fold(self, records: list[Record], memory: Memory, dead: list[Poison]) -> list[Event]:
        """Take telemetry in; the record that moves the domain's time past the next multiple of `plan_s` closes a tick."""
        events: list[Event] = []
        frames = [record.frame for record in records if isinstance(record.frame, GpuTelemetry)]
        samples = gather(frames, [event_ns(record) for record in records], memory.now)
        dead += [Poison(records[at], str(fault)) for at, fault in samples.faults.items()]
        memory.set(released=memory.now.released and len(samples.faults) == len(records))
        period_ns, taken = int(self.options.plan_s * 1e9), 0
        while taken < len(records):
            until_ns = (memory.now.planned_ns // period_ns + 1) * period_ns
            outlook = memory.now.outlook
            second_ns = until_ns if outlook is None else (outlook.second + 1) * SECOND_NS
            taken = fold(memory, samples, taken, min(until_ns, second_ns))
            self._foresee(memory)
            events += self._close_tick(records[taken - 1], memory)
            if outlook is None:  # begin with the first tick, at the same record however batches are split
                self._foresee(memory)
        return events

    def _foresee(self, memory: Memory) -> None:
        """Forecast the domain's watts, once a second; not before the first tick, until when nodes may not have been heard."""
        now = memory.now
        if now.planned_ns > 0:
            watts = drawn_w(now, self.options.lost_s)
            memory.set(outlook=advanced(now.outlook or fresh_outlook(), now.watermark_ns, watts, self.options.bound))

    def _publish(self, record: Record, memory: Memory, *, at_once: bool) -> list[Event]:
        """The plan that holds now, unless it is in force and young."""
        now, plan_id, at_ns = memory.now, record.event_id(0), memory.now.watermark_ns

        def planned() -> list[Event]:
            if now.children is not None:
                return parent_events(memory, record, self.options)
            found = timed(None, record.key, None, lambda: partial(choose, memory, self.options, at_ns))
            choice = found.value
            young = at_ns - memory.now.published_ns < self.options.ttl_s * 1e9 / RENEWED
            if young and not at_once and is_in_force(memory, choice):
                return []
            version = now.in_force.next_version(at_ns)
            base = now.in_force.version
            plan = plan_frame(choice, memory, self.options, plan_id=plan_id, ts_ns=at_ns, version=version, base_version=base)
            adopt(memory, choice)
            applied_ns = (now.applied_ns or at_ns) if self.options.mode == "apply" else 0
            memory.set(in_force=now.in_force.proposed(version, at_ns).acknowledged(), reset=False, acks=(), applied_ns=applied_ns)
            memory.set(published=(*now.published, Published(plan_id=plan_id, ts_ns=at_ns))[-MAX_PUBLISHED:])
            events = [Event(ENERGY_PLAN, record.key, plan_id, plan, record, found.seconds)]
            if now.topology.parent:
                events.append(Event(POWER_DEMAND, now.topology.parent, record.event_id(1), demanded(choice), record))
            return events

        def skipped() -> list[Event]:
            frame = failed_frame(memory, self.options, plan_id=plan_id, ts_ns=at_ns)
            return [Event(ENERGY_PLAN, record.key, plan_id, frame, record)]

        return or_skipped(memory, record.key, planned, skipped)


def _is_telemetry(record: Record) -> bool:
    return isinstance(record.frame, GpuTelemetry)


def _own(record: Record, events: list[Event]) -> int:
    """How many of the events so far a record has caused; they are the last ones."""
    return sum(1 for _ in takewhile(lambda event: event.cause is record, reversed(events)))


def _after(record: Record, own: int, n: int) -> Stamp:
    """The stamp of an event that comes with a record, after the record's own events."""
    return Stamp.of(record, own + n)


def _adopted(topology: PowerTopology, memory: Memory | None) -> Memory:
    """The memory under a topology: what is known of GPUs whose limits and clocks are the same stays."""
    if memory is None:
        return fresh(topology)
    return memory if topology == memory.now.topology else carried(memory, topology)
