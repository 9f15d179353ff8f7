"""HeldGraph: a graph whose schedule holds, as the state of its domain keeps it."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qstream.energy.fleet import Floats, Ints
from qstream.energy.graphs import GraphPlan, GraphProblem, window_of
from qstream.module.planning import Planning
from schemas.frame import Axes, Count, Frame, Name, Names, TimeNs
from schemas.tasks import TaskGraph

MOST_HELD: Final = 256  # graphs of a domain


class HeldGraph(Frame):
    """What the tasks of a graph draw in each slot and the GPUs that they take of each node at most, in its newest schedule.

    While a better schedule is being planned (`planning.active`) the problem is kept as it was when the graph came. `digest` is of
    the graph as it came, so that a repetition is recognised.
    """

    graph_id: Name
    digest: Name
    version: Count
    begin_ns: TimeNs
    slot_s: float
    slots: Count
    task: Names
    node: Names = ()
    planning: Annotated[Planning, Field(strict=False)] = Planning()
    graph: TaskGraph | None = None
    first: Count = 0
    budget_w: float | None = None
    load_w: Annotated[NDArray[np.float64], Axes("slots")]
    used_gpus: Annotated[NDArray[np.int64], Axes("nodes")]
    free_gpus: Annotated[NDArray[np.int64], Axes("nodes")] | None = None
    idle_w: Annotated[NDArray[np.float64], Axes("nodes")] | None = None
    base_w: Annotated[NDArray[np.float64], Axes("slots")] | None = None

    @property
    def end_ns(self) -> int:
        """The end of the window."""
        return self.begin_ns + int(self.slots * self.slot_s * 1e9)

    def problem(self) -> GraphProblem | None:
        """What is to be solved, None where that is done."""
        if self.graph is None or self.base_w is None or self.free_gpus is None or self.idle_w is None:
            return None
        return GraphProblem(self.graph, self.first, self.base_w, self.node, self.free_gpus, self.idle_w)

    def load_during(self, begin_ns: Ints, length_ns: int) -> Floats:
        """The most that its tasks draw in any of its slots that overlap each of these intervals: float64 [intervals], W."""
        slot_ns = self.slot_s * 1e9
        low = np.clip(np.floor((begin_ns - self.begin_ns) / slot_ns), 0, self.slots).astype(np.int64)
        high = np.clip(np.ceil((begin_ns + length_ns - self.begin_ns) / slot_ns), 0, self.slots).astype(np.int64)
        most = np.maximum.reduceat(np.append(self.load_w, 0.0), np.stack((low, high), 1).ravel())[::2]
        found: Floats = np.where(high > low, most, 0.0)
        return found

    def planned(self, found: GraphPlan, version: int) -> Self:
        """With a schedule in force, and none being planned."""
        problem, done = self.problem(), dict.fromkeys(("graph", "free_gpus", "idle_w", "base_w"))
        taken = {} if problem is None else _taken(problem, found)
        return self.changed(version=version, planning=self.planning.ended(), **done, **taken)

    def changed(self, **fields: Any) -> Self:
        """With other values in some fields."""
        return type(self)(**dict(self) | fields)


def held(problem: GraphProblem, found: GraphPlan, digest: str, version: int, budget_w: float | None) -> HeldGraph:
    """A graph with its first schedule, and the problem to be solved."""
    graph = problem.graph
    return HeldGraph(
        graph_id=graph.graph_id,
        digest=digest,
        version=version,
        begin_ns=graph.ts_ns,
        slot_s=graph.slot_s,
        slots=graph.slots,
        task=graph.task,
        node=problem.node,
        graph=graph,
        first=problem.first,
        budget_w=budget_w,
        free_gpus=problem.free_gpus,
        idle_w=problem.idle_w,
        base_w=problem.base_w,
        **_taken(problem, found),
    )


def digest_of(graph: TaskGraph) -> str:
    """A short text that differs for graphs that differ."""
    found = hashlib.blake2b(graph.model_dump_json(exclude=graph.array_names).encode(), digest_size=16)
    for name in graph.arrays:
        array = getattr(graph, name)
        found.update(b"-" if array is None else repr(array.shape).encode() + array.tobytes())
    return found.hexdigest()


def _taken(problem: GraphProblem, found: GraphPlan) -> dict[str, Any]:
    window, plan = window_of(problem), found.plan
    at, nodes = found.node_of_task >= 0, len(problem.node)
    steps = np.zeros((nodes, window.slots + 1), np.int64)
    long = window.duration[np.arange(len(plan.start)), plan.mode]
    for slots, sign in ((plan.start, 1), (plan.start + long, -1)):
        np.add.at(steps, (found.node_of_task[at], np.minimum(slots, window.slots)[at]), sign * problem.gpus()[at])
    load = window.load_w(plan.start, plan.mode) - window.base
    return {"load_w": load, "used_gpus": np.cumsum(steps, 1).max(1, initial=0)}
