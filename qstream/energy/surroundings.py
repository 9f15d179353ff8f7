"""Surroundings: what a domain draws besides a graph's tasks, and on which GPUs they may run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qstream.energy.budgets import tree_of
from qstream.energy.fleet import Floats, Ints
from qstream.energy.graphs import GraphProblem
from qstream.energy.held import HeldGraph
from qstream.energy.levels import Bools
from qstream.energy.memory import EnergyState
from qstream.errors import ProblemError
from schemas.tasks import TaskGraph
from schemas.wording import must_be


def problem_of(graph: TaskGraph, now: EnergyState, others: Sequence[HeldGraph], *, lost_s: float, free_ns: int) -> GraphProblem:
    """The graph with what is known of its domain; slots that begin before `free_ns` are over.

    Raises
    ------
    ProblemError
        A task takes more GPUs than the domain has.
    """
    topology = now.topology
    gpus, each = len(topology.uuid), np.bincount(topology.node_of_gpu, minlength=len(topology.node))
    need = np.ones(len(graph.task), np.int64) if graph.gpus is None else graph.gpus.astype(np.int64)
    if (over := need > gpus).any():
        task = graph.task[int(over.argmax())]
        raise ProblemError(must_be(f"gpus of task {task}", f"at most {gpus}, the GPUs of {topology.domain}", int(need.max())))
    spans = bool((need > each.max(initial=0)).any())  # a task over several nodes finds them itself
    slot_ns = graph.slot_s * 1e9
    first = min(graph.slots, max(0, int(np.ceil((free_ns - graph.ts_ns) / slot_ns))))
    lost = (now.seen_ns > 0) & (now.watermark_ns - now.seen_ns > lost_s * 1e9)
    return GraphProblem(
        graph,
        first,
        _base_w(graph, now, others, lost),
        () if spans else topology.node,
        np.zeros(0, np.int64) if spans else _free_gpus(graph, now, others, lost),
        np.zeros(0) if spans else _idle_w(now),
    )


def budget_w(graph: TaskGraph, now: EnergyState) -> float:
    """The lowest budget of the domain that holds at any time of the graph's window."""
    end_ns = graph.ts_ns + int(graph.slots * graph.slot_s * 1e9)
    return float(tree_of(now.topology, now.budgets, graph.ts_ns, end_ns).budget_w[0])


def _base_w(graph: TaskGraph, now: EnergyState, others: Sequence[HeldGraph], lost: Bools) -> Floats:
    """What is drawn in each slot: as the graph says, or what is measured now without the tasks of other graphs; and these."""
    base = graph.base_w.astype(np.float64) if graph.base_w is not None else np.full(graph.slots, _measured_w(now, others, lost))
    begin_ns = graph.ts_ns + (np.arange(graph.slots) * graph.slot_s * 1e9).astype(np.int64)
    for other in others:
        base = base + other.load_during(begin_ns, int(graph.slot_s * 1e9))
    return base


def _measured_w(now: EnergyState, others: Sequence[HeldGraph], lost: Bools) -> float:
    topology = now.topology
    idle = np.full(len(topology.uuid), 0.0) if topology.idle_w is None else np.maximum(topology.idle_w, 0)
    default = np.where(topology.limit_default_w > 0, topology.limit_default_w, idle)
    watts = np.where(lost, default, np.where(now.power_w >= 0, now.power_w, idle))
    overhead = 0.0 if topology.overhead_w is None else float(np.maximum(topology.overhead_w, 0).sum())
    running = sum(float(other.load_during(np.array([now.watermark_ns]), 1)[0]) for other in others)
    return max(0.0, float(watts.sum()) + overhead - running)


def _free_gpus(graph: TaskGraph, now: EnergyState, others: Sequence[HeldGraph], lost: Bools) -> Ints:
    """GPUs of each node without another job, less those that other graphs take during this one."""
    topology = now.topology
    ours = {task for other in others for task in other.task} | {"", *graph.task}
    free = np.array([job in ours for job in now.job], bool) & ~lost
    if topology.mig is not None:
        free &= topology.mig == 0
    count = np.bincount(topology.node_of_gpu[free], minlength=len(topology.node)).astype(np.int64)
    end_ns = graph.ts_ns + int(graph.slots * graph.slot_s * 1e9)
    row = {name: at for at, name in enumerate(topology.node)}
    for other in others:
        if other.begin_ns < end_ns and graph.ts_ns < other.end_ns:
            for name, used in zip(other.node, other.used_gpus.tolist(), strict=True):
                if name in row:
                    count[row[name]] -= used
    return np.maximum(count, 0)


def _idle_w(now: EnergyState) -> Floats:
    topology, nodes = now.topology, len(now.topology.node)
    drawn = np.zeros(nodes) if topology.overhead_w is None else np.maximum(topology.overhead_w, 0).astype(np.float64)
    if topology.idle_w is not None:
        drawn = drawn + np.bincount(topology.node_of_gpu, np.maximum(topology.idle_w, 0), minlength=nodes)
    return drawn
