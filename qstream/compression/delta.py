"""Delta: the steps of a tensor on its base, exact. bfloat16 by exponent class, other types by the bits that differ.

Under an optimizer's step the chance that a bfloat16 value changes doubles with each lower exponent, and the reader knows the
exponents of the base. So positions are coded as gaps among the values of one exponent, each class with its own Rice parameter,
in one stream of bits in the order in which the reader meets them. Rice 1979; the classes are ours.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import read_only
from qstream.compression import split
from qstream.compression.dtypes import DTYPES
from qstream.compression.header import DeltaExponent, SplitFloat, Xor
from qstream.compression.parts import Level, Parts, Piece, code, stored
from qstream.errors import BlockError
from qstream.kernels import compiled
from schemas.wording import Shown, must_be

Bytes = NDArray[np.uint8]
_MOST: Final = 1 << 31  # values of one tensor: counts and gaps are 32 bits
_U: Final = np.uint64
_NO_STEPS: Final = 15  # in place of a Rice parameter: every step of the class is 1


def encode(raw: Bytes, base: Bytes, dtype: str, level: Level) -> tuple[tuple[DeltaExponent | Xor | SplitFloat, ...], list[Piece]]:
    """Operations and parts of `raw` on `base`, two tensors of one type and shape."""
    if dtype == "bfloat16" and len(raw) < 2 * _MOST:
        return (DeltaExponent(op="delta_exponent"),), [_by_exponent(raw.view(np.uint16), base.view(np.uint16))]
    width = DTYPES[dtype].itemsize
    differs = np.bitwise_xor(raw, base)
    if width not in (2, 4, 8):
        return (Xor(op="xor"),), [code("raw", differs, level, matches=True)]
    found = [code(f"plane{k}", plane, level, matches=True) for k, plane in enumerate(split.planes(differs, width, rotate=False))]
    return (Xor(op="xor"), SplitFloat(op="split_float", width=width, rotate=False)), found  # type: ignore[arg-type]


def decode(parts: Parts, op: DeltaExponent | Xor, planes: SplitFloat | None, base: Bytes) -> Bytes:
    """The bytes of the tensor, given those of its base."""
    if isinstance(op, DeltaExponent):
        return _from_exponents(parts, base.view(np.uint16)).view(np.uint8)
    if planes is None:
        return np.bitwise_xor(parts.get("raw", len(base)), base)
    found = [parts.get(f"plane{k}", len(base) // planes.width) for k in range(planes.width)]
    return np.bitwise_xor(split.joined(found, rotate=False), base)


def _by_exponent(new: NDArray[np.uint16], base: NDArray[np.uint16]) -> Piece:
    many = int(np.count_nonzero(new != base))
    gaps, steps, group = np.empty(many, np.int64), np.empty(many, np.int64), np.empty(many, np.uint8)
    changed, waited, more = np.zeros((3, 256), np.int64)
    _scan(read_only(base), read_only(new), gaps, steps, group, changed, waited, more)
    gap_rice = _parameter(waited, changed, 31)
    step_rice = np.where(more > 0, _parameter(more, changed, _NO_STEPS - 1), _NO_STEPS)
    # A code has at most 33 ones, 32 bits and a sign; a class of a head at most 90 bits.
    out = np.zeros(many * 17 + 256 * 12 + 16, np.uint8)
    length = _write(out, gaps, steps, group, changed, gap_rice, step_rice)
    return stored("bits", out[:length].copy())


def _from_exponents(parts: Parts, base: NDArray[np.uint16]) -> NDArray[np.uint16]:
    data = parts.get("bits", parts.size("bits"))
    out = base.copy()
    if not _apply(read_only(np.concatenate([data, np.zeros(16, np.uint8)])), 8 * len(data), out):
        raise BlockError("bad_frame", must_be("part 'bits'", f"steps on {len(base)} values", Shown("others")))
    return out


def _parameter(total: NDArray[Any], count: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The Rice parameter for numbers of this total: the logarithm of ln 2 times the mean, rounded up."""
    mean = total / np.maximum(count, 1)
    return np.asarray(np.clip(np.ceil(np.log2(np.maximum(np.log(2) * mean, 1.0))), 0, most), np.int64)


@compiled
def _ordered(u: Any) -> Any:
    """Bits of a float as a whole number that rises with it."""
    return 65535 - np.int64(u) if u & 0x8000 else np.int64(u) | 0x8000


@compiled
def _scan(base: Any, new: Any, gaps: Any, steps: Any, group: Any, changed: Any, waited: Any, more: Any) -> None:
    """Every change, and by class how many there are, the sum of their gaps and that of their steps beyond 1."""
    since = np.zeros(256, np.int64)
    m = 0
    for i in range(len(base)):
        b = base[i]
        e = b >> 7 & 255
        if new[i] == b:
            since[e] += 1
            continue
        step = _ordered(new[i]) - _ordered(b)
        gaps[m], steps[m], group[m] = since[e], step, e
        changed[e] += 1
        waited[e] += since[e]
        more[e] += abs(step) - 1
        since[e] = 0
        m += 1


