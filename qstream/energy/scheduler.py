"""Scheduler: when the graphs of a domain are scheduled, and what is published of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from qstream.ahead import Ahead
from qstream.contract import Event, Record
from qstream.energy.graphs import GraphPlan, GraphProblem, plan_graph, schedule_frame, simple_graph
from qstream.energy.held import MOST_HELD, HeldGraph, digest_of, held
from qstream.energy.memory import Memory
from qstream.energy.options import EnergyOptions
from qstream.energy.surroundings import budget_w, problem_of
from qstream.errors import ProblemError
from qstream.module.planning import Planned, Planning, or_skipped, planned, start
from qstream.module.stamp import Stamp, event_ns
from qstream.quantum.runtime import QuantumRuntime
from schemas.plan import SkipReason
from schemas.tasks import TaskGraph
from schemas.topics import TASK_SCHEDULE
from schemas.wording import must_be

Name = Callable[[int], Stamp]  # the n-th event of a record or tick


@dataclass(frozen=True, slots=True)
class Scheduler:
    """Schedules graphs as the options say: next to the records with `ahead`, circuits on a device with `runtime`."""

    options: EnergyOptions
    runtime: Callable[[], QuantumRuntime] | None
    ahead: Ahead[Planned[GraphPlan]] | None

    def take(self, stamp: Stamp, graph: TaskGraph, memory: Memory) -> list[Event]:
        """The simple schedule of a graph at once, and a better one begun; nothing for a graph that is known.

        Raises
        ------
        ProblemError
            The graph contradicts the topology or itself, or the domain has too many.
        """
        now, options, digest = memory.now, self.options, digest_of(graph)
        clock_ns = now.watermark_ns or stamp.ts_ns
        others = [other for other in now.graphs if other.graph_id != graph.graph_id and other.end_ns > clock_ns]
        before = next((other for other in now.graphs if other.graph_id == graph.graph_id), None)
        if before is not None and before.digest == digest:
            return []
        if len(others) >= MOST_HELD:
            raise ProblemError(must_be("graphs of a domain", f"at most {MOST_HELD} at a time", len(others) + 1))
        free_ns = stamp.ts_ns + int(options.plan_ms * 1e6)
        problem = problem_of(graph, now, others, lost_s=options.lost_s, free_ns=free_ns)
        simple = simple_graph(problem)
        base = 0 if before is None else before.version
        kept = held(problem, simple, digest, now.schedules.next_version(stamp.ts_ns), budget_w(graph, now))
        event = self._event(stamp, problem, simple, kept, base)
        if self._solves() and simple.plan.status != "infeasible":
            kept = kept.changed(planning=self._begun(stamp.ts_ns, others, kept.version))
            start(self.ahead, self._job(stamp.key, kept), self._snapshot(kept), lambda: self._planner(problem))
        else:
            kept = kept.planned(simple, kept.version)
        self._keep(memory, kept, stamp.ts_ns, others)
        return [event]

    def until_due(self, records: Sequence[Record], memory: Memory) -> int:
        """How many records to take until a better schedule is due, with the one that it comes with; else all."""
        due = [graph.planning.due_ns(self.options.plan_ms) for graph in memory.now.graphs if graph.planning.active]
        if not due:
            return len(records)
        first = min(due)
        return next((n for n, record in enumerate(records, 1) if event_ns(record) >= first), len(records))

    def due(self, name: Name, now_ns: int, memory: Memory) -> list[Event]:
        """The better schedules that are to be published now; `NotYet` while one is not ready."""
        events: list[Event] = []
        for graph in memory.now.graphs:
            problem = graph.problem()
            if problem is not None and graph.planning.is_due(now_ns, self.options.plan_ms):
                events.append(self._publish(name(len(events)), graph, problem, memory))
        return events

    def _publish(self, stamp: Stamp, graph: HeldGraph, problem: GraphProblem, memory: Memory) -> Event:
        """The better schedule of a graph; where planning fails, the simple one once more, as skipped."""
        others = [other for other in memory.now.graphs if other.graph_id != graph.graph_id]
        due_ns = graph.planning.due_ns(self.options.plan_ms)

        def solved() -> Event:
            job, snapshot = self._job(stamp.key, graph), self._snapshot(graph)
            found = planned(self.ahead, job, snapshot, lambda: self._planner(problem))
            # A tick that is repeated after a crash has the same id, so it must say the same version.
            kept = graph.planned(found.value, memory.now.schedules.next_version(due_ns))
            self._keep(memory, kept, due_ns, others)
            return self._event(stamp, problem, found.value, kept, graph.version, found.seconds)

        def skipped() -> Event:
            simple = simple_graph(problem)
            kept = graph.planned(simple, graph.version)
            memory.set(graphs=(*others, kept))
            return self._event(stamp, problem, simple, kept, graph.version)

        return or_skipped(memory, stamp.key, solved, skipped)

    def _event(
        self, stamp: Stamp, problem: GraphProblem, found: GraphPlan, kept: HeldGraph, base: int, solver_s: float | None = None
    ) -> Event:
        frame = schedule_frame(
            problem, found, plan_id=stamp.id, ts_ns=stamp.ts_ns, version=kept.version, base_version=base, budget_w=kept.budget_w
        )
        if base == kept.version:
            frame = frame.model_copy(update={"skip_reason": SkipReason.PLANNING_FAILED})
        return Event(TASK_SCHEDULE, stamp.key, stamp.id, frame, stamp.cause, solver_s)

    def _keep(self, memory: Memory, kept: HeldGraph, now_ns: int, others: list[HeldGraph]) -> None:
        """The memory with a graph's newest schedule in force."""
        memory.set(graphs=(*others, kept), schedules=memory.now.schedules.proposed(kept.version, now_ns).acknowledged())

    def _begun(self, now_ns: int, others: list[HeldGraph], version: int) -> Planning:
        """Graphs of a domain have `plan_ms` each, in turn, so that many at once are not all due before they can be solved."""
        waiting = [other.planning.due_ns(self.options.plan_ms) for other in others if other.planning.active]
        latest_ns = now_ns + int(len(waiting) * self.options.plan_ms * 1e6)
        return Planning().begun(max(now_ns, min(max(waiting, default=0), latest_ns)), version)

    def _solves(self) -> bool:
        return self.options.deterministic or self.options.qaoa or self.options.hqc

    def _job(self, key: str, graph: HeldGraph) -> str:
        return f"{key}\n{graph.graph_id}"

    def _snapshot(self, graph: HeldGraph) -> Hashable:
        return graph.digest, graph.version, graph.planning.begun_ns, self.options

    def _planner(self, problem: GraphProblem) -> Callable[[], GraphPlan]:
        runtime = self.runtime() if self.options.device and self.runtime else None
        return lambda: plan_graph(problem, self.options, runtime=runtime)
