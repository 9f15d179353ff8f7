"""What the energy scene shows: a line, a live panel, and the table and sentences at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from qstream.demo.energy.score import Score
from qstream.demo.energy.tasks import circuit_peak_w, exact_peak_w
from qstream.demo.sparkline import sparkline
from qstream.energy.options import EnergyOptions
from schemas.tasks import EnergySchedule, TaskGraph

SHOWN_S = 60  # modelled seconds of one mark of the picture


@dataclass(frozen=True, slots=True)
class Shown:
    """What there is to show: the score, the newest figures, modelled seconds, and when the budget falls and a node is cut off."""

    score: Score
    figures: Mapping[str, Any]
    second: int
    agent_state: str
    fall_s: int
    cut_s: range


def line(shown: Shown) -> str:
    """The figures up to now, without a live screen."""
    score, f = shown.score, shown.figures
    if not f:
        return f"{shown.agent_state}: no modelled second is over yet"
    return (
        f"modelled {shown.second // 60:2d} min: {_kw(score.watts[-1])}, without caps {_kw(score.uncapped_w[-1])}, budget "
        f"{_kw(score.budgets_w[-1])}; saved {f['saved_ratio']:.1%}, slowest {f['slowdown_worst']:.1%}; caps probed "
        f"{f['probes']}, GPUs with one {len(score.accepted)}; over a budget {f['budget_violations']} s; {f['plans']} plans, p50 "
        f"{_ms(f['latency_ms']['p50'])}; agent {shown.agent_state}"
    )


def panel(shown: Shown) -> RenderableType:
    """The figures up to now, on a live screen."""
    score, training = shown.score, shown.score.rack.training
    grid = Table.grid(padding=(0, 2))
    top = max((*score.uncapped_w, *score.budgets_w), default=1.0)
    for name, series, style in (
        ("budget", score.budgets_w, "red"),
        ("without caps", score.uncapped_w, "yellow"),
        ("as planned", score.watts, "green"),
    ):
        means = [float(np.mean(series[at : at + SHOWN_S])) for at in range(0, len(series), SHOWN_S)]
        newest, bars = _kw(series[-1]) if series else "", sparkline([mean / top for mean in means])
        grid.add_row(name, f"[bold {style}]{newest}[/]", f"[{style}]{bars}[/]")
    lines: list[RenderableType] = [
        f"modelled {shown.second // 60} min {shown.second % 60:02d} s   {happens(shown)}   agent [bold]{shown.agent_state}[/]",
        "",
        "watts of the GPUs, a mark for each minute (modelled)",
        grid,
        "",
        line(shown),
        f"targets: {targets(score)}",
        f"training: step {training.steps:,}, loss {training.loss:.3f}, slowed by {slowed(score, score.rack.live):.1%}",
    ]
    return Panel(Group(*lines), title="qstream demo energy", title_align="left", expand=False)


def report(shown: Shown) -> Iterator[RenderableType]:
    """The table and what it says, at the end."""
    score, f = shown.score, shown.figures
    rack, training = score.rack, score.rack.training
    table = Table(
        title=f"qstream demo energy: {len(rack.nodes)} nodes, {len(rack.uuids)} {rack.nodes[0].model} GPUs (modelled)",
        show_header=False,
        title_justify="left",
    )
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in (
        ("modelled time", f"{shown.second // 60} min {shown.second % 60} s of real requests"),
        ("watts: default → planned", _before_after(score.uncapped_w, score.watts, slice(None))),
        ("  after the budget's fall", _before_after(score.uncapped_w, score.watts, slice(shown.fall_s, None))),
        ("energy saved at equal work", f"{f['saved_ratio']:.1%}"),
        ("slowdown by progress, worst GPU", f"{f['slowdown_worst']:.1%}"),
        ("caps probed; GPUs with an accepted cap", f"{f['probes']}; {len(score.accepted)} of {len(rack.opted_in)}"),
        ("seconds over a budget", str(f["budget_violations"])),
        ("writes; unsafe ones", f"{sum(len(node.writes) for node in rack.nodes):,}; {f['unsafe_writes']}"),
        ("silent GPUs, charged at their cap", str(f["stale_gpus"])),
        ("plans; schedules", f"{f['plans']:,}; {f['schedules']}"),
        ("latency p50, p99", f"{_ms(f['latency_ms']['p50'])}, {_ms(f['latency_ms']['p99'])}"),
        ("lost, dead letters", f"{f['lost']}, {f['dead_letters']}"),
        ("live training: steps, loss", f"{training.steps:,}, {training.first_loss:.3f} → {training.loss:.3f}"),
    ):
        table.add_row(name, value)
    table.caption = (
        "slowdown is the work done against the same GPUs' without caps, probes and budgets included;\nwatts are of the GPUs"
    )
    table.caption_justify = "left"
    yield table
    if score.graph is not None and score.schedules:
        yield schedule_table(score.graph, score.schedules[-1])
    yield from (Text(sentence) for sentence in findings(shown))


def findings(shown: Shown) -> Iterator[str]:
    """What happened on the way, as far as it did."""
    score = shown.score
    if shown.second > shown.fall_s:
        before, after = score.budgets_w[0], score.budgets_w[-1]
        yield f"Budget: {_kw(before)} → {_kw(after)} for the GPUs, announced a minute before."
    if shown.second > shown.cut_s.stop:
        charged = f"its {score.stale_gpus} GPUs were charged at their default limits"
        yield f"Silence: a node was cut off for {len(shown.cut_s)} s; {charged}, which its actuator puts back by itself."


def schedule_table(graph: TaskGraph, schedule: EnergySchedule) -> Table:
    """A window of tasks: its peak, by who placed them."""
    solver, options = schedule.solver, EnergyOptions(qaoa=True)
    circuit_w, execution = circuit_peak_w(graph, options)
    circuit = f"QAOA alone, {options.circuit_layers} layers, {options.shots:,} shots ({execution})"
    table = Table(title=f"a window of {len(graph.task)} tasks: peak in W", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    rows: list[tuple[str, float | None]] = [
        ("each task as soon as possible", schedule.simple_peak_w),
        ("as many random choices as shots", solver.control),
        (circuit, circuit_w),
        ("without circuits", solver.twin),
        (f"the agent's schedule ({solver.solver}, {solver.execution})", schedule.peak_w),
        ("exact, all choices enumerated", exact_peak_w(graph)),
    ]
    for label, watts in rows:
        table.add_row(label, "-" if watts is None else f"{watts:,.0f}")
    tried, kept = solver.tried or 0, solver.kept or 0
    table.caption = f"parts that circuits worked on: {tried}; answers of theirs that lowered the peak, and are kept: {kept}"
    table.caption_justify = "left"
    return table


def happens(shown: Shown) -> str:
    """What an operator would see now."""
    if shown.second in shown.cut_s:
        return "node-1 is cut off"
    return "the budget is 20 % lower" if shown.second >= shown.fall_s else ""


def targets(score: Score) -> str:
    """Targets of the newest plan by reason."""
    plan = next((plan for plan in reversed(score.plans) if plan.reason_of is not None), None)
    if plan is None or plan.reason_of is None:
        return "none yet"
    counted = Counter(str(plan.reason[int(at)]) for at in plan.reason_of)
    return ", ".join(f"{reason} {count}" for reason, count in counted.most_common())


def slowed(score: Score, uuid: str) -> float:
    """Slowdown of one GPU."""
    return float(score.slowdown[score.rack.uuids.index(uuid)])


def _before_after(before: Sequence[float], after: Sequence[float], part: slice) -> str:
    if not len(before[part]):
        return "-"
    return f"{np.mean(before[part]):,.0f} → {np.mean(after[part]):,.0f}"


def _kw(watts: float) -> str:
    return f"{watts / 1e3:.2f} kW"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
