"""Processor: records of one fabric and its state, to plans and the next state."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Self

from qstream.ahead import Ahead
from qstream.contract import Batch, Event, Processor, Record, Result, Tick
from qstream.errors import Poison, ProblemError, Transient
from qstream.learn.registry import Models, Registry
from qstream.module.planning import Planned
from qstream.module.stamp import Stamp, event_ns
from qstream.nvlink import memory as remembered
from qstream.nvlink import telemetry
from qstream.nvlink.memory import NO_WINDOW, FabricState, Memory
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.queue import Queue
from qstream.nvlink.shares import fallen_back, next_shares, note_report, note_telemetry
from qstream.nvlink.split_policy import NAME as SPLITS
from qstream.nvlink.trained import WANTS, chosen
from qstream.nvlink.warm import warm
from schemas.control import Scalar
from schemas.fabric import FabricPlan, FabricReport, FabricTopology, JobProfile, LinkTelemetry
from schemas.frame import Frame
from schemas.topics import (
    FABRIC_JOB,
    FABRIC_PLAN,
    FABRIC_REPORT,
    FABRIC_ROUTES,
    FABRIC_TELEMETRY,
    FABRIC_TOPOLOGY,
    LEARN_COMMAND,
    MODELS,
)

TICK_S: Final = 1.0


class NvlinkProcessor(Processor[FabricState]):
    """Plans a fabric from its topology and what its links carried.

    Telemetry is added up in windows of `window_ms` by the end of each record's own; the first record of a later window closes
    the one before, and shares for the next are published. Telemetry of a fabric without topology waits for it (`Transient`).
    Where none comes for `stale_s`, shares go back to WCMP, once.

    A job is planned on the GPUs that the others leave, one job at a time, and published with the first record that is `plan_ms`
    younger than when its planning began, or, where no record comes any more, by a tick. With `ahead`, which computes it
    meanwhile, that record waits if it is late (`NotYet`); without, it is computed with that record. Both give the same plans. A
    changed topology plans all jobs anew. A report says which version a job runs on.
    """

    name = "nvlink"
    inputs = (FABRIC_TOPOLOGY, FABRIC_JOB, FABRIC_TELEMETRY, FABRIC_REPORT, LEARN_COMMAND)
    outputs = (FABRIC_PLAN, FABRIC_ROUTES)
    tables = (MODELS,)
    learners = ("splits",)
    state = FabricState
    tick_s: float | None = TICK_S

    def __init__(
        self,
        options: NvlinkOptions | None = None,
        ahead: Ahead[Planned[FabricPlan]] | None = None,
        models: Models | None = None,
        registry: Registry | None = None,
    ) -> None:
        self.options = options or NvlinkOptions()
        self.registry = registry or Registry(self.name, WANTS)
        self.queue = Queue(self.options, ahead, models or Models())

    def with_tables(self, rows: Mapping[str, Mapping[str, Frame]]) -> Self:
        return type(self)(self.options, self.queue.ahead, self.registry.taken(rows[MODELS.name]), self.registry)

    def configure(self, options: Mapping[str, Scalar]) -> Self:
        return type(self)(self.options.changed(options), self.queue.ahead, self.queue.models, self.registry)

    def warm(self) -> None:
        warm()

    def process(self, batch: Batch, state: FabricState | None, now_ns: int) -> Result[FabricState]:
        memory = None if state is None else Memory(state)
        events: list[Event] = []
        dead: list[Poison] = []
        for record in batch.records:
            more: list[Event] = []
            try:
                memory, more = self._take(record, memory)
            except ProblemError as exc:
                dead.append(Poison(record, str(exc)))
            if memory is not None:
                more += self.queue.due(partial(Stamp.of, record), len(more), event_ns(record), memory)
            events += more
        return Result(events, dead, None if memory is None else memory.state())

    def on_tick(self, tick: Tick, state: FabricState) -> Result[FabricState]:
        """Where no record comes: plans that are due; shares that were learnt serve no longer without telemetry."""
        if not tick.idle:
            return Result()
        memory = Memory(state)
        events = self.queue.due(partial(Stamp.of_tick, tick), 0, tick.now_ns, memory)
        silent = tick.now_ns - state.heard_ns > self.options.stale_s * 1e9
        leaves = remembered.leaves_of(memory) if silent and state.heard_ns and not state.stale else None
        if leaves is not None and self.options.shares == "mix":
            stamp = Stamp.of_tick(tick, len(events))
            plan = fallen_back(memory, leaves, self.options, plan_id=stamp.id, ts_ns=stamp.ts_ns)
            memory.set(stale=True)
            events.append(Event(FABRIC_ROUTES, tick.key, stamp.id, plan, None))
        return Result(events, (), memory.state()) if events else Result()

    def _take(self, record: Record, memory: Memory | None) -> tuple[Memory | None, list[Event]]:
        """The memory after a record, and its events."""
        frame = record.frame
        if isinstance(frame, FabricTopology):
            return self._adopted(record, frame, memory)
        if memory is None:
            raise Transient(f"fabric {record.key!r} has no topology yet: publish it to {FABRIC_TOPOLOGY.name}")
        if isinstance(frame, JobProfile):
            self.queue.take(Stamp.of(record, 0), frame, memory)
            return memory, []
        if isinstance(frame, FabricReport):
            self.queue.acknowledge(memory, frame)
            note_report(memory, frame, self.options)
            return memory, []
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
            before = memory.now.topology
            remembered.adopt(memory, topology)
            self.queue.requeue(memory, before)
        return memory, self._shares(record, memory)

    def _told(self, record: Record, told: LinkTelemetry, memory: Memory) -> list[Event]:
        """Take telemetry in; the first record of a later window closes the one before."""
        window = telemetry.window_of(told, self.options.window_ms)
        now = memory.now
        events: list[Event] = []
        if told.topology_digest == now.digest:
            memory.set(stale=False)
            if now.window != NO_WINDOW and window > now.window:
                events = self._shares(record, memory, window)
        if telemetry.take(memory, told, window):
            note_telemetry(memory, told, window, self.options)
        return events

    def _shares(self, record: Record, memory: Memory, window: int = NO_WINDOW) -> list[Event]:
        """The shares that serve from now on, if there is a choice of spines and they are wanted; a later `window` closes the open
        one."""
        leaves = remembered.leaves_of(memory)
        if leaves is None or self.options.shares == "off":
            return []
        closed = NO_WINDOW if window == NO_WINDOW else memory.now.window
        ended = closed != NO_WINDOW
        demand, measured = telemetry.close(memory, leaves, self.options.window_ms) if ended else (None, None)
        stamp = Stamp.of(record, 0)
        model = chosen(self.queue.models, SPLITS, self.options.model) if self.options.rl else None
        named: dict[str, Any] = {
            "closed": closed,
            "window": window,
            "model": model,
            "plan_id": stamp.id,
            "ts_ns": event_ns(record),
        }
        plan = next_shares(memory, leaves, self.options, demand, measured, **named)
        return [Event(FABRIC_ROUTES, record.key, stamp.id, plan, record)]
