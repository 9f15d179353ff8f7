"""What the compression scene shows: a line, a live panel, and the table and sentences at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from qstream.demo.compression.score import ROLES, Score
from qstream.demo.sparkline import sparkline

MARKS: Final = 60
CAPTION: Final = "weights: bfloat16, mode delta; gradients: float32, gradient; activations: float32, bounded"


def line(figures: Mapping[str, Any], agent_state: str) -> str:
    """The figures up to now, without a live screen."""
    if not figures:
        return f"{agent_state}: no tensor is back yet"
    f = figures
    each = ", ".join(f"{role}s {_bits(f['bits'][role])} bits" for role in ROLES)
    return (
        f"step {f['steps']}: {each}; loss {_loss(f['loss'])}, uncompressed {_loss(f['loss_uncompressed'])}; "
        f"{f['blocks']:,} blocks, {f['mismatches']} mismatches, {f['bound_violations']} over the bound; "
        f"p50 {f['latency_ms']['p50']:.0f} ms; agents {agent_state}"
    )


def panel(figures: Mapping[str, Any], score: Score, agent_state: str) -> RenderableType:
    """The figures up to now, on a live screen."""
    grid = Table.grid(padding=(0, 2))
    top = max((*score.losses.own, *score.losses.twin), default=1.0)
    for name, losses, style in (("restored", score.losses.own, "green"), ("uncompressed", score.losses.twin, "yellow")):
        shown = losses[:: max(1, -(-len(losses) // MARKS))]
        grid.add_row(f"loss, gradients {name}", f"[{style}]{sparkline([loss / top for loss in shown])}[/]", _loss(_last(losses)))
    return Panel(
        Group(roles_table(figures, score), "", grid, "", line(figures, agent_state)),
        title="qstream demo compression",
        title_align="left",
        expand=False,
    )


def report(figures: Mapping[str, Any], score: Score) -> Iterator[RenderableType]:
    """The tables and what they say, at the end."""
    f = figures
    yield roles_table(figures, score)
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    latency = f["latency_ms"]
    for name, value in (
        ("steps, tensors, blocks", f"{f['steps']:,}, {f['tensors']:,}, {f['blocks']:,}"),
        ("loss, gradients restored", _loss(f["loss"])),
        ("loss of the twin, gradients uncompressed", _loss(f["loss_uncompressed"])),
        ("exact blocks that came back different", str(f["mismatches"])),
        (f"activations over the bound, {score.bound} rms", str(f["bound_violations"])),
        ("publish to restored, p50, p99", f"{latency['p50']:.0f} ms, {latency['p99']:.0f} ms"),
        ("lost, dead letters", f"{f['lost']}, {f['dead_letters']}"),
    ):
        table.add_row(name, value)
    yield table
    yield from (Text(sentence) for sentence in findings(figures))


def roles_table(figures: Mapping[str, Any], score: Score) -> Table:
    """What each role costs and loses, next to the usual formats."""
    table = Table(title="qstream demo compression: bits a value, with headers", title_justify="left")
    for heading in ("role", "bits", "ratio", "error", "int8", "its error", "XOR + deflate"):
        table.add_column(heading, justify="left" if heading == "role" else "right")
    for role in ROLES if figures else ():
        tally, peer = score.tallies[role], figures["peers"][role]
        whole = tally.blocks > 0 and tally.exact == tally.blocks
        error = "identical" if whole else _error(figures["rel_l2"][role])
        ratio = figures["ratio"][role]
        table.add_row(
            f"{role}s",
            _bits(figures["bits"][role]),
            "-" if ratio is None else f"{ratio:.1f} x",
            error,
            _bits(peer["int8_bits"]),
            _error(peer["int8_rel_l2"]),
            _bits(peer["xor_deflate_bits"]),
        )
    table.caption = f"{CAPTION}\nerrors are relative, L2; peers code one step of eight; XOR is with the step before"
    table.caption_justify = "left"
    return table


def findings(figures: Mapping[str, Any]) -> Iterator[str]:
    """What it means for who trains."""
    bits, own, twin = figures["bits"]["gradient"], figures["loss"], figures["loss_uncompressed"]
    if bits is not None and own is not None and twin is not None:
        yield (
            f"Gradients: {bits:.2f} of 32 bits; what a step loses is added to the next, so that the loss is {own - twin:+.3f} "
            f"nats a byte from its twin's after {figures['steps']} steps."
        )
    if figures["bits"]["weight"] is not None:
        yield (
            "Weights: early steps at a large learning rate change nearly all of them; fine-tuning at 1e-6 changes one in 150, "
            "and deltas are 300 times smaller."
        )


def _last(losses: list[float]) -> float | None:
    return losses[-1] if losses else None


def _bits(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
