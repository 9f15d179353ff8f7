"""Scheduler: when the graphs of a domain are scheduled, and what is published of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final

from qstream.ahead import Ahead
from qstream.contract import Event, Record
from qstream.energy.features import measured
from qstream.energy.foresight import plan_foreseen
from qstream.energy.graphs import GraphPlan, GraphProblem, schedule_frame, simple_graph
from qstream.energy.held import MOST_HELD, MOST_TASKS, HeldGraph, digest_of, held, time_ms
from qstream.energy.learned import Learned
from qstream.energy.memory import Memory
from qstream.energy.options import EnergyOptions
from qstream.energy.surroundings import budget_w, check_graph, problem_of
from qstream.errors import ProblemError
from qstream.learn.decision import Line
from qstream.learn.registry import Models
from qstream.module.planning import Planned, Planning, or_skipped, planned, start
from qstream.module.stamp import Stamp, event_ns
from qstream.quantum.runtime import QuantumRuntime
from schemas.plan import SkipReason
from schemas.tasks import TaskGraph
from schemas.topics import TASK_SCHEDULE
from schemas.wording import Shown, must_be

AHEAD_NS: Final = 60_000_000_000  # of its domain's time: a graph's clock that is further ahead does not hold up the next graphs
Name = Callable[[int], Stamp]  # the n-th event of a record or tick


@dataclass(frozen=True, slots=True)
class Scheduler:
    """Schedules graphs as the options say: next to the records with `ahead`, circuits on a device with `runtime`."""

    options: EnergyOptions
    runtime: Callable[[], QuantumRuntime] | None
    ahead: Ahead[Planned[GraphPlan]] | None
    models: Models = field(default_factory=Models)

    def take(self, name: Name, graph: TaskGraph, memory: Memory) -> list[Event]:
        """The simple schedule of a graph at once, to be solved later; nothing for one that is known, or over and measured.

        Raises
        ------
        ProblemError
            The graph contradicts the topology or itself, or the domain has too many.
        """
        stamp, now, digest = name(0), memory.now, digest_of(graph)
        clock_ns = now.watermark_ns or stamp.ts_ns
        others = [other for other in now.graphs if other.graph_id != graph.graph_id and other.end_ns > clock_ns]
        before = next((other for other in now.graphs if other.graph_id == graph.graph_id), None)
        if before is not None and before.digest == digest:
            return []
        check_graph(graph, now)
        tasks = len(graph.task) + sum(len(other.task) for other in others)
        if len(others) >= MOST_HELD or tasks > MOST_TASKS:
            got = Shown(f"{len(others) + 1} graphs with {tasks} tasks")
            raise ProblemError(must_be("graphs of a domain", f"at most {MOST_HELD} at a time, of {MOST_TASKS} tasks in all", got))
        foreseen = self._learned.foresee(graph, now)
        if _is_report(graph, clock_ns):
            memory.set(unseen=foreseen.state)
            return []
        waits_ns = sum(self._time_ns(len(other.task)) for other in others if other.graph is not None)
        free_ns = stamp.ts_ns + waits_ns + self._time_ns(len(graph.task))
        problem = self._problem(graph, memory, others, free_ns)
        simple = simple_graph(problem)
        kept = held(problem, simple, digest, now.schedules.next_version(stamp.ts_ns))
        kept = kept.changed(foreseen=foreseen.graph, foreseen_by=foreseen.by, fallback_reason=foreseen.reason)
        memory.set(unseen=foreseen.state)
        event = self._event(stamp, problem, simple, kept, 0 if before is None else before.version, memory)
        late = simple.plan.status == "infeasible" and not waits_ns and foreseen.graph is None
        if late or not (self._solves() or foreseen.graph is not None):
            kept = kept.solved(problem, simple, kept.version)
        self._keep(memory, (*others, kept), kept.version, stamp.ts_ns)
        lines = self._begin(stamp, memory)
        return [event, *self._learned.log(name(1), memory, lines)]

    @property
    def _learned(self) -> Learned:
        return Learned(self.options, self.models)

    def until_due(self, records: Sequence[Record], memory: Memory) -> int:
        """How many records to take until a better schedule is due, with the one that it comes with; else all."""
        for graph in memory.now.graphs:
            due_ns = graph.due_ns(self.options.plan_ms)
            if due_ns is not None:
                return next((n for n, record in enumerate(records, 1) if event_ns(record) >= due_ns), len(records))
        return len(records)

    def due(self, name: Name, now_ns: int, memory: Memory) -> list[Event]:
        """The better schedules that are due now; `NotYet` while one is not ready."""
        events: list[Event] = []
        while (graph := self._due(now_ns, memory)) is not None:
            stamp = name(len(events))
            event, lines = self._publish(stamp, graph, memory)
            lines += self._begin(stamp, memory)
            events += [event, *self._learned.log(name(len(events) + 1), memory, lines)]
        return events

    def _due(self, now_ns: int, memory: Memory) -> HeldGraph | None:
        """The graph whose better schedule is due now."""
        for graph in memory.now.graphs:
            due_ns = graph.due_ns(self.options.plan_ms)
            if due_ns is not None and now_ns >= due_ns:
                return graph
        return None

    def _begin(self, stamp: Stamp, memory: Memory) -> list[Line]:
        """Have the next graph solved: one at a time, so that each knows what the ones before it take. Returns lines to log."""
        graphs = memory.now.graphs
        at = next((at for at, held in enumerate(graphs) if held.graph is not None), None)
        if at is None or any(held.planning.active for held in graphs) or (graph := graphs[at].graph) is None:
            return []
        solved = [other for other in graphs if other.graph is None]
        problem = self._problem(graph, memory, solved, stamp.ts_ns + self._time_ns(len(graph.task)))
        latest_ns = memory.now.watermark_ns + AHEAD_NS if memory.now.watermark_ns else stamp.ts_ns
        begun = graphs[at].begun(problem, Planning().begun(min(stamp.ts_ns, latest_ns), graphs[at].version))
        state, arm, lines = self._learned.choose(stamp, graph, memory.now)
        begun = begun.changed(arm=arm or "", decision_id=stamp.id if arm else "")
        memory.set(graphs=(*graphs[:at], begun, *graphs[at + 1 :]), meta=state)
        start(self.ahead, stamp.key, self._snapshot(begun), lambda: self._planner(problem, begun))
        return lines

    def _publish(self, stamp: Stamp, graph: HeldGraph, memory: Memory) -> tuple[Event, list[Line]]:
        """The better schedule of a graph, and lines to log; where planning fails, the simple one once more, as skipped."""
        problem, graphs, due_ns = graph.problem(), memory.now.graphs, graph.due_ns(self.options.plan_ms)
        if problem is None or due_ns is None:
            raise AssertionError(must_be("a graph that is due", "one that is being solved", graph.graph_id))
        at = next(at for at, each in enumerate(graphs) if each is graph)

        def answer(found: GraphPlan, version: int, solver_s: float | None) -> Event:
            kept = graph.solved(problem, found, version)
            self._keep(memory, (*graphs[:at], kept, *graphs[at + 1 :]), version, due_ns)
            return self._event(stamp, problem, found, kept, graph.version, memory, solver_s)

        def better() -> tuple[Event, list[Line]]:
            found = planned(self.ahead, stamp.key, self._snapshot(graph), lambda: self._planner(problem, graph))
            # A tick that is repeated after a crash has the same id, so it must say the same version.
            event = answer(found.value, memory.now.schedules.next_version(due_ns), found.seconds)
            return event, self._learned.learn(graph, due_ns, found.value, memory)

        return or_skipped(memory, stamp.key, better, lambda: (answer(simple_graph(problem), graph.version, None), []))

    def _time_ns(self, tasks: int) -> int:
        return int(time_ms(tasks, self.options.plan_ms) * 1e6)

    def _problem(self, graph: TaskGraph, memory: Memory, others: Sequence[HeldGraph], free_ns: int) -> GraphProblem:
        return problem_of(graph, memory.now, others, lost_s=self.options.lost_s, free_ns=free_ns)

    def _event(
        self,
        stamp: Stamp,
        problem: GraphProblem,
        found: GraphPlan,
        kept: HeldGraph,
        base: int,
        memory: Memory,
        solver_s: float | None = None,
    ) -> Event:
        frame = schedule_frame(
            problem, found, plan_id=stamp.id, ts_ns=stamp.ts_ns, version=kept.version, base_version=base,
            budget_w=budget_w(problem.graph, memory.now), fallback_reason=kept.fallback_reason,
        )  # fmt: skip
        if base == kept.version:
            frame = frame.model_copy(update={"skip_reason": SkipReason.PLANNING_FAILED})
        return Event(TASK_SCHEDULE, stamp.key, stamp.id, frame, stamp.cause, solver_s)

    def _keep(self, memory: Memory, graphs: tuple[HeldGraph, ...], version: int, now_ns: int) -> None:
        """The memory with a schedule of this version in force."""
        before = memory.now.schedules
        memory.set(graphs=graphs, schedules=before.proposed(max(version, before.version), now_ns).acknowledged())

    def _solves(self) -> bool:
        options = self.options
        return options.deterministic or options.qaoa or options.hqc or options.meta

    def _snapshot(self, graph: HeldGraph) -> Hashable:
        return graph.digest, graph.version, graph.planning.begun_ns, graph.foreseen_by, graph.arm, self.options

    def _planner(self, problem: GraphProblem, graph: HeldGraph) -> Callable[[], GraphPlan]:
        runtime = self.runtime() if self.options.device and self.runtime else None
        return lambda: plan_foreseen(problem, graph.foreseen, self.options, arm=graph.chosen(), runtime=runtime)


def _is_report(graph: TaskGraph, now_ns: int) -> bool:
    """Whether a graph says no more than what tasks came to that are over."""
    over = graph.ts_ns + int(graph.slots * graph.slot_s * 1e9) <= now_ns
    return graph.measured is not None and bool(measured(graph).all()) and over
