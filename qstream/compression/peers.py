"""Peers: what the usual formats make of the same tensor, to compare with."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from qstream.compression.dtypes import LOSSY, as_floats, canonical, rows_of

Floats = NDArray[np.float32]
# The 16 values of NF4 (Dettmers et al. 2023, QLoRA, arXiv 2305.14314, appendix E).
_NF4: Final = np.array(
    [-1, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.09105, 0,
     0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.562617, 0.722956, 1], np.float32,
)  # fmt: skip


class Peer(NamedTuple):
    """A format: bits a value with its scales, and the relative L2 error that it leaves."""

    bits: float
    rel_l2: float


def compared(array: NDArray[Any]) -> dict[str, Peer]:
    """int8 by tensor and row, GGUF's Q8_0 and Q4_0, NF4 in groups of 64, and zstd, as far as they can hold the tensor."""
    form = canonical(array)
    size = max(form.array.size, 1)
    found = {"zstd": Peer(8 * len(zstandard.ZstdCompressor(level=3).compress(form.raw.data)) / size, 0.0)}
    if form.dtype not in LOSSY or not form.array.size:
        return found
    x = as_floats(form.array.reshape(-1), form.dtype).astype(np.float32)
    if not np.isfinite(x).all():
        return found
    columns = rows_of(form.array.shape)[1]
    found["int8 tensor"] = Peer(8 + 32 / size, _error(x, _symmetric(x.reshape(1, -1))))
    found["int8 row"] = Peer(8 + 16 / columns, _error(x, _symmetric(x.reshape(-1, columns))))
    if x.size % 64 == 0:
        found["Q8_0"] = Peer(8.5, _error(x, _symmetric(x.reshape(-1, 32))))
        found["Q4_0"] = Peer(4.5, _error(x, _q4_0(x.reshape(-1, 32))))
        found["NF4"] = Peer(4.25, _error(x, _nf4(x.reshape(-1, 64))))
    return found


def _error(x: Floats, back: Floats) -> float:
    power = float(np.square(x, dtype=np.float64).sum())
    return float(np.sqrt(np.square(x - back.reshape(-1), dtype=np.float64).sum() / power)) if power else 0.0


def _symmetric(groups: Floats) -> Floats:
    scale = np.abs(groups).max(axis=1, keepdims=True).astype(np.float16).astype(np.float32) / 127
    return np.asarray(np.rint(groups / np.where(scale > 0, scale, 1)).clip(-127, 127) * scale)


def _q4_0(groups: Floats) -> Floats:
    top = np.take_along_axis(groups, np.abs(groups).argmax(axis=1)[:, None], 1)
    unit = (top / -8).astype(np.float16).astype(np.float32)
    return np.asarray(((groups / np.where(unit != 0, unit, 1) + 8.5).astype(np.int64).clip(0, 15) - 8) * unit)


def _nf4(groups: Floats) -> Floats:
    peak = np.abs(groups).max(axis=1, keepdims=True).astype(np.float16).astype(np.float32)
    part = groups / np.where(peak > 0, peak, 1)
    return np.asarray(_NF4[np.searchsorted((_NF4[1:] + _NF4[:-1]) / 2, part)] * peak)
