"""Nets that correct restored values, read without torch: a residual convolution or a small LSTM along each row; or a table.

Nets see each value and its step, in units of the tensor's rms, and give a correction in steps; a table has one for each multiple.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from qstream.compression.header import digest

Kind = Literal["denoiser", "lstm", "table"]
Floats = NDArray[np.float32]

WIDTH: Final = 5
_LAST: Final = 127  # multiple of a step that a table has
HIDDEN: Final = 16
HELD_OUT: Final = 5  # one row in so many judges what the others trained
# Shapes of the parameters, by name and kind.
SHAPES: Final[Mapping[Kind, Mapping[str, tuple[int, ...]]]] = {
    "denoiser": {
        "w0": (HIDDEN, 2, WIDTH),
        "b0": (HIDDEN,),
        "w1": (HIDDEN, HIDDEN, WIDTH),
        "b1": (HIDDEN,),
        "w2": (1, HIDDEN, WIDTH),
        "b2": (1,),
    },
    "lstm": {
        "wi": (4 * HIDDEN, 2),
        "wh": (4 * HIDDEN, HIDDEN),
        "bi": (4 * HIDDEN,),
        "bh": (4 * HIDDEN,),
        "wo": (1, HIDDEN),
        "bo": (1,),
    },
    "table": {"centres": (256,)},
}
_ROWS: Final = 64  # at once: what a convolution holds stays in the cache


@dataclass(frozen=True, eq=False)
class Net:
    """A trained net: its parameters float32, by the names of `SHAPES`, and what training measured."""

    kind: Kind
    parameters: Mapping[str, Floats]
    record: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """xxh3-64 of the parameters: its name in coded data."""
        return digest(b"".join(np.ascontiguousarray(self.parameters[name], "<f4").tobytes() for name in SHAPES[self.kind]))

    def correct(self, y: NDArray[Any], step: float | Floats) -> Floats:
        """Restored values [rows, columns] with their correction; steps of values, rows or all of them."""
        rms = float(np.sqrt(np.mean(np.square(y, dtype=np.float64))))
        if not rms > 0:
            return y.astype(np.float32)
        if self.kind == "table":
            return self._centred(y, step)
        apply = _convolved if self.kind == "denoiser" else _recurrent
        out, steps = np.empty(y.shape, np.float32), np.broadcast_to(np.asarray(step, np.float32), y.shape)
        for begin in range(0, len(y), _ROWS):
            part = slice(begin, begin + _ROWS)
            seen = np.stack([y[part] / rms, steps[part] / rms], axis=-1).astype(np.float32)
            out[part] = y[part] + steps[part] * apply(seen, self.parameters)
        return out

    def _centred(self, y: NDArray[Any], step: float | Floats) -> Floats:
        moved = self.parameters["centres"][centred_index(y, step)]
        return np.asarray(y + np.asarray(step, np.float32) * moved, np.float32)


def centred_index(y: NDArray[Any], step: float | Floats) -> NDArray[np.intp]:
    """Entries of a table for restored values; what is beyond it has the entry 0, which is none's."""
    with np.errstate(invalid="ignore", over="ignore"):
        q = np.rint(y / np.where(np.asarray(step) > 0, step, 1))
    return np.where(np.abs(q) <= _LAST, q + _LAST + 1, 0).astype(np.intp)


def _convolved(seen: Floats, p: Mapping[str, Floats]) -> Floats:
    """Three convolutions along the columns: corrections [rows, columns] of inputs [rows, columns, 2]."""
    h = _gelu(_conv(seen, p["w0"], p["b0"]))
    h = _gelu(_conv(h, p["w1"], p["b1"]))
    return np.asarray(_conv(h, p["w2"], p["b2"])[..., 0])


def _conv(x: Floats, w: Floats, b: Floats) -> Floats:
    """A convolution with zeros beyond the ends: [rows, columns, out] of [rows, columns, in] by w [out, in, width]."""
    half, columns = w.shape[2] // 2, x.shape[1]
    padded = np.pad(x, ((0, 0), (half, half), (0, 0)))
    found = np.broadcast_to(b, (*x.shape[:2], len(b))).copy()
    for k in range(w.shape[2]):
        found += padded[:, k : k + columns] @ w[:, :, k].T
    return found


def _gelu(x: Floats) -> Floats:
    return np.asarray(0.5 * x * (1 + erf(x * np.float32(np.sqrt(0.5)))), np.float32)


def _recurrent(seen: Floats, p: Mapping[str, Floats]) -> Floats:
    """An LSTM from the first column to the last, in torch's order of gates: corrections [rows, columns]."""
    rows, columns, _ = seen.shape
    h, c = np.zeros((rows, HIDDEN), np.float32), np.zeros((rows, HIDDEN), np.float32)
    given = seen @ p["wi"].T + p["bi"] + p["bh"]
    out = np.empty((rows, columns), np.float32)
    for t in range(columns):
        i, f, g, o = np.split(given[:, t] + h @ p["wh"].T, 4, axis=1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        out[:, t] = (h @ p["wo"].T)[:, 0] + p["bo"][0]
    return out


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), np.float32)
