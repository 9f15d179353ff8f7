"""Graphs: a graph of tasks and what surrounds it become a window, the window a plan, and the plan a schedule's frame."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from qstream.energy.fleet import Floats, Ints
from qstream.energy.nodes import NodeSelection, select_nodes, soonest_on_nodes
from qstream.energy.options import EnergyOptions
from qstream.energy.scheduling import WindowPlan, plan_soonest, schedule
from qstream.energy.window import TaskWindow, ordered, tasks_of, united
from qstream.quantum.window import Runtime
from schemas.solver import Reason
from schemas.tasks import EnergySchedule, TaskGraph

Arm = Literal["soonest", "list", "qaoa", "hqc"]  # how a window is solved, as the solver of its record says
SIZES: Final = ((20, "small"), (100, "medium"), (4096, "large"))  # most tasks of each
DENSITIES: Final = ((0.0, "free"), (1.0, "sparse"), (np.inf, "dense"))  # most edges a task of each


@dataclass(frozen=True, slots=True, eq=False)
class GraphProblem:
    """All that the schedule of a graph depends on, apart from the options.

    Attributes
    ----------
    graph
        The tasks.
    first
        The first slot that is still to come when the schedule is published.
    base_w : float64 [slots]
        What else the domain draws.
    node, room, idle_w
        The nodes that tasks may run on, int64 [nodes, slots] GPUs that each has for them, and float64 [nodes] watts that it draws
        once it is open. Without nodes, where tasks run is left open.
    """

    graph: TaskGraph
    first: int
    base_w: Floats
    node: tuple[str, ...] = ()
    room: Ints | None = None
    idle_w: Floats | None = None

    def gpus(self) -> Ints:
        """GPUs that each task takes, int64 [tasks]."""
        tasks = len(self.graph.task)
        return np.ones(tasks, np.int64) if self.graph.gpus is None else self.graph.gpus.astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class GraphPlan:
    """When the tasks of a graph run, and on which of the problem's nodes (int64 [tasks], -1 left open)."""

    plan: WindowPlan
    node_of_task: Ints


def alone(graph: TaskGraph) -> GraphProblem:
    """A graph by itself, without a domain around it."""
    base = np.zeros(graph.slots) if graph.base_w is None else graph.base_w.astype(np.float64)
    return GraphProblem(graph, 0, base)


def window_of(problem: GraphProblem) -> TaskWindow:
    """The window of a graph.

    Raises
    ------
    ProblemError
        Tasks that start together depend on each other.
    """
    graph, tasks = problem.graph, len(problem.graph.task)
    edges, together = _pairs(graph.edges), _pairs(graph.together)
    ordered(united(tasks, together), edges, graph.task)  # which names the tasks of a cycle
    release = np.zeros(tasks, np.int64) if graph.release is None else graph.release.astype(np.int64)
    deadline = np.full(tasks, -1) if graph.deadline is None else graph.deadline
    there = graph.duration > 0
    return TaskWindow(
        graph.slots,
        np.where(there, graph.duration, 0),
        np.where(there, graph.power_w, -1).astype(np.float64),
        np.maximum(release, problem.first),
        np.full(tasks, graph.slots),
        edges,
        problem.base_w,
        together,
        np.where(deadline < 0, graph.slots, deadline).astype(np.int64),
    )


def simple_graph(problem: GraphProblem) -> GraphPlan:
    """Each task as soon as possible: on its node alone where there are nodes, without a search. Errors as of `window_of`."""
    window = window_of(problem)
    if problem.room is not None and problem.idle_w is not None:
        return _on_nodes(soonest_on_nodes(window, problem.gpus(), problem.room, problem.idle_w))
    tasks, late = tasks_of(window)
    return _anywhere(plan_soonest(window, tasks.release[window.unit], window.fastest(), late))


