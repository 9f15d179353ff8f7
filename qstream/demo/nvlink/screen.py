"""What the nvlink scene shows: a line, a live panel, and the tables and sentences at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from qstream.demo.nvlink.fabric import GPUS, SERVERS
from qstream.demo.nvlink.findings import findings
from qstream.demo.nvlink.score import PHASES, Score
from qstream.demo.nvlink.traffic import RANKS
from qstream.demo.sparkline import sparkline

SHOWN: Final = 60  # windows of a picture
TITLE: Final = f"qstream demo nvlink: {RANKS} experts on {RANKS} of {SERVERS * GPUS} GPUs in {SERVERS} servers (modelled)"
WAYS: Final = {
    "usual": "usual: linear order, PXN, WCMP",
    "placement": "  ranks placed by the plan",
    "rails": "  and bytes on its rails",
    "plan": "  and its shares over spines",
}
HAPPENS: Final = {
    "healthy": "",
    "slow uplink": "an uplink is down to a quarter, and nobody has said so",
    "server gone": "and a server has left",
}


def line(score: Score, figures: Mapping[str, Any], phase: str, agent_state: str) -> str:
    """The figures up to now, without a live screen."""
    if not figures:
        return f"window {len(score.losses)}: no plan yet; agent {agent_state}"
    newest = score.windows[-1]
    return (
        f"window {len(score.losses)} ({phase}), modelled: exchange {newest.exchange_ms[0]:.0f} ms as usual, "
        f"{newest.exchange_ms[-1]:.0f} ms planned; fullest link over optimum {newest.link[0]:.2f} by WCMP, {newest.link[-1]:.2f} "
        f"planned; {figures['plans']} plans, {figures['shares']} shares, p50 {_ms(figures['latency_ms']['p50'])}; agent "
        f"{agent_state}"
    )


def panel(score: Score, figures: Mapping[str, Any], phase: str, agent_state: str) -> RenderableType:
    """The figures up to now, on a live screen."""
    recent = score.windows[-SHOWN:]
    grid = Table.grid(padding=(0, 2))
    for name, series, style in (
        ("exchange, as usual", [each.exchange_ms[0] for each in recent], "yellow"),
        ("exchange, as planned", [each.exchange_ms[-1] for each in recent], "green"),
    ):
        top = max((each.exchange_ms[0] for each in recent), default=1.0)
        newest = f"{series[-1]:.0f} ms" if series else ""
        grid.add_row(name, f"[bold {style}]{newest}[/]", f"[{style}]{sparkline([value / top for value in series])}[/]")
    for name, at, style in (("link / optimum, WCMP", 0, "yellow"), ("link / optimum, planned", -1, "green")):
        series = [each.link[at] for each in recent]
        newest = f"{series[-1]:.2f}" if series else ""
        top = max((max(each.link[0], each.link[-1]) for each in recent), default=1.0)
        grid.add_row(name, f"[bold {style}]{newest}[/]", f"[{style}]{sparkline([value / top for value in series])}[/]")
    loss = f"{score.losses[-1]:.3f}" if score.losses else "-"
    lines: list[RenderableType] = [
        f"step {len(score.losses):,}   loss {loss}   agent [bold]{agent_state}[/]   {HAPPENS[phase]}",
        "",
        "a step's exchange between GPUs, by window (modelled)",
        grid,
        "",
        line(score, figures, phase, agent_state),
    ]
    return Panel(Group(*lines), title="qstream demo nvlink", title_align="left", expand=False)


def tables(figures: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What was measured, and what it says."""
    yield _run(figures)
    yield _gains(figures)
    yield from (Text(sentence) for sentence in findings(figures))


def _run(f: Mapping[str, Any]) -> Table:
    table = Table(title=TITLE, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    until, single = f["windows_until_recovered"], f["single_tier"]
    link = _total(f)
    for name, value in (
        ("training: steps, loss", f"{f['windows']}, {f['loss']['first']:.2f} → {f['loss']['last']:.2f}"),
        ("J, us: linear order → plan", f"{f['cost_us']['linear']:,.0f} → {f['cost_us']['plan']:,.0f}"),
        ("fullest NIC over bound: PXN → plan", f"{_ratio(f['nic_over_bound']['pxn'])} → {_ratio(f['nic_over_bound']['plan'])}"),
        ("fullest link over optimum: WCMP → plan", f"{link[0]:.3f} → {link[1]:.3f}"),
        ("windows until recovered: uplink, server", f"{_number(until['uplink'])}, {_number(until['server'])}"),
        ("the same job on a healthy NVL72 rack", "-" if single["gain"] is None else f"gain {single['gain']:.0%}"),
        ("plans, skipped; shares", f"{f['plans']}, {f['plans_skipped']}; {f['shares']}"),
        ("latency of shares p50, p99", f"{_ms(f['latency_ms']['p50'])}, {_ms(f['latency_ms']['p99'])}"),
        ("latency of plans p50, p99", f"{_ms(f['plan_latency_ms']['p50'])}, {_ms(f['plan_latency_ms']['p99'])}"),
        ("lost, repeated, dead letters", f"{f['lost']}, {f['repeated']}, {f['dead_letters']}"),
    ):
        table.add_row(name, value)
    return table


def _gains(f: Mapping[str, Any]) -> Table:
    table = Table(title="ms of a step's exchange, means of windows that the plans had not seen (modelled)", title_justify="left")
    table.add_column(style="bold")
    seen = [phase for phase in PHASES if phase in f["exchange_ms"]]
    for phase in seen:
        table.add_column(phase, justify="right")
    for way, name in WAYS.items():
        table.add_row(name, *(f"{f['exchange_ms'][phase][way]:.1f}" for phase in seen))
    table.add_section()
    ratios = {"wcmp": "fullest link over optimum: WCMP", "wcmp_told": "  WCMP, told of the uplink", "plan": "  plan"}
    for key, name in ratios.items():
        table.add_row(name, *(f"{f['link_over_optimum'][phase][key]:.3f}" for phase in seen))
    return table


def _total(f: Mapping[str, Any]) -> tuple[float, float]:
    """Mean over the phases of the fullest link over the optimum: WCMP and plan."""
    phases = f["link_over_optimum"].values()
    return sum(each["wcmp"] for each in phases) / len(phases), sum(each["plan"] for each in phases) / len(phases)


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _number(value: int | None) -> str:
    return "never" if value is None else str(value)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
