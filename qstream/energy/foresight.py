"""Foresight: a schedule on predicted seconds and watts is taken only where it cannot be worse than one on what is declared.

What is declared of tasks that were not measured bounds them. So a schedule is judged by its peak if all tasks take and draw what
they declare: that is certain not to be passed. Predictions choose among schedules, coarse by nodes, and what refines a window,
such as circuits, refines them as any other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qstream.energy.graphs import Arm, GraphPlan, GraphProblem, plan_graph, window_of
from qstream.energy.options import EnergyOptions
from qstream.energy.scheduling import ROUNDING
from qstream.energy.window import TaskWindow
from qstream.quantum.window import Runtime
from schemas.tasks import TaskGraph

FORESEEN = "foreseen"  # variant of the solver whose schedule was found on predictions


def plan_foreseen(
    problem: GraphProblem,
    foreseen: TaskGraph | None,
    options: EnergyOptions,
    *,
    arm: Arm | None = None,
    runtime: Runtime | None = None,
) -> GraphPlan:
    """The schedule on what is declared, or the one on `foreseen` where that has fewer nodes or a lower peak as foreseen, and its
    certain peak and its nodes are not above those of the former; or where only what is foreseen keeps all deadlines.

    Its peak and bound are the certain ones, but in that last case. Without `foreseen`, and otherwise, as `plan_graph`.
    """
    plain = plan_graph(problem, options, arm=arm, runtime=runtime)
    if foreseen is None:
        return plain
    seen = plan_graph(replace(problem, graph=foreseen), options, arm=arm, runtime=runtime)
    if seen.plan.status == "infeasible":
        return plain
    solver = seen.plan.solver.model_copy(update={"variant": FORESEEN})
    if plain.plan.status == "infeasible":
        return replace(seen, plan=replace(seen.plan, solver=solver))
    window, expected = window_of(problem), window_of(replace(problem, graph=foreseen))
    start, mode = seen.plan.start, seen.plan.mode
    peak = float(window.load_w(start, mode).max())
    nodes = [len(np.unique(each.node_of_task[each.node_of_task >= 0])) for each in (seen, plain)]
    better = nodes[0] < nodes[1] or seen.plan.peak_w < _peak_w(expected, plain) * (1 - ROUNDING)
    certain = window.fits(start, mode) and _has_room(problem, window, seen) and peak <= plain.plan.peak_w * (1 + ROUNDING)
    if not better or not certain or nodes[0] > nodes[1]:
        return plain
    bound = min(plain.plan.bound_w, peak)
    twin = None if solver.twin is None else max(solver.twin, peak)
    solver = solver.model_copy(update={"objective": peak, "bound": bound, "twin": twin})
    return replace(seen, plan=replace(plain.plan, start=start, mode=mode, peak_w=peak, bound_w=bound, solver=solver))


def _peak_w(window: TaskWindow, found: GraphPlan) -> float:
    return float(window.load_w(found.plan.start, found.plan.mode).max())


def _has_room(problem: GraphProblem, window: TaskWindow, found: GraphPlan) -> bool:
    """Whether the tasks keep to the GPUs of each node if they take as long as they declare."""
    if problem.room is None:
        return True
    start, node, gpus = found.plan.start, found.node_of_task, problem.gpus()
    used = np.zeros((len(problem.room), window.slots + 1), np.int64)
    np.add.at(used, (node, start), gpus)
    np.add.at(used, (node, start + window.duration[np.arange(len(start)), found.plan.mode]), -gpus)
    return bool((np.cumsum(used, 1)[:, :-1] <= problem.room).all())
