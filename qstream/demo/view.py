"""What the demo shows: a live panel in a terminal, a line every few seconds elsewhere, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from qstream.demo.score import Score, Summary, Versus

LIVE_PERIOD_S = 0.25
LINE_PERIOD_S = 3.0
BARS = "▁▂▃▄▅▆▇█"
WINDOWS_SHOWN = 48


class View:
    """Shows a run while it goes; closes its panel on exit, so that what follows prints below it."""

    def __init__(self, console: Console, plain: bool) -> None:
        self.console = console
        self._live = None if plain or not console.is_terminal else Live(console=console, auto_refresh=False, transient=True)
        self._said = ""
        self._next_s = 0.0

    def say(self, text: str) -> None:
        """One line about what happens now; the same line again is passed over."""
        if text == self._said:
            return
        self._said = text
        if self._live is None:
            self.console.print(text, soft_wrap=True, highlight=False)
        else:
            self._live.update(Text(text, style="dim"), refresh=True)

    def due(self) -> bool:
        """Whether it is time for `show`: then the next time is set."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + (LINE_PERIOD_S if self._live is None else LIVE_PERIOD_S)
        return True

    def show(self, summary: Summary, score: Score, step: int, agent_state: str) -> None:
        """The figures up to now."""
        if self._live is None:
            self.say(_line(summary, agent_state))
        else:
            self._live.update(_panel(summary, score, step, agent_state), refresh=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()


def summary_table(summary: Summary) -> Table:
    """The figures of a whole run."""
    table = Table(title="qstream demo", show_header=False, title_justify="left", caption_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    rate = summary.tokens / summary.seconds if summary.seconds else 0.0
    rows = {
        "tokens": f"{summary.tokens:,} in {summary.seconds:.1f} s ({rate:,.0f}/s)",
        "loss, first and last step": f"{_number(summary.loss.first)}, {_number(summary.loss.last)}",
        "token batches, answered": f"{summary.token_batches:,}, {summary.routing_plans:,}",
        "placement plans, skipped": f"{summary.placement_plans:,}, {summary.placement_plans_skipped:,}",
        f"balancedness of the next window (mean of {summary.windows})": _arrow(summary.next_window_balancedness),
        "cross-node copies a token": _arrow(summary.cross_node_copies_per_token),
        "experts moved": f"{summary.moved_experts:,}",
        "latency p50, p99": f"{_number(summary.latency_ms.p50, 1)} ms, {_number(summary.latency_ms.p99, 1)} ms",
        "lost, repeated, dead letters": f"{summary.lost}, {summary.repeated}, {summary.dead_letters}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    table.caption = "contiguous → plan: the fixed placement, and the newest plan received before the window began"
    return table


def _panel(summary: Summary, score: Score, step: int, agent_state: str) -> Panel:
    recent = score.placement.scores[-WINDOWS_SHOWN:]
    grid = Table.grid(padding=(0, 2))
    balance = summary.next_window_balancedness
    for name, mean, series, style in (
        ("contiguous", balance.contiguous, [pair[0] for pair in recent], "yellow"),
        ("plan in force", balance.plan, [pair[1] for pair in recent], "green"),
    ):
        grid.add_row(name, f"[bold {style}]{_number(mean)}[/]", f"[{style}]{_sparkline(series)}[/]")
    latency, rate = summary.latency_ms, summary.tokens / summary.seconds if summary.seconds else 0.0
    lines: list[str | Table] = [
        f"step {step:,}   loss {_number(summary.loss.last, 3)}   {rate:,.0f} tokens/s   agent [bold]{agent_state}[/]",
        "",
        "balancedness of GPUs on the next window (1 is perfect), mean and by window",
        grid,
        "",
        f"placement plans {summary.placement_plans}   experts moved {summary.moved_experts:,}   "
        f"cross-node copies a token {_arrow(summary.cross_node_copies_per_token)}",
        f"routing plans {summary.routing_plans:,}   latency p50 {_number(latency.p50, 1)} ms, p99 {_number(latency.p99, 1)} ms"
        f"   dead letters {summary.dead_letters}",
    ]
    return Panel(Group(*lines), title=f"qstream demo  {summary.seconds:.0f} s", title_align="left", expand=False)


def _line(summary: Summary, agent_state: str) -> str:
    latency, rate = summary.latency_ms, summary.tokens / summary.seconds if summary.seconds else 0.0
    return (
        f"{summary.seconds:5.1f} s  {rate:,.0f} tokens/s  loss {_number(summary.loss.last, 3)}  "
        f"balancedness {_arrow(summary.next_window_balancedness)}  moved {summary.moved_experts}  "
        f"copies {_arrow(summary.cross_node_copies_per_token)}  p50 {_number(latency.p50, 1)} ms  "
        f"p99 {_number(latency.p99, 1)} ms  dead letters {summary.dead_letters}  agent {agent_state}"
    )


def _sparkline(values: Sequence[float]) -> str:
    return "".join(BARS[min(len(BARS) - 1, int(value * len(BARS)))] for value in values)


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"  # noqa: RUF001 - a dash for "not measured"


def _arrow(pair: Versus) -> str:
    return f"{_number(pair.contiguous)} → {_number(pair.plan)}"
