"""Processor: records of one power domain and its state, to plans and the next state."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import groupby
from typing import Final, Self

from qstream.contract import Batch, Event, Processor, Record, Result, Tick
from qstream.energy.acks import acknowledge
from qstream.energy.budgets import tree_of
from qstream.energy.memory import MAX_PUBLISHED, EnergyState, Memory, Published, carried, fresh
from qstream.energy.options import EnergyOptions
from qstream.energy.plan import failed_frame, hold, plan_frame, released_frame
from qstream.energy.planner import adopt, choose, held_until_ns, is_in_force
from qstream.energy.readings import fold
from qstream.energy.samples import gather
from qstream.energy.warm import warm
from qstream.errors import Poison, ProblemError, Transient
from qstream.module.inforce import TIME_MAX_MS
from qstream.module.planning import or_skipped
from qstream.module.planning import planned as timed
from schemas.control import Scalar
from schemas.energy import EnergyAck
from schemas.power import GpuTelemetry, PowerBudget, PowerTopology
from schemas.topics import ENERGY_ACK, ENERGY_PLAN, GPU_TELEMETRY, POWER_BUDGET, POWER_TOPOLOGY

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
    """

    name = "energy"
    inputs = (GPU_TELEMETRY, POWER_TOPOLOGY, POWER_BUDGET, ENERGY_ACK)
    outputs = (ENERGY_PLAN,)
    state = EnergyState
    tick_s: float | None = TICK_S

    def __init__(self, options: EnergyOptions | None = None) -> None:
        self.options = options or EnergyOptions()

    def configure(self, options: Mapping[str, Scalar]) -> Self:
        return type(self)(self.options.changed(options))

    def warm(self) -> None:
        warm()

    def process(self, batch: Batch, state: EnergyState | None, now_ns: int) -> Result[EnergyState]:
        memory = None if state is None else Memory(state)
        events: list[Event] = []
        dead: list[Poison] = []
        for is_telemetry, group in groupby(batch.records, _is_telemetry):
            if is_telemetry and memory is not None:
                events += self._fold(list(group), memory, dead)
                continue
            for record in group:
                try:
                    memory, more = self._take(record, memory)
                    events += more
                except ProblemError as exc:
                    dead.append(Poison(record, str(exc)))
        return Result(events, dead, None if memory is None else memory.state())

    def on_tick(self, tick: Tick, state: EnergyState) -> Result[EnergyState]:
        """Let go of all targets, once, where no record came for long."""
        silent = tick.idle and tick.now_ns - state.watermark_ns > self.options.lost_s * 1e9
        if not silent or state.released or not state.published_ns:
            return Result()
        memory, plan_id = Memory(state), tick.event_id(0)
        version, base = state.in_force.next_version(tick.now_ns), state.in_force.version
        plan = released_frame(memory, self.options, plan_id=plan_id, ts_ns=tick.now_ns, version=version, base_version=base)
        memory.set(in_force=state.in_force.proposed(version, tick.now_ns).acknowledged(), released=True)
        memory.edit("target_w")[:] = -1
        memory.edit("target_mhz")[:] = -1
        return Result([Event(ENERGY_PLAN, tick.key, plan_id, plan, None)], (), memory.state())

    def _take(self, record: Record, memory: Memory | None) -> tuple[Memory, list[Event]]:
        """The memory after a record, and its events."""
        frame = record.frame
        if isinstance(frame, PowerTopology):
            return _adopted(frame, memory), []
        if memory is None:
            raise Transient(f"domain {record.key!r} has no topology yet: publish it to {POWER_TOPOLOGY.name}")
        if isinstance(frame, PowerBudget):
            before = self._lowest_w(memory)
            hold(memory, frame)
            falls = self._lowest_w(memory) < before and memory.now.published_ns > 0
            return memory, self._publish(record, memory, at_once=True) if falls else []
        if isinstance(frame, EnergyAck):
            acknowledge(memory, frame)
        return memory, []

    def _lowest_w(self, memory: Memory) -> float:
        """The lowest budget of the domain that a plan made now must keep."""
        now = memory.now
        tree = tree_of(now.topology, now.budgets, now.watermark_ns, held_until_ns(self.options, now.watermark_ns))
        return float(tree.budget_w[0])

    def _fold(self, records: list[Record], memory: Memory, dead: list[Poison]) -> list[Event]:
        """Take telemetry in; the record that moves the domain's time past the next multiple of `plan_s` closes a tick."""
        events: list[Event] = []
        frames = [record.frame for record in records if isinstance(record.frame, GpuTelemetry)]
        samples = gather(frames, [_event_ns(record) for record in records], memory.now)
        dead += [Poison(records[at], str(fault)) for at, fault in samples.faults.items()]
        memory.set(released=memory.now.released and len(samples.faults) == len(records))
        period_ns, taken = int(self.options.plan_s * 1e9), 0
        while taken < len(records):
            planned_ns = memory.now.planned_ns
            taken = fold(memory, samples, taken, (planned_ns // period_ns + 1) * period_ns)
            boundary_ns = memory.now.watermark_ns // period_ns * period_ns
            if boundary_ns > planned_ns:
                memory.set(planned_ns=boundary_ns)
                if planned_ns > 0:  # else nodes that have not been heard yet are not lost
                    events += self._publish(records[taken - 1], memory, at_once=False)
        return events

    def _publish(self, record: Record, memory: Memory, *, at_once: bool) -> list[Event]:
        """The plan that holds now, unless it is in force and young."""
        now, plan_id, at_ns = memory.now, record.event_id(0), memory.now.watermark_ns

        def planned() -> list[Event]:
            found = timed(None, record.key, None, lambda: partial(choose, memory, self.options, at_ns))
            choice = found.value
            young = at_ns - memory.now.published_ns < self.options.ttl_s * 1e9 / RENEWED
            if young and not at_once and is_in_force(memory, choice):
                return []
            version = now.in_force.next_version(at_ns)
            base = now.in_force.version
            plan = plan_frame(choice, memory, self.options, plan_id=plan_id, ts_ns=at_ns, version=version, base_version=base)
            adopt(memory, choice)
            memory.set(in_force=now.in_force.proposed(version, at_ns).acknowledged(), reset=False, acks=())
            memory.set(published=(*now.published, Published(plan_id=plan_id, ts_ns=at_ns))[-MAX_PUBLISHED:])
            return [Event(ENERGY_PLAN, record.key, plan_id, plan, record, found.seconds)]

        def skipped() -> list[Event]:
            frame = failed_frame(memory, self.options, plan_id=plan_id, ts_ns=at_ns)
            return [Event(ENERGY_PLAN, record.key, plan_id, frame, record)]

        return or_skipped(memory, record.key, planned, skipped)


def _is_telemetry(record: Record) -> bool:
    return isinstance(record.frame, GpuTelemetry)


def _event_ns(record: Record) -> int:
    """The time of a record in ns, within what int64 holds."""
    return min(max(record.timestamp_ms, 0), TIME_MAX_MS) * 1_000_000


def _adopted(topology: PowerTopology, memory: Memory | None) -> Memory:
    """The memory under a topology: what is known of GPUs whose limits and clocks are the same stays."""
    if memory is None:
        return fresh(topology)
    return memory if topology == memory.now.topology else carried(memory, topology)
