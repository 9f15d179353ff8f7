"""Bounds relative to each value: multiples of a step in the logarithm, signs apart, zeros exact."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.compression.dtypes import as_floats, from_floats
from qstream.compression.header import Classes, QuantisePoint
from qstream.compression.lossy import escape_pieces, put_escapes, symbol_pieces, symbols
from qstream.compression.parts import Level, Parts, Piece, code
from qstream.compression.quantise import MAX_LOW_BITS, Multiples

_MARGIN: Final = 1 - 1e-5  # of the bound, for the rounding of exponentials


def encode(
    x: NDArray[Any], original: NDArray[Any], dtype: str, shape: tuple[int, int], bound: float, level: Level
) -> tuple[list[Any], list[Piece], NDArray[Any], int]:
    """Operations, parts, what a reader gets in the tensor's type, and how many values escaped.

    Every finite value comes back within `bound` times itself; zeros, NaN and infinities exactly.
    """
    r = bound * _MARGIN
    step = math.log((1 + r) / (1 - r))
    size = np.abs(x.astype(np.float64))
    usual = np.isfinite(size) & (size > 0)
    logs = np.log(size, where=usual, out=np.zeros(len(x)))
    reference = float(np.float32(np.median(logs[usual]))) if usual.any() else 0.0
    away = np.rint((logs - reference) / step)
    low_bits = _low_bits(away[usual])
    middle = 128 << low_bits
    fits = usual & (np.abs(away) < middle)
    symbol = np.where(fits, away + middle, 0).astype(np.int64)  # 0: a zero, or a value that escapes
    values = restored(symbol, np.signbit(x), step, reference, low_bits, bound)
    raw = from_floats(values, dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        back = as_floats(raw, dtype).astype(np.float64)
        near = np.abs(back - x) <= bound * size
    zero = (x == 0) & (np.signbit(x) == np.signbit(back))
    escapes = np.flatnonzero(~((fits & near) | zero))
    raw[escapes] = original[escapes]
    found = Multiples(
        (symbol >> low_bits).astype(np.uint8),
        (symbol & (1 << low_bits) - 1).astype(np.uint8) if low_bits else None,
        escapes,
        values,
    )
    ops: list[Any] = [QuantisePoint(op="quantise_point", step=step, reference=reference, low_bits=low_bits)]
    more, pieces = symbol_pieces(found, (away * usual).reshape(shape), 1.0, low_bits, level)
    if np.signbit(x).any():
        pieces.append(code("sign", np.packbits(np.signbit(x)), level, matches=True))
    return [*ops, *more], [*pieces, *escape_pieces(escapes, original)], raw, len(escapes)


def decode(
    parts: Parts, op: QuantisePoint, split: Classes | None, dtype: str, shape: tuple[int, int], bound: float
) -> NDArray[Any]:
    """The values [n] in the tensor's type."""
    size = shape[0] * shape[1]
    high, low = symbols(parts, op, split, shape)  # type: ignore[arg-type]
    symbol = high.astype(np.int64) << op.low_bits
    if low is not None:
        symbol |= low
    sign = np.zeros(size, bool)
    if "sign" in parts:
        sign = np.unpackbits(parts.get("sign", -(-size // 8)), count=size).astype(bool)
    raw = from_floats(restored(symbol, sign, op.step, op.reference, op.low_bits, bound), dtype)
    raw = raw.copy() if not raw.flags.writeable else raw
    put_escapes(parts, raw)
    return raw


def restored(
    symbol: NDArray[np.int64], sign: NDArray[np.bool_], step: float, reference: float, low_bits: int, bound: float
) -> NDArray[np.float64]:
    """Values of symbols: the middle of each cell in relative terms, its lower edge times one and the bound."""
    middle = 128 << low_bits
    with np.errstate(over="ignore"):
        level = np.exp((np.arange(2 * middle) - middle - 0.5) * step + reference) * (1 + bound * _MARGIN)
    level[0] = 0.0
    found = level[symbol]
    return np.asarray(np.where(sign, -found, found))


def largest_error(x: NDArray[Any], back: NDArray[Any]) -> float:
    """The largest error as a part of its value, over finite values other than zero."""
    with np.errstate(invalid="ignore"):
        seen = np.isfinite(x) & (x != 0)
        away = np.abs(back.astype(np.float64) - x)[seen] / np.abs(x[seen].astype(np.float64))
    return float(away.max(initial=0.0))


def _low_bits(away: NDArray[np.float64]) -> int:
    if not len(away):
        return 0
    most = float(np.quantile(np.abs(away), 0.999))
    return min(MAX_LOW_BITS, max(0, math.ceil(math.log2(max(most, 1) / 127))))