@compiled
def _put(out: Any, at: Any, value: Any, count: Any) -> Any:
    """Append the lowest `count` bits, at most 56, the highest first, to zeros; returns the position after them.

    Eight bytes are written at once: their unsigned indices let the compiler see that.
    """
    first = _U(at) >> _U(3)
    word = _U(out[first]) << _U(56) | (_U(value) & ((_U(1) << _U(count)) - _U(1))) << _U(64 - count - (at & 7))
    for k in range(8):
        out[first + _U(k)] = np.uint8(word >> _U(56 - 8 * k))
    return at + count


@compiled
def _put_rice(out: Any, at: Any, value: Any, k: Any) -> Any:
    """A quotient in ones and a zero, then `k` bits; or 32 ones and the number in 32 bits."""
    quotient = value >> k
    if quotient >= 32:
        return _put(out, _put(out, at, 0xFFFFFFFF, 32), value, 32)
    ones = (1 << (quotient + 1)) - 2
    if quotient + 1 + k <= 56:
        return _put(out, at, ones << k | value & ((1 << k) - 1), quotient + 1 + k)
    return _put(out, _put(out, at, ones, quotient + 1), value, k)


@compiled
def _write(out: Any, gaps: Any, steps: Any, group: Any, changed: Any, gap_rice: Any, step_rice: Any) -> Any:
    """Classes and their first gaps, then for each change its step and the gap to the next of its class; bytes written."""
    first, following = np.full(256, -1, np.int64), np.full(len(gaps), -1, np.int64)
    for j in range(len(gaps) - 1, -1, -1):
        following[j] = first[group[j]]
        first[group[j]] = j
    classes = 0
    for e in range(256):
        classes += changed[e] > 0
    at, before = _put(out, 0, classes, 9), -1
    for e in range(256):
        if changed[e]:
            at = _put_rice(out, at, e - before - 1, 1)
            at = _put(out, _put(out, at, gap_rice[e], 5), step_rice[e], 4)
            at = _put_rice(out, _put_rice(out, at, changed[e], 8), gaps[first[e]], gap_rice[e])
            before = e
    for j in range(len(gaps)):
        e = group[j]
        at = _put(out, at, 1 if steps[j] < 0 else 0, 1)
        if step_rice[e] != 15:
            at = _put_rice(out, at, abs(steps[j]) - 1, step_rice[e])
        if following[j] >= 0:
            at = _put_rice(out, at, gaps[following[j]], gap_rice[e])
    return (at + 7) >> 3


@compiled
def _ahead(data: Any, at: Any) -> Any:
    """The 64 bits from the byte of the bit `at` on, moved so that this bit is the highest."""
    word, first = _U(0), _U(at) >> _U(3)
    for k in range(8):
        word |= _U(data[first + _U(k)]) << _U(56 - 8 * k)
    return word << _U(at & 7)


@compiled
def _get(data: Any, at: Any, count: Any) -> Any:
    """`count` bits, at most 32, of data with 8 bytes of room behind."""
    return np.int64(_ahead(data, at) >> _U(32) >> _U(32 - count))


@compiled
def _get_rice(data: Any, at: Any, k: Any) -> Any:
    """(number, position after it)."""
    word = _ahead(data, at)
    quotient = 0
    while quotient < 32 and word >> _U(63):
        quotient += 1
        word <<= _U(1)
    at += quotient
    if quotient == 32:
        return _get(data, at, 32), at + 32
    return quotient << k | _get(data, at + 1, k), at + 1 + k


@compiled
def _apply(data: Any, end: Any, out: Any) -> bool:
    """Change `out` from the base to the tensor; False where the bits cannot be steps on it."""
    wait, left = np.full(256, 1 << 62, np.int64), np.zeros(256, np.int64)
    gap_rice, step_rice = np.zeros(256, np.int64), np.zeros(256, np.int64)
    if end < 16:
        return False
    classes, at, e, total = _get(data, 0, 9), 9, -1, np.int64(0)
    for _ in range(classes):
        more, at = _get_rice(data, at, 1)
        e += 1 + more
        if e > 255 or at > end:
            return False
        gap_rice[e], step_rice[e] = _get(data, at, 5), _get(data, at + 5, 4)
        left[e], at = _get_rice(data, at + 9, 8)
        if at > end:
            return False
        wait[e], at = _get_rice(data, at, gap_rice[e])
        if left[e] < 1 or at > end:
            return False
        total += left[e]
    for i in range(len(out)):
        u = out[i]
        c = u >> 7 & 255
        if wait[c] > 0:
            wait[c] -= 1
            continue
        if at >= end:
            return False
        sign, size = _get(data, at, 1), np.int64(0)
        at += 1
        if step_rice[c] != 15:
            size, at = _get_rice(data, at, step_rice[c])
        ordered = _ordered(u) + (-1 - size if sign else 1 + size)
        if ordered < 0 or ordered > 65535 or at > end:
            return False
        out[i] = ordered & 0x7FFF if ordered & 0x8000 else 65535 - ordered
        left[c] -= 1
        total -= 1
        if left[c]:
            wait[c], at = _get_rice(data, at, gap_rice[c])
            if at > end:
                return False
        else:
            wait[c] = 1 << 62
    return bool(total == 0 and end - at < 8)
