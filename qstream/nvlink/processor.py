"""Processor: records of one fabric and its state, to plans and the next state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Self

from qstream.contract import Batch, Event, Processor, Record, Result, Tick
from qstream.errors import Poison, ProblemError, Transient
from qstream.module.stamp import Stamp, event_ns
from qstream.nvlink import memory as remembered
from qstream.nvlink import telemetry
from qstream.nvlink.memory import NO_WINDOW, FabricState, Memory
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.shares import fallen_back, next_shares
from qstream.nvlink.warm import warm
from schemas.control import Scalar
from schemas.fabric import FabricTopology, LinkTelemetry
from schemas.topics import FABRIC_ROUTES, FABRIC_TELEMETRY, FABRIC_TOPOLOGY, LEARN_COMMAND

TICK_S: Final = 1.0


class NvlinkProcessor(Processor[FabricState]):
    """Plans a fabric from its topology and what its links carried.

    Telemetry is added up in windows of `window_ms` by the end of each record's own; the first record of a later window closes
    the one before, and shares for the next are published. Telemetry of a fabric without topology waits for it (`Transient`).
    Where none comes for `stale_s`, shares go back to WCMP, once.
    """

    name = "nvlink"
    inputs = (FABRIC_TOPOLOGY, FABRIC_TELEMETRY, LEARN_COMMAND)
    outputs = (FABRIC_ROUTES,)
    learners = ("splits",)
    state = FabricState
    tick_s: float | None = TICK_S

    def __init__(self, options: NvlinkOptions | None = None) -> None:
        self.options = options or NvlinkOptions()

    def configure(self, options: Mapping[str, Scalar]) -> Self:
        return type(self)(self.options.changed(options))

    def warm(self) -> None:
        warm()

    def process(self, batch: Batch, state: FabricState | None, now_ns: int) -> Result[FabricState]:
        memory = None if state is None else Memory(state)
        events: list[Event] = []
        dead: list[Poison] = []
        for record in batch.records:
            try:
                memory, more = self._take(record, memory)
            except ProblemError as exc:
                dead.append(Poison(record, str(exc)))
            else:
                events += more
        return Result(events, dead, None if memory is None else memory.state())

    def on_tick(self, tick: Tick, state: FabricState) -> Result[FabricState]:
        """Where no telemetry comes any more, shares that were learnt serve no longer."""
        silent = tick.now_ns - state.heard_ns > self.options.stale_s * 1e9
        if not tick.idle or not silent or state.stale or state.heard_ns == 0 or self.options.shares != "mix":
            return Result()
        memory = Memory(state)
        leaves = remembered.leaves_of(memory)
        if leaves is None:
            return Result()
        stamp = Stamp.of_tick(tick, 0)
        plan = fallen_back(memory, leaves, self.options, plan_id=stamp.id, ts_ns=stamp.ts_ns)
        memory.set(stale=True)
        return Result([Event(FABRIC_ROUTES, tick.key, stamp.id, plan, None)], (), memory.state())

    def _take(self, record: Record, memory: Memory | None) -> tuple[Memory | None, list[Event]]:
        """The memory after a record, and its events."""
        frame = record.frame
        if isinstance(frame, FabricTopology):
            return self._adopted(record, frame, memory)
        if memory is None:
            raise Transient(f"fabric {record.key!r} has no topology yet: publish it to {FABRIC_TOPOLOGY.name}")
        assert isinstance(frame, LinkTelemetry)  # the loop decodes by topic
        with memory.atomic():
            return memory, self._told(record, frame, memory)

    def _adopted(self, record: Record, topology: FabricTopology, memory: Memory | None) -> tuple[Memory, list[Event]]:
        if memory is None:
            memory = remembered.fresh(topology)
        elif topology.digest() == memory.now.digest:
            memory.set(topology=topology)  # names may have changed
            return memory, []
        else:
            remembered.adopt(memory, topology)
        return memory, self._shares(record, memory, closes=False)

    def _told(self, record: Record, told: LinkTelemetry, memory: Memory) -> list[Event]:
        """Take telemetry in; the first record of a later window closes the one before."""
        window = telemetry.window_of(told, self.options.window_ms)
        now = memory.now
        events = []
        if now.window != NO_WINDOW and window > now.window and told.topology_digest == now.digest:
            events = self._shares(record, memory, closes=True)
        telemetry.take(memory, told, window)
        memory.set(stale=False)
        return events

    def _shares(self, record: Record, memory: Memory, *, closes: bool) -> list[Event]:
        """The shares that serve from now on, if there is a choice of spines and they are wanted."""
        leaves = remembered.leaves_of(memory)
        if leaves is None or self.options.shares == "off":
            return []
        demand, measured = telemetry.close(memory, leaves, self.options.window_ms) if closes else (None, None)
        stamp = Stamp.of(record, 0)
        plan = next_shares(memory, leaves, self.options, demand, measured, plan_id=stamp.id, ts_ns=event_ns(record))
        return [Event(FABRIC_ROUTES, record.key, stamp.id, plan, record)]
