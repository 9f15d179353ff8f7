"""TaskGraph and EnergySchedule: tasks that depend on one another, and when and on which nodes they run."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from schemas.energy import Status
from schemas.frame import Axes, Frame, Name, Names, TimeNs, require
from schemas.names import require_count, require_distinct
from schemas.plan import VersionedPlan
from schemas.solver import SolverRecord
from schemas.wording import Shown, must_be

MAX_TASKS: Final = 4096
MAX_SLOTS: Final = 10_000
MAX_CELLS: Final = 1 << 20  # tasks times slots


class TaskGraph(Frame):
    """Tasks of one window: how long each takes and draws in each power mode, when it may run, and what it waits for."""

    domain: Name = Field(description="the power domain that runs the tasks")
    ts_ns: TimeNs = Field(description="begin of the window, ns since 1970")
    graph_id: Name = Field(description="name of the graph; a schedule repeats it")
    slot_s: float = Field(ge=0.001, le=86_400, description="length of a slot, s")
    slots: int = Field(ge=1, le=MAX_SLOTS, description="slots of the window")
    task: Names = Field(description="the tasks, each once")
    category: Names = Field(default=(), description="kind of each task; may be empty")
    duration: Annotated[NDArray[np.int32], Axes("tasks", "modes")] = Field(description="slots in each mode; -1 no such mode")
    power_w: Annotated[NDArray[np.float32], Axes("tasks", "modes")] = Field(
        description="watts above idle in each mode; -1 no such mode"
    )
    release: Annotated[NDArray[np.int32], Axes("tasks")] | None = Field(
        default=None, description="first slot in which a task may run; absent: 0"
    )
    deadline: Annotated[NDArray[np.int32], Axes("tasks")] | None = Field(
        default=None, description="slot before which a task is over; -1 or absent: the end of the window"
    )
    gpus: Annotated[NDArray[np.int32], Axes("tasks")] | None = Field(default=None, description="GPUs of each task; absent: 1")
    feature: Annotated[NDArray[np.float32], Axes("tasks", "features")] | None = Field(
        default=None, description="what is known of tasks that have not run yet"
    )
    measured: Annotated[NDArray[np.uint8], Axes("tasks")] | None = Field(
        default=None,
        description="1: duration and power were measured; 0: they are upper bounds that a model may predict below; absent: 1",
    )
    edges: Annotated[NDArray[np.int32], Axes("edges", "ends")] | None = Field(
        default=None, description="pairs: the second task starts when the first is over"
    )
    together: Annotated[NDArray[np.int32], Axes("pairs", "ends")] | None = Field(
        default=None, description="pairs of tasks that start in the same slot"
    )
    base_w: Annotated[NDArray[np.float32], Axes("slots")] | None = Field(
        default=None, description="watts that are drawn besides, in each slot; absent: what the domain draws now"
    )

    @field_validator("edges", "together", mode="before")
    @classmethod
    def _none_without_pairs(cls, value: Any) -> Any:
        """An empty list, which a writer of JSON has where tasks depend on nothing, is the same as none."""
        empty = value.shape[:1] == (0,) if isinstance(value, np.ndarray) else value in ([], ())
        return None if empty else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        tasks = len(self.task)
        if not 1 <= tasks <= MAX_TASKS:
            raise ValueError(must_be("length of task", f"1 to {MAX_TASKS} tasks", tasks))
        if tasks * self.slots > MAX_CELLS:
            raise ValueError(must_be("slots", f"at most {MAX_CELLS // tasks} for {tasks} tasks", self.slots))
        require_distinct(self, "task")
        require_count(self, "duration", tasks, "the tasks")
        require_count(self, "category", tasks, "the tasks", or_none=True)
        require_count(self, "base_w", self.slots, "the slots")
        require(self, "release", 0, self.slots - 1)
        require(self, "deadline", -1, self.slots)
        require(self, "gpus", 1)
        require(self, "base_w", 0)
        require(self, "measured", 0, 1)
        for field in ("edges", "together"):
            pairs = getattr(self, field)
            if pairs is not None and pairs.shape[1] != 2:
                raise ValueError(must_be(field, "pairs of tasks", Shown(f"shape {pairs.shape}")))
            require(self, field, 0, tasks - 1, f"0 to {tasks - 1}, a task of `task`")
        self._check_modes()
        self._check_order()
        return self

    def _check_modes(self) -> None:
        """A mode is there or not in both arrays, and each task has one."""
        there = self.duration >= 1
        absent = (self.duration == -1) & (self.power_w == -1)
        if (bad := ~(absent | (there & (self.power_w >= 0)))).any():
            task, mode = (int(at) for at in np.argwhere(bad)[0])
            got = f"{self.duration[task, mode]} slots and {self.power_w[task, mode]:g} W"
            rule = "at least 1 slot and 0 W, or -1 both"
            raise ValueError(must_be(f"mode {mode} of task {self.task[task]}", rule, Shown(got)))
        if not (some := there.any(1)).all():
            raise ValueError(
                must_be("duration", "given for a mode of each task", Shown(f"none of {self.task[int(some.argmin())]}"))
            )

    def _check_order(self) -> None:
        """Edges form no cycle: tasks without open predecessors are removed until none is left."""
        if self.edges is None:
            return
        left, edges = np.ones(len(self.task), bool), self.edges
        while len(edges):
            waits = np.zeros(len(self.task), bool)
            waits[edges[:, 1]] = True
            if not (free := left & ~waits).any():
                at = self.task[int(edges[0, 1])]
                raise ValueError(must_be("edges", "without a cycle", Shown(f"a cycle before or through {at!r}")))
            left &= ~free
            edges = edges[left[edges[:, 0]]]

    @classmethod
    def example(cls) -> Self:
        return cls(
            domain="row-1",
            ts_ns=1_700_000_000_000_000_000,
            graph_id="night-7",
            slot_s=60.0,
            slots=12,
            task=("tokenise", "train", "evaluate"),
            category=("cpu", "train", "infer"),
            duration=np.array([[2, -1], [5, 6], [2, 3]], np.int32),
            power_w=np.array([[150, -1], [2400, 1900], [900, 600]], np.float32),
            release=np.array([0, 0, 0], np.int32),
            deadline=np.array([-1, -1, 12], np.int32),
            gpus=np.array([1, 4, 2], np.int32),
            measured=np.array([1, 0, 1], np.uint8),
            edges=np.array([[0, 1], [1, 2]], np.int32),
        )


class EnergySchedule(VersionedPlan):
    """When each task of a graph starts, in which power mode and on which node, so that the peak of power is low."""

    domain: Name = Field(description="the power domain that runs the tasks")
    graph_id: Name = Field(description="the graph that is scheduled")
    begin_ns: TimeNs = Field(default=0, description="begin of slot 0, ns since 1970")
    slot_s: float = Field(default=1.0, gt=0, description="length of a slot, s")
    status: Status = Field(description="infeasible: the tasks of `at_fault` cannot meet their deadlines")
    task: Names = Field(description="the tasks, as in the graph")
    node: Names = Field(default=(), description="nodes, which `node_of_task` points to")
    category: str = Field(default="", max_length=200, description="kind of window: by size, density of edges and class")
    at_fault: Names = Field(default=(), description="tasks that cannot meet their deadlines")
    peak_w: float = Field(ge=0, description="greatest watts of any slot")
    bound_w: float = Field(ge=0, description="watts below which no schedule's peak can be")
    simple_peak_w: float = Field(ge=0, description="peak of the schedule that starts everything as soon as possible")
    budget_w: float | None = Field(default=None, ge=0, description="watts that the domain may draw")
    missing_w: float = Field(default=0.0, ge=0, description="watts by which the peak passes the budget")
    start: Annotated[NDArray[np.int32], Axes("tasks")] = Field(description="first slot of each task")
    mode: Annotated[NDArray[np.int32], Axes("tasks")] = Field(description="power mode of each task")
    node_of_task: Annotated[NDArray[np.int32], Axes("tasks")] | None = Field(
        default=None, description="node of each task; -1 left open"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require_count(self, "start", len(self.task), "the tasks")
        require(self, "start", 0)
        require(self, "mode", 0)
        require(self, "node_of_task", -1, len(self.node) - 1)
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            domain="row-1",
            plan_id="qstream.tasks.graph.v1/3/2/0",
            ts_ns=1_700_000_000_500_000_000,
            ttl_s=720.0,
            version=2,
            base_version=1,
            solver=SolverRecord(solver="list", n=3, objective=1900.0, bound=1900.0),
            graph_id="night-7",
            begin_ns=1_700_000_000_000_000_000,
            slot_s=60.0,
            status="optimal",
            task=("tokenise", "train", "evaluate"),
            node=("node-0",),
            peak_w=1900.0,
            bound_w=1900.0,
            simple_peak_w=2400.0,
            budget_w=2000.0,
            start=np.array([0, 2, 8], np.int32),
            mode=np.array([0, 1, 1], np.int32),
            node_of_task=np.array([0, 0, 0], np.int32),
        )
