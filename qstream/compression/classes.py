"""Scale classes: an entropy table for all values whose row and column make them about equally large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import read_only
from qstream.compression.parts import entropy_of
from qstream.kernels import compiled

Bytes = NDArray[np.uint8]

# Half octaves of a value's expected size in steps, from -8 on: below that nearly all are zero, above the last few values are.
COUNT: Final = 24
_OFFSET: Final = 128


@dataclass(frozen=True, slots=True, eq=False)
class Scales:
    """Sizes of rows in steps and of columns beside the mean, in half octaves: uint8 [rows], uint8 [columns], 128 for one."""

    row: Bytes
    column: Bytes

    def context(self) -> Bytes:
        """The class of each value: uint8 [rows * columns]."""
        out = np.empty(len(self.row) * len(self.column), np.uint8)
        _context(read_only(self.row), read_only(self.column), out)
        return out


def scales(x: NDArray[Any], step: float | NDArray[Any]) -> Scales:
    """Scales of a matrix [rows, columns] that is coded in multiples of `step`; values that are not finite count as zero."""
    with np.errstate(over="ignore", invalid="ignore"):
        power = np.square(np.where(np.isfinite(x), x, 0) / step, dtype=np.float64)
    rows, columns = np.sqrt(power.mean(axis=1)), np.sqrt(power.mean(axis=0))
    mean = np.sqrt(power.mean())
    return Scales(_half_octaves(rows), _half_octaves(columns / mean if mean > 0 else columns))


def gain(symbols: Bytes, context: Bytes) -> float:
    """Bits that tables by class save, less what the tables cost."""
    counts = np.zeros((COUNT, 256), np.int64)
    _count(read_only(symbols), read_only(context), counts)
    return _bits(counts.sum(axis=0)) - sum(_bits(row) for row in counts if row.any())


def _bits(counts: NDArray[np.int64]) -> float:
    """Bits of symbols and of their table."""
    used = np.flatnonzero(counts)
    return float(entropy_of(counts) * counts.sum() + 8 * (2 + used[-1] - used[0]))


def _half_octaves(size: NDArray[np.float64]) -> Bytes:
    found: Bytes = np.clip(np.rint(2 * np.log2(np.maximum(size, 1e-18))) + _OFFSET, 0, 255).astype(np.uint8)
    return found


@compiled
def _context(row: Any, column: Any, out: Any) -> None:
    for i in range(len(row)):
        for j in range(len(column)):
            c = np.int64(row[i]) + column[j] - 248  # both offsets, and the lowest class
            out[i * len(column) + j] = min(max(c, 0), 23)


@compiled
def _count(symbols: Any, context: Any, counts: Any) -> None:
    for i in range(len(symbols)):
        counts[context[i], symbols[i]] += 1