def plan_graph(
    problem: GraphProblem,
    options: EnergyOptions,
    *,
    arm: Arm | None = None,
    runtime: Runtime | None = None,
) -> GraphPlan:
    """Schedule a graph at a low peak, on as few nodes as its deadlines allow.

    A pure function, except for devices and where the options set a deadline.

    Parameters
    ----------
    arm
        How the window is solved; without, as the toggles of the options say.
    runtime
        Runs circuits on a device, where the options name one.

    Raises
    ------
    ProblemError
        Tasks that start together depend on each other.
    """
    terms = options if arm is None else options.model_copy(update=_toggles(arm))
    window = window_of(problem)
    deadline_s = None if options.deadline_ms is None else options.deadline_ms / 1e3
    if problem.room is None or problem.idle_w is None:
        return _anywhere(schedule(window, options=terms, deadline_s=deadline_s, seed=options.seed, runtime=runtime))
    found = select_nodes(
        window, problem.gpus(), problem.room, problem.idle_w,
        options=terms, deadline_s=deadline_s, seed=options.seed, runtime=runtime,
    )  # fmt: skip
    return _on_nodes(found)


def category_of(graph: TaskGraph) -> str:
    """The kind of window: by the number of tasks, edges a task, and the most frequent category of its tasks."""
    tasks, edges = len(graph.task), 0 if graph.edges is None else len(graph.edges)
    size = next(name for most, name in SIZES if tasks <= most)
    density = next(name for most, name in DENSITIES if edges / tasks <= most)
    kinds = Counter(graph.category)
    kind = min(kinds, key=lambda kind: (-kinds[kind], kind)) if kinds else "any"
    return f"{size}/{density}/{kind}"[:200]


def schedule_frame(
    problem: GraphProblem,
    found: GraphPlan,
    *,
    plan_id: str,
    ts_ns: int,
    version: int,
    base_version: int,
    budget_w: float | None = None,
    fallback_reason: Reason | None = None,
) -> EnergySchedule:
    """The frame of a plan."""
    graph, plan = problem.graph, found.plan
    used = sorted(set(found.node_of_task[found.node_of_task >= 0].tolist()))
    row = {node: at for at, node in enumerate(used)}
    end_ns = graph.ts_ns + int(graph.slots * graph.slot_s * 1e9)
    return EnergySchedule(
        domain=graph.domain,
        plan_id=plan_id,
        ts_ns=ts_ns,
        ttl_s=max((end_ns - ts_ns) / 1e9, graph.slot_s),
        version=version,
        base_version=base_version,
        solver=plan.solver,
        fallback_reason=fallback_reason or plan.fallback_reason,
        graph_id=graph.graph_id,
        begin_ns=graph.ts_ns,
        slot_s=graph.slot_s,
        status=plan.status,
        task=graph.task,
        node=tuple(problem.node[at] for at in used),
        category=category_of(graph),
        at_fault=tuple(graph.task[at] for at in plan.at_fault),
        peak_w=plan.peak_w,
        bound_w=plan.bound_w,
        simple_peak_w=plan.simple_peak_w,
        budget_w=budget_w,
        missing_w=0.0 if budget_w is None else max(0.0, plan.peak_w - budget_w),
        start=plan.start.astype(np.int32),
        mode=plan.mode.astype(np.int32),
        node_of_task=np.array([row.get(int(node), -1) for node in found.node_of_task], np.int32) if problem.node else None,
    )


def _toggles(arm: Arm) -> dict[str, bool]:
    return {"deterministic": arm != "soonest", "qaoa": arm == "qaoa", "hqc": arm == "hqc"}


def _pairs(given: NDArray[np.int32] | None) -> Ints:
    return np.zeros((0, 2), np.int64) if given is None else given.astype(np.int64)


def _anywhere(plan: WindowPlan) -> GraphPlan:
    return GraphPlan(plan, np.full(len(plan.start), -1))


def _on_nodes(found: NodeSelection) -> GraphPlan:
    return GraphPlan(found.plan, found.node_of_task)
