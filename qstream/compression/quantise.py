"""The uniform quantiser: multiples of a step, and exact copies of the values that it cannot keep within the bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import read_only
from qstream.compression.dtypes import DTYPES, from_floats
from qstream.kernels import compiled

Bytes = NDArray[np.uint8]
Floats = NDArray[Any]  # float32, or float64 for that type

SHRINK: Final = 1 - 2.0**-15  # of a step, for the rounding of multiples in float32
MAX_LOW_BITS: Final = 8
_BEYOND: Final = 0.002  # part of the values that may lie beyond the largest multiple
_SAMPLE: Final = 8192
_TINY: Final = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True, eq=False)
class Multiples:
    """Values as multiples of a step.

    Attributes
    ----------
    high, low
        uint8 [n]: the multiple plus 128 << low_bits, its upper bits and its lowest `low_bits`; `low` is None without any.
    escapes
        int64: indices of the values that the multiples do not give back.
    restored
        The values that a reader gets, in the arithmetic of the reader, escapes not yet put right; of the type of `as_floats`.
    """

    high: Bytes
    low: Bytes | None
    escapes: NDArray[np.int64]
    restored: Floats


def largest_step(eps: float) -> float:
    """The step whose multiples are at most `eps` away, with room for rounding in float32."""
    return 2 * eps * SHRINK


def low_bits_for(x: Floats, step: float) -> int:
    """How many lowest bits go into a plane of their own, so that few multiples are too large."""
    some = np.abs(x[:: max(1, len(x) // _SAMPLE)])
    if some.max(initial=0) <= 127.0 * step:  # false for NaN
        return 0
    with np.errstate(over="ignore", invalid="ignore"):
        beyond = [float(np.mean(~(some <= 127.0 * step * 2.0**bits))) for bits in range(MAX_LOW_BITS + 1)]
    return next((bits for bits, part in enumerate(beyond) if part <= beyond[-1] + _BEYOND), MAX_LOW_BITS)


def quantise(x: Floats, dtype: str, step: float, eps: float, low_bits: int) -> Multiples:
    """Nearest multiples of `step`; a value whose restored one is more than `eps` away, or that is not finite, escapes.

    `eps` may be infinite: then only values beyond the largest multiple escape, and those that are not finite.
    """
    high, low = np.empty(len(x), np.uint8), np.empty(len(x) if low_bits else 0, np.uint8)
    bad, restored = np.empty(len(x), np.uint8), np.empty_like(x)
    _quantise(read_only(x), x.dtype.type(step), x.dtype.type(1 / step), eps, low_bits, high, low, restored, bad)
    if DTYPES[dtype].itemsize == 2:
        restored, before = _rounded(restored, dtype), bad
        bad = before | _too_far(x, restored, eps)
    return Multiples(high, low if low_bits else None, np.flatnonzero(bad.view(np.bool_)), restored)


def restored(high: Bytes, low: Bytes | None, step: float, low_bits: int, dtype: str, out: Floats) -> None:
    """Write the multiples times the step into `out`, as floats of the type that they were computed in."""
    if low is None:
        _restore_high(read_only(high), out.dtype.type(step), out)
    else:
        _restore(read_only(high), read_only(low), out.dtype.type(step), low_bits, out)
    if DTYPES[dtype].itemsize == 2:
        out[:] = _rounded(out, dtype)


def usable(step: float, dtype: str) -> bool:
    """Whether the reader's arithmetic can hold this step and its inverse."""
    least, most = (1e-300, 1e300) if dtype == "float64" else (_TINY, 1e37)
    return math.isfinite(step) and least <= step <= most


def _rounded(values: Floats, dtype: str) -> Floats:
    """Values as they are once they have been in their own 16-bit type."""
    if dtype != "bfloat16":
        return from_floats(values, dtype).astype(np.float32)
    out = np.empty_like(values)
    _to_bfloat16(read_only(values.view(np.uint32)), out.view(np.uint32))
    return out


def _too_far(x: Floats, y: Floats, eps: float) -> Bytes:
    far = np.empty(len(x), np.uint8)
    _compare(read_only(x), read_only(y), eps, far)
    return far


@compiled
def _quantise(x: Any, step: Any, inverse: Any, eps: Any, low_bits: Any, high: Any, low: Any, restored: Any, bad: Any) -> None:
    middle = 128 << low_bits
    most = x.dtype.type(middle - 1)
    mask = (1 << low_bits) - 1
    zero = x.dtype.type(0)
    for i in range(len(x)):
        v = x[i]
        q = np.rint(v * inverse)
        fits = abs(q) <= most  # false for what is no number
        whole = np.int32(q if fits else zero)
        y = x.dtype.type(whole) * step  # from the whole number, as the reader: no negative zero
        restored[i] = y
        bad[i] = (not fits) | (abs(np.float64(v) - np.float64(y)) > eps)
        s = whole + middle
        high[i] = s >> low_bits
        if low_bits:
            low[i] = s & mask


@compiled
def _restore(high: Any, low: Any, step: Any, low_bits: Any, out: Any) -> None:
    middle = 128 << low_bits
    for i in range(len(high)):
        s = np.int32(high[i]) << low_bits | low[i]
        out[i] = out.dtype.type(s - middle) * step


@compiled
def _restore_high(high: Any, step: Any, out: Any) -> None:
    """Without low bits: 32-bit arithmetic throughout, on many values at once."""
    for i in range(len(high)):
        out[i] = out.dtype.type(np.int32(np.int32(high[i]) - np.int32(128))) * step


@compiled
def _to_bfloat16(bits: Any, out: Any) -> None:
    for i in range(len(bits)):
        b = bits[i]
        out[i] = (b + np.uint32(0x7FFF) + (b >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)


@compiled
def _compare(x: Any, y: Any, eps: Any, far: Any) -> None:
    for i in range(len(x)):
        far[i] = not abs(np.float64(x[i]) - np.float64(y[i])) <= eps
