"""HeldGraph: a graph whose schedule holds, as the state of its domain keeps it."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qstream.energy.arms import ARMS
from qstream.energy.fleet import Floats, Ints
from qstream.energy.graphs import Arm, GraphPlan, GraphProblem, window_of
from qstream.module.planning import Planning
from schemas.frame import Axes, Count, Frame, Inner, Name, Names, TimeNs
from schemas.solver import Reason
from schemas.tasks import TaskGraph

MOST_HELD: Final = 64  # graphs of a domain, each of which is read and written with its state
MOST_TASKS: Final = 32_768  # of all of them
TASKS: Final = 200  # that are solved in `plan_ms`; more take longer
Int32 = Annotated[NDArray[np.int32], Axes("tasks")]
_OVER: Final = dict.fromkeys(("graph", "foreseen", "base_w", "room", "idle_w"))  # what is needed until a graph is solved


class HeldGraph(Frame):
    """When each task of a graph runs in its newest schedule, where (-1 left open), with how many GPUs and above which idle watts.

    `graph` is there until it is solved. Graphs are solved in turn: while a graph is (`planning.active`), what surrounds it is
    kept as it was when that began. `digest` is of the graph as it came, so that a repetition is recognised. `foreseen` is the
    graph as the version `foreseen_by` of the model predicts it (-1: none), `fallback_reason` why the network does not. `arm`
    solves it, by the decision `decision_id`; empty: what the toggles of the options say does.
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
    graph: Annotated[TaskGraph, Inner()] | None = None
    foreseen: Annotated[TaskGraph, Inner()] | None = None
    first: Count = 0
    foreseen_by: int = Field(default=-1, ge=-1, le=2**63 - 1)
    fallback_reason: Annotated[Reason | None, Field(strict=False)] = None
    arm: str = ""
    decision_id: str = ""
    start: Int32
    long: Int32
    node_of_task: Int32
    gpus: Int32
    power_w: Annotated[NDArray[np.float64], Axes("tasks")]
    base_w: Annotated[NDArray[np.float64], Axes("slots")] | None = None
    room: Annotated[NDArray[np.int64], Axes("nodes", "slots")] | None = None
    idle_w: Annotated[NDArray[np.float64], Axes("nodes")] | None = None

    @property
    def end_ns(self) -> int:
        """The end of the window."""
        return self.begin_ns + int(self.slots * self.slot_s * 1e9)

    def due_ns(self, plan_ms: float) -> int | None:
        """When its better schedule is due; None while it is not being solved."""
        return self.planning.due_ns(time_ms(len(self.task), plan_ms)) if self.planning.active else None

    def problem(self) -> GraphProblem | None:
        """What is being solved, None where nothing is."""
        if self.graph is None or self.base_w is None or not self.planning.active:
            return None
        return GraphProblem(self.graph, self.first, self.base_w, self.node, self.room, self.idle_w)

    def begun(self, problem: GraphProblem, planning: Planning) -> Self:
        """With a problem that is being solved. Under other nodes than before, where tasks run meanwhile is left open."""
        fields = {name: getattr(problem, name) for name in ("first", "base_w", "node", "room", "idle_w")}
        open_ = {} if problem.node == self.node else {"node_of_task": np.full(len(self.task), -1, np.int32)}
        return self.changed(planning=planning, **fields, **open_)

    def solved(self, problem: GraphProblem, found: GraphPlan, version: int) -> Self:
        """With a schedule that stays."""
        return self.changed(version=version, planning=self.planning.ended(), **_OVER, **_runs(problem, found))

    def chosen(self) -> Arm | None:
        """The arm that solves it, None where the toggles say."""
        return next((arm for arm in ARMS if arm == self.arm), None)

    def changed(self, **fields: Any) -> Self:
        """With other values in some fields."""
        return type(self)(**dict(self) | fields)

    def load_w(self, begin_ns: Ints, length_ns: int) -> Floats:
        """The most that its tasks draw in any of its slots that overlap each of these intervals: float64 [intervals], W."""
        steps = np.zeros(self.slots + 1)
        np.add.at(steps, self.start, self.power_w)
        np.add.at(steps, self.start + self.long, -self.power_w)
        low, high = self._slots(begin_ns, length_ns)
        most = np.maximum.reduceat(np.cumsum(steps), np.stack((low, high), 1).ravel())[::2]
        found: Floats = np.where(high > low, most, 0.0)
        return found

    def taken(self, node: Names, begin_ns: Ints, length_ns: int) -> Ints:
        """The most GPUs of each of these nodes that its tasks take in each of these intervals: int64 [nodes, intervals]."""
        row = {name: at for at, name in enumerate(node)}
        rows = np.array([-1 if at < 0 else row.get(self.node[at], -1) for at in self.node_of_task.tolist()])
        steps, own = np.zeros((len(node), self.slots + 1), np.int64), rows >= 0
        np.add.at(steps, (rows[own], self.start[own]), self.gpus[own])
        np.add.at(steps, (rows[own], (self.start + self.long)[own]), -self.gpus[own])
        low, high = self._slots(begin_ns, length_ns)
        most = np.maximum.reduceat(np.cumsum(steps, 1), np.stack((low, high), 1).ravel(), axis=1)[:, ::2]
        found: Ints = np.where(high > low, most, 0)
        return found

    def _slots(self, begin_ns: Ints, length_ns: int) -> tuple[Ints, Ints]:
        """The slots that overlap each interval, from the first one to before the second one."""
        slot_ns = self.slot_s * 1e9
        low = np.clip(np.floor((begin_ns - self.begin_ns) / slot_ns), 0, self.slots).astype(np.int64)
        high = np.clip(np.ceil((begin_ns + length_ns - self.begin_ns) / slot_ns), 0, self.slots).astype(np.int64)
        return low, high


def held(problem: GraphProblem, found: GraphPlan, digest: str, version: int) -> HeldGraph:
    """A graph with its first schedule, waiting to be solved."""
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
        **_runs(problem, found),
    )


def time_ms(tasks: int, plan_ms: float) -> float:
    """The time that a graph is given to be solved: `plan_ms` for each 200 tasks, so that a large one holds up no other record."""
    return plan_ms * -(-tasks // TASKS)


def digest_of(graph: TaskGraph) -> str:
    """A short text that differs for graphs that differ."""
    found = hashlib.blake2b(graph.model_dump_json(exclude=graph.array_names).encode(), digest_size=16)
    for name in graph.arrays:
        array = getattr(graph, name)
        found.update(b"-" if array is None else repr(array.shape).encode() + array.tobytes())
    return found.hexdigest()


def _runs(problem: GraphProblem, found: GraphPlan) -> dict[str, Any]:
    """When and where the tasks run. What is late ends with the window; what cannot be in time is not expected to run so."""
    window, plan, at = window_of(problem), found.plan, np.arange(len(found.plan.start))
    start = np.minimum(plan.start, window.slots)
    return {
        "start": start.astype(np.int32),
        "long": np.minimum(window.duration[at, plan.mode], window.slots - start).astype(np.int32),
        "node_of_task": found.node_of_task.astype(np.int32),
        "gpus": problem.gpus().astype(np.int32),
        "power_w": window.power_w[at, plan.mode] * (plan.status != "infeasible"),
    }
