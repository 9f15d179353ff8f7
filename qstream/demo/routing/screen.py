"""What the routing scene shows: a live panel, a line, and the tables at the end."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Group
from rich.panel import Panel
from rich.table import Table

from qstream.demo.routing.score import Score
from qstream.demo.routing.summary import Gains, Split, Summary, Versus
from qstream.demo.sparkline import sparkline

WINDOWS_SHOWN = 48


def run_table(summary: Summary, cluster: str) -> Table:
    """What was streamed and answered."""
    table = Table(title=f"qstream demo: {cluster}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    rows = {
        "tokens": f"{summary.tokens:,} in {summary.seconds:.1f} s ({_rate(summary):,.0f}/s)",
        "loss, first and last step": f"{_number(summary.loss.first)}, {_number(summary.loss.last)}",
        "token batches, answered": f"{summary.token_batches:,}, {summary.routing_plans:,}",
        "placement plans, skipped; dispatch shares": (
            f"{summary.placement_plans:,}, {summary.placement_plans_skipped:,}; {summary.dispatch_shares:,}"
        ),
        "latency p50, p99": f"{_number(summary.latency_ms.p50, 1)} ms, {_number(summary.latency_ms.p99, 1)} ms",
        "lost, repeated, dead letters": f"{summary.lost}, {summary.repeated}, {summary.dead_letters}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def gains_table(summary: Summary) -> Table:
    """What the plans gain, by what they were made for."""
    goals = {"for balance": summary.balance, "colocate": summary.colocate, "if for balance": summary.balance_instead}
    table = Table(title="what the plans gain", title_justify="left", caption_justify="left")
    table.add_column(style="bold")
    rows: dict[str, Callable[[Gains], str]] = {
        "placements, experts moved": lambda gains: f"{gains.placement_plans}, {gains.moved_experts:,}",
        "balancedness, next window": lambda gains: _arrow(gains.next_window_balancedness),
        "shares, next tokens": lambda gains: _split(gains.shares_on_next_tokens),
        "shares, their own tokens": lambda gains: _split(gains.shares_on_their_tokens),
        "cross-node copies a token": lambda gains: _arrow(gains.cross_node_copies_per_token),
    }
    shown = {name: gains for name, gains in goals.items() if gains.placement_plans}
    for name in shown:
        table.add_column(name, justify="right")
    for row, text in rows.items():
        table.add_row(row, *(text(gains) for gains in shown.values()))
    table.caption = "balancedness and shares: mean over maximum GPU load, 1 is perfect\n"
    table.caption += "contiguous → plan in force, but of shares: even split → shares"
    if summary.colocate.placement_plans:
        table.caption += "\nif for balance: what plans for balance would do on the tokens of colocate"
    return table


def panel(summary: Summary, score: Score, step: int, agent_state: str) -> Panel:
    """The figures up to now, on a live screen."""
    latency = summary.latency_ms
    goal, gains = _newest_goal(summary)
    recent = list(score.agent.windows.scores.values())[-WINDOWS_SHOWN:]
    stretches = score.agent.next_tokens.scores[-WINDOWS_SHOWN:]
    balance, served = gains.next_window_balancedness, gains.shares_on_next_tokens
    grid = Table.grid(padding=(0, 2))
    for name, mean, series, style in (
        ("contiguous", balance.contiguous, [pair[0] for _, pair in recent], "yellow"),
        ("plan in force", balance.plan, [pair[1] for _, pair in recent], "green"),
        ("next tokens, even split", served.even, [pair[0] for _, pair in stretches], "yellow"),
        ("next tokens, by shares", served.shares, [pair[1] for _, pair in stretches], "green"),
    ):
        grid.add_row(name, f"[bold {style}]{_number(mean)}[/]", f"[{style}]{sparkline(series)}[/]")
    lines: list[str | Table] = [
        f"step {step:,}   loss {_number(summary.loss.last, 3)}   {_rate(summary):,.0f} tokens/s   agent [bold]{agent_state}[/]",
        "",
        f"balancedness of GPUs (1 is perfect): mean of plans {goal}, and by window or stretch of tokens",
        grid,
        "",
        f"placement plans {summary.placement_plans}   experts moved {summary.moved_experts:,}   "
        f"cross-node copies a token {_arrow(gains.cross_node_copies_per_token)}",
        f"routing plans {summary.routing_plans:,}   latency p50 {_number(latency.p50, 1)} ms, p99 {_number(latency.p99, 1)} ms"
        f"   dead letters {summary.dead_letters}",
    ]
    return Panel(Group(*lines), title=f"qstream demo  {summary.seconds:.0f} s", title_align="left", expand=False)


def line(summary: Summary, agent_state: str) -> str:
    """The figures up to now, without a live screen."""
    latency = summary.latency_ms
    goal, gains = _newest_goal(summary)
    return (
        f"{summary.seconds:5.1f} s  {_rate(summary):,.0f} tokens/s  loss {_number(summary.loss.last, 3)}  {goal}: "
        f"balancedness {_arrow(gains.next_window_balancedness)}  shares {_split(gains.shares_on_next_tokens)}  "
        f"copies {_arrow(gains.cross_node_copies_per_token)}  moved {gains.moved_experts}  p50 {_number(latency.p50, 1)} ms  "
        f"p99 {_number(latency.p99, 1)} ms  agent {agent_state}"
    )


def _rate(summary: Summary) -> float:
    """Tokens a second."""
    return summary.tokens / summary.seconds if summary.seconds else 0.0


def _newest_goal(summary: Summary) -> tuple[str, Gains]:
    """What the plan in force was made for, and what such plans gained so far."""
    return ("colocate", summary.colocate) if summary.colocate.placement_plans else ("for balance", summary.balance)


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"  # noqa: RUF001 - a dash for "not measured"


def _arrow(pair: Versus) -> str:
    return f"{_number(pair.contiguous)} → {_number(pair.plan)}"


def _split(pair: Split) -> str:
    return f"{_number(pair.even)} → {_number(pair.shares)}"
