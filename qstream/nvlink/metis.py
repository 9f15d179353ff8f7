"""A placement by METIS, where it is installed: parts of the traffic's graph, repaired until every block holds its own."""

from __future__ import annotations

import importlib.util

import numpy as np
from numpy.typing import NDArray

from qstream.nvlink.units import Units

_LARGEST = 1 << 20  # of weights, which METIS takes as whole numbers


def is_installed() -> bool:
    """Whether METIS can be asked."""
    return importlib.util.find_spec("pymetis") is not None


def partition(units: Units, capacity: NDArray[np.int64], seed: int) -> NDArray[np.int32] | None:
    """Blocks int32 [u] of units, by METIS with each block's share of the room; None where no unit could be made to fit.

    Units that have no room where METIS wants them go where they lose least, largest first. Pins are not looked at.
    """
    import pymetis  # noqa: PLC0415 - an extra

    blocks = np.flatnonzero(capacity)
    if len(blocks) < 2:
        return None
    weight = np.maximum(1, np.rint(units.weight * (_LARGEST / max(float(units.weight.max(initial=0.0)), 1e-300))))
    options = pymetis.Options(seed=seed, ufactor=1)
    _, part = pymetis.part_graph(
        len(blocks),
        xadj=units.first.tolist(),
        adjncy=units.neighbour.tolist(),
        vweights=units.size.tolist(),
        eweights=weight.astype(np.int64).tolist(),
        tpwgts=(capacity[blocks] / capacity.sum()).tolist(),
        options=options,
    )
    return repaired(units, blocks[np.asarray(part)].astype(np.int32), capacity)


def repaired(units: Units, wanted: NDArray[np.int32], capacity: NDArray[np.int64]) -> NDArray[np.int32] | None:
    """The blocks wanted, int32 [u], but no block holds more ranks than it takes; None where a unit finds no room."""
    block, room = wanted.copy(), capacity - np.bincount(wanted, units.size, len(capacity)).astype(np.int64)
    inside = np.bincount(units.rows(), units.weight * (wanted[units.rows()] == wanted[units.neighbour]), units.count)
    for unit in np.lexsort((inside, -units.size)).tolist():
        if room[block[unit]] >= 0:
            continue
        entries = slice(units.first[unit], units.first[unit + 1])
        to = np.bincount(block[units.neighbour[entries]], units.weight[entries], len(capacity))
        to[room < units.size[unit]] = -1.0
        best = int(to.argmax())
        if to[best] < 0:
            continue
        room[block[unit]] += units.size[unit]
        room[best] -= units.size[unit]
        block[unit] = best
    return block if (room >= 0).all() else None
