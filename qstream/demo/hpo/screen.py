"""What the hpo scene shows: a line, a live panel, and the tables and sentences at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from qstream.demo.hpo.score import STUDIES, Score, Tally
from qstream.demo.sparkline import sparkline
from qstream.hpo.options import HpoOptions

MARKS: Final = 60
WORST: Final = 5.55  # nats a byte, where all bytes are equally likely
MILESTONES: Final = (5, 10, 20, 40, 80)
TITLES: Final = {"default": "defaults", "sobol": "Sobol points, the control"}


def line(figures: Mapping[str, Any], score: Score, died: str, agent_state: str) -> str:
    """The figures up to now, without a live screen."""
    if not figures:
        return f"{agent_state}: no trial has ended yet"
    f = figures
    each = ", ".join(
        f"{name} {_loss(f['best_loss'][name])} of {len(score.studies[name].losses)} trials" for name in score.studies
    )
    killed = f"; {died} was killed" if died else ""
    return (
        f"best loss after {score.shared} trials each: {each}; {f['failed']} failed, {f['reissued']} out again, "
        f"{f['duplicates']} duplicates{killed}; ask p50 {f['latency_ms']['p50']:.0f} ms; agent {agent_state}"
    )


def panel(figures: Mapping[str, Any], score: Score, died: str, agent_state: str) -> RenderableType:
    """The figures up to now, on a live screen."""
    grid = Table.grid(padding=(0, 2))
    best = min((tally.best_by_trial()[-1] for tally in score.studies.values() if tally.losses), default=WORST)
    for name, style in zip(STUDIES, ("green", "yellow"), strict=True):
        tally = score.studies[name]
        grid.add_row(TITLES[name], f"[{style}]{_curve(tally, best)}[/]", _loss(_last(tally)), _sources(tally))
    return Panel(
        Group("best loss by trial, nats a byte", grid, "", line(figures, score, died, agent_state)),
        title="qstream demo hpo",
        title_align="left",
        expand=False,
    )


def report(figures: Mapping[str, Any], score: Score) -> Iterator[RenderableType]:
    """The tables and what they say, at the end."""
    f = figures
    yield _milestones(score)
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    latency = f["latency_ms"]
    for name, value in (
        ("trials", ", ".join(f"{len(score.studies[name].losses)} {name}" for name in STUDIES)),
        ("failed: the loss diverged", str(f["failed"])),
        ("of the killed worker, out again", str(f["reissued"])),
        ("lost, counted twice", f"{f['lost']}, {f['duplicates']}"),
        ("report to suggestion, p50, p99", f"{latency['p50']:.0f} ms, {latency['p99']:.0f} ms"),
        ("dead letters", str(f["dead_letters"])),
    ):
        table.add_row(name, value)
    yield table
    yield from (Text(sentence) for sentence in findings(figures, score))


def findings(figures: Mapping[str, Any], score: Score) -> Iterator[str]:
    """What it means for who trains."""
    own, control = figures["best_loss"]["default"], figures["best_loss"]["sobol"]
    shared = score.shared
    if own is None or control is None:
        yield f"After {shared} trials each, one of the studies has no loss to compare yet."
        return
    if own < control:
        reached = [at + 1 for at, loss in enumerate(score.studies["default"].best_by_trial(shared)) if loss <= control]
        yield (
            f"After {shared} trials each the defaults are {control - own:.3f} nats a byte better than Sobol points, whose best "
            f"they reached with trial {reached[0]}."
        )
    elif own > control:
        yield (
            f"The defaults lose here: after {shared} trials each they are {own - control:.3f} nats a byte behind Sobol points. "
            "In a study this short luck can decide; --seconds 120 or another --seed says more."
        )
    else:
        yield (
            f"After {shared} trials each both have the same best loss: the first {HpoOptions().initial} trials of the defaults "
            "are the same Sobol points."
        )
    best = score.studies["default"].best
    if best:
        yield "Best settings of the defaults: " + ", ".join(f"{name} {_value(value)}" for name, value in best.items()) + "."


def _milestones(score: Score) -> Table:
    """The best loss after 5, 10, 20... trials of either study."""
    table = Table(title="qstream demo hpo: best loss (nats a byte) after so many trials", title_justify="left")
    table.add_column("study")
    shared = score.shared
    marks = [*(mark for mark in MILESTONES if mark < shared), *([shared] if shared else [])]
    for mark in marks:
        table.add_column(str(mark), justify="right")
    table.add_column("proposed by")
    for name in STUDIES:
        tally = score.studies[name]
        curve = tally.best_by_trial()
        table.add_row(TITLES[name], *(_loss(curve[mark - 1]) for mark in marks), _sources(tally))
    return table


def _curve(tally: Tally, best: float) -> str:
    """The best loss by trial, the worst as a full bar."""
    curve = tally.best_by_trial()
    curve = curve[:: max(1, -(-len(curve) // MARKS))]
    span = max(WORST - best, 1e-9)
    return sparkline([min(1.0, max(0.0, (loss - best) / span)) if np.isfinite(loss) else 1.0 for loss in curve])


def _sources(tally: Tally) -> str:
    return ", ".join(f"{name} {count}" for name, count in tally.sources.most_common())


def _last(tally: Tally) -> float | None:
    return tally.best_by_trial()[-1] if tally.losses else None


def _loss(loss: float | None) -> str:
    return "-" if loss is None or not np.isfinite(loss) else f"{loss:.3f}"


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
