"""One HTML page without any other file: a table, the balance of each layer, and the load of each GPU as heat maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.cli.html import BLUE, GREY, LEFT, LINE, ORANGE, WIDTH, document, key, table, ticks
from qstream.cli.output import counted
from qstream.cli.routing.placements import Row
from qstream.routing.formats.recording import Recording
from schemas.experts import ExpertTopology

COLOURS: Final = {"contiguous": GREY, "in force": GREY, "EPLB": ORANGE, "qstream": BLUE}
# Load over the mean of the layer: blue is idle, white is even, red is overfull; the last one is everything above.
LEVELS: Final = (0.5, 0.7, 0.85, 0.95, 1.05, 1.15, 1.3, 1.5, 2.0)
SHADES: Final = (
    "#2f6f9f",
    "#6fa3c7",
    "#a9cbe0",
    "#d8e7f0",
    "#f7f6f2",
    "#fbe3d3",
    "#f4bd9b",
    "#e58f66",
    "#cf5f3e",
    "#9e2a24",
)
EXTRA: Final = {"unseen": "unseen window", "nodes": "nodes a token", "together": "pairs on a node"}


def page(rows: Sequence[Row], topology: ExpertTopology, given: Recording, source: str) -> str:
    """The page as text, the same for the same rows."""
    windows, layers, experts = given.history.shape
    order = "" if given.ordered else " in no known order"
    facts = (
        f"{escape(given.tool)}, {windows} windows{order}, {given.history.sum():,} gate choices; {layers} layers of {experts}"
        f" experts on {topology.num_slots} slots of {topology.num_gpus} GPUs, {counted(topology.num_nodes, 'node')}"
    )
    window = "the last window, planned from those before it" if rows[0].unseen is not None else "the recording"
    maps = "".join(f"<h2>{escape(row.name)}</h2>{_heat(row.loads, given.layer_ids)}" for row in rows)
    body = (
        f"<p>{facts}</p>{_table(rows)}"
        "<h2>Balancedness of each layer</h2><p>Mean over maximum GPU load, mean over the windows; 1 is perfect.</p>"
        f"{key([(COLOURS[row.name], row.name) for row in rows])}{_lines(rows, given.layer_ids)}"
        f"<h2>Load of each GPU</h2><p>Over the mean of its layer, in {window}. A row is a layer, a column a GPU.</p>"
        f"{key(_levels())}{maps}"
    )
    return document(f"Expert placement: {source}", body)


def _table(rows: Sequence[Row]) -> str:
    extra = [field for field in EXTRA if all(getattr(row, field) is not None for row in rows)]
    nearest = any(abs(row.even - row.nearest) > 1e-9 for row in rows)
    head = [
        "placement",
        "balancedness",
        "worst layer",
        "max/mean",
        "moved experts",
        *(["even", "nearest"] if nearest else []),
        *(EXTRA[field] for field in extra),
    ]
    lines = []
    for row in rows:
        cells = [row.name, f"{row.balancedness:.4f}", f"{row.worst_layer:.4f}", f"{row.max_over_mean:.3f}", f"{row.moved:,}"]
        both = [f"{row.even:.4f}", f"{row.nearest:.4f}"] if nearest else []
        lines.append([*cells, *both, *(f"{getattr(row, field):.4f}" for field in extra)])
    return table(head, lines, "qstream")


def _levels() -> list[tuple[str, str]]:
    """A colour and the loads that it stands for."""
    names = [f"below {LEVELS[0]:g}", *(f"{low:g}-{high:g}" for low, high in pairwise(LEVELS))]
    return list(zip(SHADES, [*names, f"above {LEVELS[-1]:g}"], strict=True))


def _lines(rows: Sequence[Row], layer_ids: Sequence[int]) -> str:
    """A line a placement over the layers, dots where there are few."""
    layers, height, top = len(layer_ids), 220, 8
    worst = 1.0 - min(float(row.by_layer.min()) for row in rows)
    step = 0.05 if worst <= 0.3 else 0.1 if worst <= 0.6 else 0.2
    steps = max(1, math.ceil(worst / step))
    low = 1.0 - steps * step
    xs = LEFT + (np.arange(layers) + 0.5) * (WIDTH - LEFT) / layers

    def y(value: float) -> float:
        return top + (1.0 - value) / (1.0 - low) * (height - top - 24)

    shown = []
    for number in range(steps + 1):
        value = low + number * step
        at = y(value)
        shown.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH}" stroke="{LINE}"/>')
        shown.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for row in rows:
        points = [(float(x), y(float(value))) for x, value in zip(xs, row.by_layer, strict=True)]
        line = "L".join(f"{x:.1f} {at:.1f}" for x, at in points)
        shown.append(f'<path d="M{line}" fill="none" stroke="{COLOURS[row.name]}" stroke-width="2"/>')
        if layers <= 128:
            shown += [f'<circle cx="{x:.1f}" cy="{at:.1f}" r="2.6" fill="{COLOURS[row.name]}"/>' for x, at in points]
    shown += [f'<text x="{xs[n]:.1f}" y="{height - 6}" text-anchor="middle">{layer_ids[n]}</text>' for n in ticks(layers, 16)]
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="balancedness by layer">{"".join(shown)}</svg>'


def _heat(loads: NDArray[np.float64], layer_ids: Sequence[int]) -> str:
    """Cells [layers, GPUs]; one path a colour keeps a large cluster small."""
    layers, gpus = loads.shape
    mean = loads.mean(1, keepdims=True)
    relative = np.divide(loads, mean, out=np.ones_like(loads), where=mean > 0)
    shade = np.digitize(relative, LEVELS)
    tall, wide = min(16.0, max(3.0, 420.0 / layers)), (WIDTH - LEFT) / gpus
    shown = []
    for number, colour in enumerate(SHADES):
        rows, columns = np.nonzero(shade == number)
        cells = "".join(
            f"M{LEFT + column * wide:.1f} {row * tall:.1f}h{wide:.2f}v{tall:.1f}h-{wide:.2f}z"
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        )
        if cells:
            shown.append(f'<path d="{cells}" fill="{colour}" stroke="#fff" stroke-width="{min(1.0, wide / 8):.2f}"/>')
    bottom = layers * tall
    every = ticks(layers, max(1, int(bottom // 14)))
    shown += [f'<text x="{LEFT - 6}" y="{(n + 0.5) * tall + 4:.1f}" text-anchor="end">{layer_ids[n]}</text>' for n in every]
    shown += [
        f'<text x="{LEFT + (n + 0.5) * wide:.1f}" y="{bottom + 14:.1f}" text-anchor="middle">{n}</text>' for n in ticks(gpus, 32)
    ]
    return f'<svg viewBox="0 -6 {WIDTH} {bottom + 26:.0f}" role="img" aria-label="load of each GPU">{"".join(shown)}</svg>'
