"""One HTML page without any other file: the table, bytes between blocks before and after, and which GPU holds which rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.cli.html import BLUE, GREY, LEFT, LINE, ORANGE, WIDTH, document, key, table, ticks
from qstream.cli.nvlink.compared import OURS, Compared, Row
from qstream.cli.nvlink.place import cells, facts
from qstream.cli.output import size_text
from schemas.fabric import GPU

COLOURS: Final = {"random": LINE, "linear": GREY, "in force": GREY, "METIS": ORANGE, OURS: BLUE}
# Bytes of a pair of blocks over those of the fullest pair, each shade a third of the next.
SHADES: Final = ("#f7f6f2", "#fbe3d3", "#f4bd9b", "#e58f66", "#cf5f3e", "#9e2a24")
STEP: Final = 3.0
# Ranks in order, from the first to the last.
RANKS: Final = ("#1b6e8c", "#3f8f8f", "#6fae7f", "#a9c86d", "#e0c95b", "#e8a548", "#dd7d45", "#c25552", "#96406f", "#5f3b84")
FREE: Final = "#eef1f4"
BUSY: Final = "#c3c9d1"
MOST_BLOCKS: Final = 72  # in a picture
MOST_GPUS: Final = 4608
NAMED_GPUS: Final = 160  # up to which each cell has its rank


def page(found: Compared) -> str:
    """The page as text, the same for the same plan."""
    columns, rows = cells(found)
    before = found.row("in force", "linear")
    lines = "".join(f"<p>{escape(text)}</p>" for text in facts(found))
    note = (
        "<p>All of it is modelled from the description of the fabric, and nothing was measured. The cost is bytes times us/KB,"
        " summed over all pairs of ranks: lower is better. It is not a time.</p>"
    )
    warned = "".join(f"<p>Warning: {escape(text)}</p>" for text in found.topology.warnings)
    pictures = f"<h2>Cost</h2>{_bars(found.rows)}{_flows(found, before)}{_maps(found, before)}"
    return document(
        f"{found.profile.job} on {found.topology.fabric}", f"{lines}{table(columns, rows, OURS)}{note}{warned}{pictures}"
    )


def _bars(rows: Sequence[Row]) -> str:
    most = max((row.cost_us for row in rows), default=0.0) or 1.0
    shown, high = [], 24
    for at, row in enumerate(rows):
        wide = max(1.0, row.cost_us / most * (WIDTH - 260))
        shown.append(f'<text x="76" y="{at * high + 15}" text-anchor="end">{escape(row.name)}</text>')
        shown.append(f'<rect x="84" y="{at * high + 3}" width="{wide:.1f}" height="16" fill="{COLOURS[row.name]}"/>')
        text = f"{row.cost_us:,.0f} us, {row.over_linear:.3f} of linear"
        shown.append(f'<text x="{90 + wide:.1f}" y="{at * high + 15}">{text}</text>')
    return _svg(len(rows) * high + 4, "modelled cost", shown)


def _svg(height: float, label: str, shown: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{label}">{"".join(shown)}</svg>'


def _flows(found: Compared, before: Row) -> str:
    """Bytes between blocks in both placements, on one scale."""
    count = len(found.blocks.name)
    if not 1 < count <= MOST_BLOCKS:
        return ""
    src, dst, nbytes = found.traffic
    after = found.row(OURS)
    sums = []
    for row in (before, after):
        matrix = np.zeros((count, count))
        np.add.at(matrix, (row.block[src], row.block[dst]), nbytes)
        np.fill_diagonal(matrix, 0.0)
        sums.append(matrix)
    most = max(float(matrix.max()) for matrix in sums)
    if not most:
        return "<h2>Bytes between blocks</h2><p>None: the job stays within one block.</p>"
    names = [f"below {size_text(most / STEP ** (len(SHADES) - 1))}"]
    names += [f"up to {size_text(most / STEP**power)}" for power in range(len(SHADES) - 2, -1, -1)]
    maps = "".join(
        f"<h3>{escape(row.name)}: {size_text(float(matrix.sum()))} between blocks</h3>{_heat(matrix, most, found.blocks.name)}"
        for row, matrix in zip((before, after), sums, strict=True)
    )
    return (
        "<h2>Bytes between blocks</h2><p>Of a step, modelled. A row is a block that sends, a column one that receives; what stays"
        f" within a block is left out.</p>{key(list(zip(SHADES, names, strict=True)))}{maps}"
    )


def _heat(matrix: NDArray[np.float64], most: float, names: Sequence[str]) -> str:
    count = len(matrix)
    cell, left = min(22.0, 420.0 / count), 150
    level = np.zeros(matrix.shape, np.int64)
    some = matrix > 0
    level[some] = np.clip(len(SHADES) - 1 - np.floor(np.log(most / matrix[some]) / math.log(STEP)), 0, len(SHADES) - 1)
    shown = []
    for number, colour in enumerate(SHADES):
        where = np.argwhere((level == number) & (some | (number == 0)))
        path = "".join(f"M{left + b * cell:.1f} {a * cell:.1f}h{cell:.2f}v{cell:.2f}h-{cell:.2f}z" for a, b in where.tolist())
        if path:
            shown.append(f'<path d="{path}" fill="{colour}" stroke="#fff" stroke-width="{min(1.0, cell / 8):.2f}"/>')
    every = ticks(count, max(1, int(count * cell // 13)))
    shown += [
        f'<text x="{left - 6}" y="{(n + 0.5) * cell + 4:.1f}" text-anchor="end">{escape(_short(names[n]))}</text>' for n in every
    ]
    return _svg(count * cell + 4, "bytes between blocks", shown)


def _maps(found: Compared, before: Row) -> str:
    """The rank of each GPU, a row a host (or block), before and after."""
    gpus = np.flatnonzero(found.topology.node_type == GPU)
    if len(gpus) > MOST_GPUS:
        return ""
    rows = [row for row in (before, found.row(OURS)) if row.gpus is not None]
    maps = "".join(f"<h3>{escape(row.name)}</h3>{_map(found, gpus, row.gpus)}" for row in rows if row.gpus is not None)
    legend = [(RANKS[0], "first ranks"), (RANKS[len(RANKS) // 2], "middle"), (RANKS[-1], "last ranks")]
    legend += [(FREE, "free"), (BUSY, "not free")]
    text = "<h2>Which GPU holds which rank</h2><p>By host. Neighbours in the order of ranks have like colours.</p>"
    return f"{text}{key(legend)}{maps}"


def _map(found: Compared, gpus: NDArray[np.int64], gpu_of_rank: NDArray[np.int32]) -> str:
    topology = found.topology
    rank_of = np.full(len(topology.node_type), -1)
    rank_of[gpu_of_rank] = np.arange(len(gpu_of_rank))
    hosts: dict[str, list[int]] = {}
    for gpu in gpus.tolist():
        host, domain = int(topology.node_host[gpu]), int(topology.node_domain[gpu])
        name = topology.node_name[host] if host >= 0 else topology.domain_name[domain] if domain >= 0 else "GPUs"
        hosts.setdefault(name, []).append(gpu)
    widest = max(len(inside) for inside in hosts.values())
    columns = max(1, min(len(hosts), 48 // widest or 1))  # hosts side by side
    wide = (WIDTH - 0.0) / columns
    named = len(gpus) <= NAMED_GPUS
    left = LEFT * 2.0 if wide > 160 else 0.0
    cell, high = (wide - left - 8) / widest, 18 if named else 11
    shown = []
    for number, (name, inside) in enumerate(hosts.items()):
        x0, y0 = (number % columns) * wide, (number // columns) * (high + 3)
        if left:
            at = f'x="{x0 + left - 6:.1f}" y="{y0 + high - 4:.1f}" text-anchor="end"'
            shown.append(f"<text {at}>{escape(_short(name, 14))}</text>")
        for slot, gpu in enumerate(inside):
            rank, x = int(rank_of[gpu]), x0 + left + slot * cell
            usable = bool(topology.node_free[gpu]) and topology.node_health[gpu] != 2
            fill = RANKS[rank * len(RANKS) // len(gpu_of_rank)] if rank >= 0 else FREE if usable else BUSY
            shown.append(
                f'<rect x="{x:.1f}" y="{y0:.1f}" width="{max(cell - 1, 0.5):.1f}" height="{high}" fill="{fill}">'
                f"<title>{escape(topology.node_name[gpu])}{f': rank {rank}' if rank >= 0 else ''}</title></rect>"
            )
            if named and rank >= 0 and cell > 16:
                at = f'x="{x + cell / 2:.1f}" y="{y0 + 13:.1f}" text-anchor="middle" style="fill:#fff"'
                shown.append(f"<text {at}>{rank}</text>")
    rows = -(-len(hosts) // columns)
    return _svg(rows * (high + 3) + 4, "rank of each GPU", shown)


def _short(text: str, most: int = 22) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"
