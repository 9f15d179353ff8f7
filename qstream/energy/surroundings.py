"""Surroundings: what a domain draws besides a graph's tasks, and on which GPUs they may run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from qstream.energy.budgets import quantum_w, tree_of
from qstream.energy.fleet import Floats, Ints
from qstream.energy.graphs import GraphProblem
from qstream.energy.held import HeldGraph
from qstream.energy.levels import Bools
from qstream.energy.memory import EnergyState
from qstream.errors import ProblemError
from qstream.module.inforce import TIME_MAX_MS
from schemas.tasks import TaskGraph
from schemas.wording import must_be

MOST_CELLS: Final = 1 << 22  # tasks (or 16) x slots x nodes; above, tasks are not assigned to nodes
LEAST_TASKS: Final = 16


def check_graph(graph: TaskGraph, now: EnergyState) -> None:
    """`ProblemError` if a task takes more GPUs than the domain has, or the window is at no time that a clock shows."""
    gpus = len(now.topology.uuid)
    if graph.ts_ns > TIME_MAX_MS * 1_000_000:
        raise ProblemError(must_be("ts_ns", "before the year 2255", graph.ts_ns))
    if graph.gpus is not None and (over := graph.gpus > gpus).any():
        at = int(over.argmax())
        allowed = f"at most {gpus}, the GPUs of {now.topology.domain}"
        raise ProblemError(must_be(f"gpus of task {graph.task[at]}", allowed, int(graph.gpus[at])))


def problem_of(graph: TaskGraph, now: EnergyState, others: Sequence[HeldGraph], *, lost_s: float, free_ns: int) -> GraphProblem:
    """The graph with what is known of its domain; slots that begin before `free_ns` are over.

    Tasks are assigned to nodes if each fits on one.
    """
    topology = now.topology
    slot_ns = graph.slot_s * 1e9
    first = min(graph.slots, max(0, int(np.ceil((free_ns - graph.ts_ns) / slot_ns))))
    begin_ns = graph.ts_ns + (np.arange(graph.slots) * slot_ns).astype(np.int64)
    lost = (now.seen_ns > 0) & (now.watermark_ns - now.seen_ns > lost_s * 1e9)
    base, room = _base_w(graph, now, others, lost, begin_ns), None
    most = int(np.bincount(topology.node_of_gpu).max(initial=0))
    cells = max(LEAST_TASKS, len(graph.task)) * graph.slots * len(topology.node)
    if 0 < cells <= MOST_CELLS and (graph.gpus is None or int(graph.gpus.max()) <= most):
        room = _room(graph, now, others, lost, begin_ns)
    if room is None:
        return GraphProblem(graph, first, base)
    return GraphProblem(graph, first, base, topology.node, room, _idle_w(now))


def budget_w(graph: TaskGraph, now: EnergyState) -> float:
    """The lowest budget of the domain that holds at any time of the graph's window."""
    end_ns = graph.ts_ns + int(graph.slots * graph.slot_s * 1e9)
    return float(tree_of(now.topology, now.budgets, graph.ts_ns, end_ns).budget_w[0])


def _base_w(graph: TaskGraph, now: EnergyState, others: Sequence[HeldGraph], lost: Bools, begin_ns: Ints) -> Floats:
    """What is drawn in each slot: as the graph says, or what is measured now without the tasks of other graphs; and these."""
    base = np.full(graph.slots, _measured_w(now, others, lost)) if graph.base_w is None else graph.base_w.astype(np.float64)
    for other in others:
        base = base + other.load_w(begin_ns, int(graph.slot_s * 1e9))
    return base


def _measured_w(now: EnergyState, others: Sequence[HeldGraph], lost: Bools) -> float:
    """What GPUs and nodes draw besides the tasks that run now; lost GPUs are charged at their default."""
    topology = now.topology
    idle = np.zeros(len(topology.uuid)) if topology.idle_w is None else np.maximum(topology.idle_w, 0)
    default = np.where(topology.limit_default_w > 0, topology.limit_default_w, idle)
    watts = np.where(lost, default, np.where(now.power_w >= 0, now.power_w, idle))
    overhead = quantum_w(topology)
    if topology.overhead_w is not None:
        overhead += float(np.maximum(topology.overhead_w, 0).sum())
    running = sum(float(other.load_w(np.array([now.watermark_ns]), 1)[0]) for other in others)
    return max(0.0, float(watts.sum()) + overhead - running)


def _room(graph: TaskGraph, now: EnergyState, others: Sequence[HeldGraph], lost: Bools, begin_ns: Ints) -> Ints:
    """GPUs of each node in each slot, int64 [nodes, slots]: those without another job, less those that other graphs take."""
    topology = now.topology
    ours = {task for other in others for task in other.task} | {"", *graph.task}
    free = np.array([job in ours for job in now.job], bool) & ~lost
    if topology.mig is not None:
        free &= topology.mig == 0
    count = np.bincount(topology.node_of_gpu[free], minlength=len(topology.node)).astype(np.int64)
    room = np.repeat(count[:, None], graph.slots, 1)
    for other in others:
        room -= other.taken(topology.node, begin_ns, int(graph.slot_s * 1e9))
    return np.maximum(room, 0)


def _idle_w(now: EnergyState) -> Floats:
    """What each node draws once it is open."""
    topology, nodes = now.topology, len(now.topology.node)
    drawn = np.zeros(nodes) if topology.overhead_w is None else np.maximum(topology.overhead_w, 0).astype(np.float64)
    if topology.idle_w is not None:
        drawn = drawn + np.bincount(topology.node_of_gpu, np.maximum(topology.idle_w, 0), minlength=nodes)
    return drawn
