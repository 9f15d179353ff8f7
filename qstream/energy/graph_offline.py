"""schedule_graph: one schedule of a graph of tasks, without a server."""

from __future__ import annotations

from importlib import resources

from qstream.energy import unseen
from qstream.energy.features import measured
from qstream.energy.foresight import plan_foreseen
from qstream.energy.graphs import alone, schedule_frame, simple_graph
from qstream.energy.memory import fresh
from qstream.energy.options import EnergyOptions
from qstream.energy.surroundings import check_graph, problem_of
from qstream.energy.unseen import with_predictions
from qstream.errors import ProblemError
from qstream.learn.model import Model
from qstream.quantum.window import Runtime
from schemas.frame import JSON
from schemas.power import PowerTopology
from schemas.solver import Reason
from schemas.tasks import EnergySchedule, TaskGraph
from schemas.wording import must_be


def schedule_graph(
    graph: TaskGraph,
    topology: PowerTopology | None = None,
    *,
    budget_w: float | None = None,
    options: EnergyOptions | None = None,
    model: Model | None = None,
    runtime: Runtime | None = None,
) -> EnergySchedule:
    """Schedule a graph of tasks at a low peak of power.

    With `deterministic`, `qaoa` and `hqc` off each task starts as soon as possible.

    Parameters
    ----------
    graph
        The tasks.
    topology
        The nodes that run them, all idle: then tasks are assigned to as few nodes as the deadlines allow, and what the domain
        draws idle is part of the peak where the graph gives no `base_w`.
    budget_w
        What the domain may draw; the lower one of this and the topology's counts.
    options
        The defaults without.
    model
        Predicts slots and watts of the tasks that were not measured, as `qstream learn train energy gnn` has trained it; used
        where the schedule cannot get worse by it.
    runtime
        As of `plan_foreseen`.

    Raises
    ------
    ProblemError
        The graph contradicts the topology or itself. A deadline that cannot be met is a status, not an error.
    LearnError
        The model is of another kind, or does not fit.
    """
    chosen, budget, reason, foreseen = options or EnergyOptions(), budget_w, None, None
    if model is not None:
        foreseen, reason = with_predictions(graph, model), unseen.reason(model)
    elif chosen.gnn and not measured(graph).all():
        reason = Reason.MODEL_MISSING
    problem = alone(graph)
    if topology is not None:
        if graph.domain != topology.domain:
            raise ProblemError(must_be("domain of the graph", f"{topology.domain!r}, as in the topology", graph.domain))
        now = fresh(topology).now
        check_graph(graph, now)
        problem = problem_of(graph, now, (), lost_s=chosen.lost_s, free_ns=0)
        budget = topology.budget_w if budget is None else min(budget, topology.budget_w)
    solves = chosen.deterministic or chosen.qaoa or chosen.hqc or foreseen is not None
    found = plan_foreseen(problem, foreseen, chosen, runtime=runtime) if solves else simple_graph(problem)
    return schedule_frame(
        problem, found, plan_id=f"offline/{graph.graph_id}", ts_ns=graph.ts_ns, version=1, base_version=0, budget_w=budget,
        fallback_reason=reason,
    )  # fmt: skip


def bundled_graph() -> TaskGraph:
    """The graph that comes with the package: a night of tuning, evaluating and indexing on two nodes of 8 GPUs."""
    return TaskGraph.decode(resources.files("qstream.energy").joinpath("night.json").read_bytes(), JSON)
