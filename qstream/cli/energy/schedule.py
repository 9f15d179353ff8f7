"""`qstream energy schedule`: a graph of tasks in, when and where they run out, without a server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import typer

from qstream.cli.energy.files import read_frame, read_model
from qstream.cli.energy.recordings import watts
from qstream.cli.names import parse_options
from qstream.cli.options import AsJson, OptionChanges
from qstream.cli.output import counted, print_json, print_table, solver_text, write_files
from qstream.errors import ConfigError, ProblemError
from schemas.frame import JSON
from schemas.power import PowerTopology
from schemas.solver import CLASSICAL, SolverRecord
from schemas.tasks import EnergySchedule, TaskGraph
from schemas.wording import must_be

HEAD: Final = ("schedule", "peak", "above the bound")
TASK_HEAD: Final = ("task", "start", "end", "mode", "power", "node")
MOST_SHOWN: Final = 50


def schedule(
    tasks: Annotated[Path | None, typer.Argument(metavar="TASKS.json", help="TaskGraph as JSON.")] = None,
    *,
    example: Annotated[bool, typer.Option("--example", help="Schedule the graph that qstream is shipped with.")] = False,
    topology: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PowerTopology as JSON: then tasks are assigned to nodes.")
    ] = None,
    budget: Annotated[str | None, typer.Option(metavar="WATTS", help="What the domain may draw, such as 40kW.")] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Model of learn train energy gnn: predicts tasks that were not measured.")
    ] = None,
    changes: OptionChanges = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of what is drawn at random.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the schedule goes, as JSON.")] = None,
    as_json: AsJson = False,
) -> None:
    """Schedule tasks that depend on one another so that the highest draw is low.

    The schedule is compared with one that starts each task as soon as possible, and with a bound below which none can be.
    Exit code 1 if the peak is above the budget, or a deadline cannot be met: then the tasks at fault are named, and the
    schedule is the soonest.

    \b
    Example:
      qstream energy schedule --example
      qstream energy schedule tasks.json --topology rack.json --budget 12kW --out schedule.json
      qstream energy schedule tasks.json --set qaoa=true --json
      qstream energy schedule tasks.json --model gnn.safetensors
    """
    from qstream.energy.graph_offline import bundled_graph, schedule_graph  # noqa: PLC0415 - numpy and solvers, not for help
    from qstream.energy.options import EnergyOptions  # noqa: PLC0415 - as above

    began = time.perf_counter()
    if (tasks is None) != example:
        raise ConfigError(must_be("TASKS.json", "a file, or absent with --example", tasks and str(tasks)))
    limit_w = None if budget is None else watts(budget)
    options = EnergyOptions().changed({"seed": seed, **parse_options(changes or [])})
    graph = bundled_graph() if tasks is None else read_frame(TaskGraph, tasks, "TASKS.json")
    learnt = None if model is None else read_model(model)
    tree = None if topology is None else read_frame(PowerTopology, topology, "--topology")
    if out is not None and out.resolve() in {path.resolve() for path in (tasks, topology, model) if path is not None}:
        raise ConfigError(must_be("--out", "a file of its own, not an input", str(out)))
    try:
        plan = schedule_graph(graph, tree, budget_w=limit_w, options=options, model=learnt)
    except ProblemError as exc:
        raise ConfigError(f"{tasks}: {exc}") from exc
    written = write_files([] if out is None else [(out, plan.encode(JSON) + b"\n")])
    if as_json:
        wall_s = round(time.perf_counter() - began, 3)
        print_json({"schedule": plan.model_dump(mode="json"), "written": written, "wall_s": wall_s})
    else:
        print_table(HEAD, _compared(plan), styles=["", "green"])
        print_table(TASK_HEAD, _tasks(plan, graph))
        for line in (*_facts(plan, graph), *(f"written: {path}" for path in written)):
            typer.echo(line)
    if plan.status == "infeasible" or plan.missing_w:
        raise typer.Exit(1)


def _compared(plan: EnergySchedule) -> list[tuple[str, ...]]:
    peaks = {"as soon as possible": plan.simple_peak_w, "planned": plan.peak_w}
    if plan.solver.twin is not None and plan.solver.twin != plan.peak_w:
        peaks["planned, without circuits"] = plan.solver.twin
    if plan.solver.control is not None:
        peaks["random choices instead of a circuit"] = plan.solver.control
    rows = [(name, f"{peak:.0f} W", _above(peak, plan.bound_w)) for name, peak in peaks.items()]
    return [*rows, ("bound", f"{plan.bound_w:.0f} W", "")]


def _above(peak_w: float, bound_w: float) -> str:
    return f"{100 * (peak_w / bound_w - 1):.1f} %" if bound_w > 0 else ""


def _tasks(plan: EnergySchedule, graph: TaskGraph) -> list[tuple[str, ...]]:
    """Tasks by their start, times from the begin of the window."""
    rows: list[tuple[str, ...]] = []
    for at in sorted(range(len(plan.task)), key=lambda at: (plan.start[at], at))[:MOST_SHOWN]:
        start, mode = int(plan.start[at]), int(plan.mode[at])
        end = start + int(graph.duration[at, mode])
        node = -1 if plan.node_of_task is None else int(plan.node_of_task[at])
        times = (clock(start * plan.slot_s), clock(end * plan.slot_s))
        rows.append(
            (plan.task[at], *times, str(mode), f"{graph.power_w[at, mode]:.0f} W", plan.node[node] if node >= 0 else "any")
        )
    return rows


def clock(seconds: float) -> str:
    """Seconds as ``+h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"+{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _facts(plan: EnergySchedule, graph: TaskGraph) -> list[str]:
    lines = [f"and {counted(len(plan.task) - MOST_SHOWN, 'task')} more"] if len(plan.task) > MOST_SHOWN else []
    edges = 0 if graph.edges is None else len(graph.edges)
    what = f"{counted(len(plan.task), 'task')}, {counted(edges, 'edge')}, {plan.category}"
    nodes = f"; {counted(len(plan.node), 'node')} needed" if plan.node else ""
    lines.append(f"{plan.status}: {what}{nodes}; {solver_text(plan.solver)}")
    if plan.at_fault:
        lines.append(f"deadlines that cannot be met: {', '.join(plan.at_fault)}")
    if plan.budget_w is not None:
        against = f"{plan.missing_w:.0f} W above" if plan.missing_w else "within"
        lines.append(f"the peak is {against} the budget of {plan.budget_w:.0f} W")
    if plan.solver.depth is not None:
        lines.append(_circuit(plan.solver))
    if plan.fallback_reason is not None:
        lines.append(f"not all that was asked for answered: {plan.fallback_reason}")
    return lines


def _circuit(record: SolverRecord) -> str:
    """What was run as circuits, and what came of it."""
    took = "taken" if record.execution != CLASSICAL else "not better than the classical schedule, which stands"
    shape = f"{record.n} tasks, {record.depth} layers, {record.shots} shots, seed {record.seed}"
    return f"circuits, simulated unless a device is named: {shape}; {took}"
