"""rANS: an entropy coder of bytes with one table a context, below one bit a value where the data allow it.

Source: Duda 2013 (arXiv 1311.2540), range variant; words of 16 bits, four interleaved states.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import read_only
from qstream.kernels import compiled

Bytes = NDArray[np.uint8]

PRECISION: Final = 13  # frequencies of a context sum to 2**13
TOTAL: Final = 1 << PRECISION
LANES: Final = 4
# States lie in [2**16, 2**32).
# A table holds the logarithm of each frequency in eighths of an octave: 0 absent, 1 for one.
_FREQUENCY: Final = np.concatenate([[0], np.rint(np.exp2(np.arange(1, 256) / 8 - 1 / 8)).astype(np.int64)])
_OCTAVE: Final = 8
_ONE: Final = np.zeros(1, np.uint8)  # the context of all symbols where there is one table
_HEAD: Final = 1 + 4 * LANES
MAX_CONTEXTS: Final = 64


def encode(symbols: Bytes, context: Bytes | None = None, contexts: int = 1) -> bytes:
    """Code symbols, each by the table of its context.

    Parameters
    ----------
    symbols : uint8 [n]
    context : uint8 [n], values below `contexts`, or None for one table
    """
    if len(symbols) == 0:
        return b""
    symbols, context = read_only(symbols), read_only(_ONE if context is None else context)
    counts = np.zeros((contexts, 256), np.int64)
    _count(symbols, context, counts)
    codes = _codes(counts)
    frequency, start = _tables(codes)
    words = np.empty(len(symbols) + 1, np.uint16)
    *states, used = _encode(symbols, context, read_only(frequency), read_only(start), words)
    return b"".join(
        [bytes([contexts]), _pack_tables(codes), np.array(states, "<u4").tobytes(), words[:used][::-1].astype("<u2").tobytes()]
    )


def decode(data: Bytes, size: int, context: Bytes | None = None) -> Bytes | None:
    """The `size` symbols that `encode` was given, or None where the data cannot be a code of so many."""
    if size == 0 or len(data) < _HEAD:
        return np.zeros(0, np.uint8) if size == 0 and len(data) == 0 else None
    contexts = int(data[0])
    found = _unpack_tables(data[1:], contexts) if 0 < contexts <= MAX_CONTEXTS else None
    if found is None:
        return None
    codes, used = found
    rest = data[1 + used :]
    if len(rest) < 4 * LANES or len(rest) % 2 or (context is not None and int(context.max(initial=0)) >= contexts):
        return None
    frequency, start = _tables(codes)
    states = rest[: 4 * LANES].copy().view("<u4").astype(np.int64)
    words = read_only(rest[4 * LANES :].copy().view("<u2"))
    slots = np.empty((contexts, TOTAL), np.uint8)
    out = np.empty(size, np.uint8)
    frequency, start = read_only(frequency), read_only(start)
    _fill_slots(frequency, slots)
    used_context = read_only(_ONE if context is None else context)
    whole = _decode(words, read_only(states), used_context, frequency, start, read_only(slots), out)
    return out if whole else None


def _codes(counts: NDArray[np.int64]) -> Bytes:
    """Counts as logarithms, scaled so that the most frequent symbol of a context has about 2**16: uint8 [contexts, 256]."""
    most = np.maximum(counts.max(axis=1, keepdims=True), 1)
    scaled = counts / most * (1 << 16)
    code = 1 + np.rint(_OCTAVE * np.log2(np.maximum(scaled, 1.0)))
    return np.where(counts > 0, code, 0).astype(np.uint8)


def _tables(codes: Bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Frequencies that sum to `TOTAL` in whole-number arithmetic, and their running sums: int64 [contexts, 256] each."""
    weight = _FREQUENCY[codes]
    present = weight > 0
    total = np.maximum(weight.sum(axis=1, keepdims=True), 1)
    room = TOTAL - present.sum(axis=1, keepdims=True)
    frequency = np.where(present, 1 + weight * room // total, 0)
    at = np.arange(len(codes))
    frequency[at, weight.argmax(axis=1)] += TOTAL - frequency.sum(axis=1)
    return frequency, np.cumsum(frequency, axis=1) - frequency


def _pack_tables(codes: Bytes) -> bytes:
    """Each context: its first symbol, how many follow, their codes."""
    packed = []
    for row in codes:
        used = np.flatnonzero(row)
        first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
        packed += [bytes([first, last - first]), row[first : last + 1].tobytes()]
    return b"".join(packed)


def _unpack_tables(data: Bytes, contexts: int) -> tuple[Bytes, int] | None:
    codes, at = np.zeros((contexts, 256), np.uint8), 0
    for row in codes:
        if at + 2 > len(data):
            return None
        first, count = int(data[at]), int(data[at + 1]) + 1
        at += 2
        if first + count > 256 or at + count > len(data):
            return None
        row[first : first + count] = data[at : at + count]
        at += count
    # The sum of two rounded logarithms must stay below 2**63 / TOTAL.
    return (codes, at) if int(codes.max()) <= 1 + _OCTAVE * 17 else None


@compiled
def _count(symbols: Any, context: Any, counts: Any) -> None:
    stride = 1 if len(context) > 1 else 0
    for i in range(len(symbols)):
        counts[context[i * stride], symbols[i]] += 1


@compiled
def _fill_slots(frequency: Any, slots: Any) -> None:
    for c in range(frequency.shape[0]):
        at = 0
        for s in range(256):
            for _ in range(frequency[c, s]):
                slots[c, at] = s
                at += 1


@compiled
def _encode(symbols: Any, context: Any, frequency: Any, start: Any, words: Any) -> Any:
    """From the last symbol to the first; the lanes turn, so that the one written last is read first."""
    stride = 1 if len(context) > 1 else 0
    s0 = s1 = s2 = s3 = np.int64(65536)
    used = 0
    for j in range(len(symbols)):
        i = len(symbols) - 1 - j
        c, s = context[i * stride], symbols[i]
        f = frequency[c, s]
        x = s3
        if x >= f << 19:
            words[used] = x
            used += 1
            x >>= 16
        q = np.int64(np.uint32(x) // np.uint32(f))
        x = (q << 13) + (x - q * f) + start[c, s]
        s3, s2, s1, s0 = s2, s1, s0, x
    return s0, s1, s2, s3, used


@compiled
def _decode(words: Any, states: Any, context: Any, frequency: Any, start: Any, slots: Any, out: Any) -> bool:
    stride = 1 if len(context) > 1 else 0
    s0, s1, s2, s3 = states[0], states[1], states[2], states[3]
    used, available = 0, len(words)
    for i in range(len(out)):
        c = context[i * stride]
        slot = s0 & 8191
        s = slots[c, slot]
        x = frequency[c, s] * (s0 >> 13) + slot - start[c, s]
        if x < 65536:
            if used == available:
                return False
            x = x << 16 | np.int64(words[used])
            used += 1
        s0, s1, s2, s3 = s1, s2, s3, x
        out[i] = s
    return used == available and s0 == 65536 and s1 == 65536 and s2 == 65536 and s3 == 65536
