"""One HTML page without any other file: a table, watts against the budget, and the limit of each GPU as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.cli.energy.compared import HEAD, Compared
from qstream.cli.html import BLUE, GREY, LEFT, LINE, ORANGE, WIDTH, document, key, table, ticks
from qstream.energy.compare import Row
from schemas.power import PowerTopology

COLOURS: Final = {"default": GREY, "uniform": ORANGE, "planned": BLUE}
DRAWN: Final = "#dfe7ec"
BUDGET: Final = "#9e2a24"
BAR: Final = 26
STEPS: Final = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)


def page(found: Compared) -> str:
    """The page as text, the same for the same plan."""
    rows, now = found.rows, found.offline.memory.now
    colours = [(COLOURS[row.name], row.name) for row in rows]
    lines = "".join(f"<p>{escape(fact)}</p>" for fact in found.facts())
    body = (
        f"{lines}{table(HEAD, found.cells(), 'planned')}"
        "<h2>Watts of the domain</h2><p>Pale: the most that these limits let it draw. Full: what to expect.</p>"
        f"{key([*colours, (BUDGET, 'budget')])}{_bars(rows, float(found.offline.choice.view.tree.budget_w[0]))}"
        "<h2>Limit of each GPU</h2><p>In the order of the topology, node by node.</p>"
        f"{key([*colours, (DRAWN, 'mean draw')])}{_limits(rows, now.topology, now.power_w.astype(np.float64))}"
    )
    return document(f"Power limits: {found.source}", body)


def _bars(rows: Sequence[Row], budget_w: float) -> str:
    """A bar a row, and the budget as a line."""
    most = _rounded(max([row.at_most_w for row in rows] + ([budget_w] if math.isfinite(budget_w) else [])))
    left, height = 70, len(rows) * (BAR + 10) + 30
    wide = WIDTH - left - 10
    shown = _across(most, left, wide, height)
    for number, row in enumerate(rows):
        top = 6 + number * (BAR + 10)
        shown.append(f'<text x="{left - 8}" y="{top + BAR / 2 + 4}" text-anchor="end">{row.name}</text>')
        for watts, opacity in ((row.at_most_w, 0.3), (row.expected_w, 1)):
            shown.append(
                f'<rect x="{left}" y="{top}" width="{wide * watts / most:.1f}" height="{BAR}" '
                f'fill="{COLOURS[row.name]}" fill-opacity="{opacity}"/>'
            )
    if math.isfinite(budget_w):
        at = left + wide * budget_w / most
        shown.append(f'<path d="M{at:.1f} 0V{height - 20}" stroke="{BUDGET}" stroke-width="2"/>')
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="watts of the domain">{"".join(shown)}</svg>'


def _across(most: float, left: float, wide: float, height: float) -> list[str]:
    """Grid lines of watts from left to right."""
    shown = []
    for number in range(6):
        at, watts = left + wide * number / 5, most * number / 5
        shown.append(f'<path d="M{at:.1f} 0V{height - 20}" stroke="{LINE}"/>')
        shown.append(f'<text x="{at:.1f}" y="{height - 6}" text-anchor="middle">{watts:,.0f} W</text>')
    return shown


def _limits(rows: Sequence[Row], topology: PowerTopology, drawn_w: NDArray[np.float64]) -> str:
    """A stepped line a row over the GPUs, above their mean draws; a node begins at each upright line."""
    order = np.argsort(topology.node_of_gpu, kind="stable")
    node = topology.node_of_gpu[order]
    gpus, height, top = len(order), 260, 8
    base, wide = height - 24, (WIDTH - LEFT) / len(order)
    most = _rounded(max(float(np.max([row.limit_w for row in rows])), float(drawn_w.max())))

    def y(watts: float) -> float:
        return base - (base - top) * max(watts, 0.0) / most

    shown = []
    for number in range(5):
        watts = most * number / 4
        shown.append(f'<path d="M{LEFT} {y(watts):.1f}H{WIDTH}" stroke="{LINE}"/>')
        shown.append(f'<text x="{LEFT - 6}" y="{y(watts) + 4:.1f}" text-anchor="end">{watts:,.0f}</text>')
    boxes = "".join(
        f"M{LEFT + at * wide:.1f} {base}V{y(watts):.1f}h{wide:.2f}V{base}z" for at, watts in enumerate(drawn_w[order].tolist())
    )
    shown.append(f'<path d="{boxes}" fill="{DRAWN}"/>')
    for row in rows:
        steps = "".join(f"V{y(watts):.1f}h{wide:.2f}" for watts in row.limit_w[order].tolist())
        line = f"M{LEFT} {y(float(row.limit_w[order[0]])):.1f}{steps}"
        shown.append(f'<path d="{line}" fill="none" stroke="{COLOURS[row.name]}" stroke-width="2"/>')
    begins = np.flatnonzero(np.diff(node, prepend=-1))
    for at in begins[list(ticks(len(begins), 12))].tolist():
        x = LEFT + at * wide
        shown.append(f'<path d="M{x:.1f} {top}V{base}" stroke="{LINE}"/>')
        shown.append(f'<text x="{x + 3:.1f}" y="{height - 8}">{escape(topology.node[int(node[at])][:14])}</text>')
    label = f"power limits of {gpus} GPUs"
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(shown)}</svg>'


def _rounded(watts: float) -> float:
    """The next round number of watts."""
    scale = 10.0 ** math.floor(math.log10(max(watts, 1.0)))
    return next(step * scale for step in STEPS if step * scale >= watts)
