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
_SPARE: Final = LANES  # words behind the last one, which a damaged code may ask for
_HEAD: Final = 1 + 4 * LANES
# x // f is x * ceil(2**45 / f) >> 45 for states x below f * 2**19, and no product is as large as 2**64.
_INVERSE: Final = np.concatenate([[0], -(-(1 << 45) // np.arange(1, TOTAL + 1))]).astype(np.uint64)
# Numbers of kernels: all without a sign, as their indices, which are then not looked at for being negative.
_1, _4, _8, _13, _16, _19, _45 = (np.uint64(n) for n in (1, 4, 8, 13, 16, 19, 45))
_SLOT, _FREQUENT, _LOW = np.uint64(TOTAL - 1), np.uint64(0xFFFF), np.uint64(1 << 16)
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
    _count(symbols, context, counts.reshape(-1))
    codes = _codes(counts)
    table = _tables(codes)
    words, states = np.empty(len(symbols) + 1, np.uint16), np.empty(LANES, np.uint64)
    used = _encode(symbols, context, read_only(table), read_only(_INVERSE[table & _FREQUENT]), words, states)
    return b"".join(
        [bytes([contexts]), _pack_tables(codes), states.astype("<u4").tobytes(), words[:used][::-1].astype("<u2").tobytes()]
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
    table = read_only(_tables(codes))
    states = rest[: 4 * LANES].copy().view("<u4").astype(np.uint64)
    words = np.zeros(len(rest) // 2 - 2 * LANES + _SPARE, np.uint16)
    words[:-_SPARE] = rest[4 * LANES :].copy().view("<u2")
    slots = np.empty(contexts * TOTAL, np.uint8)
    out = np.empty(size, np.uint8)
    _fill_slots(table, slots)
    used_context = read_only(_ONE if context is None else context)
    whole = _decode(read_only(words), read_only(states), used_context, table, read_only(slots), out)
    return out if whole else None


def _codes(counts: NDArray[np.int64]) -> Bytes:
    """Counts as logarithms, scaled so that the most frequent symbol of a context has about 2**16: uint8 [contexts, 256]."""
    most = np.maximum(counts.max(axis=1, keepdims=True), 1)
    scaled = counts / most * (1 << 16)
    code = 1 + np.rint(_OCTAVE * np.log2(np.maximum(scaled, 1.0)))
    return np.where(counts > 0, code, 0).astype(np.uint8)


def _tables(codes: Bytes) -> NDArray[np.uint32]:
    """Frequencies that sum to `TOTAL` in whole-number arithmetic, and from bit 16 their running sums: uint32 [contexts x 256]."""
    weight = _FREQUENCY[codes]
    present = weight > 0
    total = np.maximum(weight.sum(axis=1, keepdims=True), 1)
    room = TOTAL - present.sum(axis=1, keepdims=True)
    frequency = np.where(present, 1 + weight * room // total, 0)
    at = np.arange(len(codes))
    frequency[at, weight.argmax(axis=1)] += TOTAL - frequency.sum(axis=1)
    table: NDArray[np.uint32] = (frequency | (np.cumsum(frequency, axis=1) - frequency) << 16).astype(np.uint32).reshape(-1)
    return table


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
    stride = np.uint64(1 if len(context) > 1 else 0)
    for i in range(np.uint64(len(symbols))):
        counts[np.uint64(context[i * stride]) << _8 | np.uint64(symbols[i])] += 1


@compiled
def _fill_slots(table: Any, slots: Any) -> None:
    at = 0
    for k in range(len(table)):
        for _ in range(table[k] & 0xFFFF):
            slots[at] = k & 255
            at += 1


@compiled
def _encode(symbols: Any, context: Any, table: Any, inverse: Any, words: Any, states: Any) -> Any:
    """From the last symbol to the first; the lanes turn, so that the one written last is read first."""
    stride = np.uint64(1 if len(context) > 1 else 0)
    s0, s1, s2, s3 = _LOW, _LOW, _LOW, _LOW
    used, i = np.uint64(0), np.uint64(len(symbols))
    for _ in range(len(symbols) % 4):
        i -= _1
        x, used = _push(s3, np.uint64(context[i * stride]) << _8 | np.uint64(symbols[i]), table, inverse, words, used)
        s3, s2, s1, s0 = s2, s1, s0, x
    for _ in range(len(symbols) // 4):  # a whole turn
        i -= _1
        s3, used = _push(s3, np.uint64(context[i * stride]) << _8 | np.uint64(symbols[i]), table, inverse, words, used)
        i -= _1
        s2, used = _push(s2, np.uint64(context[i * stride]) << _8 | np.uint64(symbols[i]), table, inverse, words, used)
        i -= _1
        s1, used = _push(s1, np.uint64(context[i * stride]) << _8 | np.uint64(symbols[i]), table, inverse, words, used)
        i -= _1
        s0, used = _push(s0, np.uint64(context[i * stride]) << _8 | np.uint64(symbols[i]), table, inverse, words, used)
    states[0], states[1], states[2], states[3] = s0, s1, s2, s3
    return used


@compiled
def _push(x: Any, at: Any, table: Any, inverse: Any, words: Any, used: Any) -> Any:
    """The state after a symbol, and the number of words; a word is written in any case, so that nothing branches."""
    both = np.uint64(table[at])
    f = both & _FREQUENT
    words[used] = x
    full = x >= f << _19
    x = x >> _16 if full else x
    q = x * inverse[at] >> _45
    return (q << _13) + (x - q * f) + (both >> _16), used + np.uint64(full)


@compiled
def _decode(words: Any, states: Any, context: Any, table: Any, slots: Any, out: Any) -> Any:
    """False where the words, of which the last four are no data, do not end with the symbols."""
    stride = np.uint64(1 if len(context) > 1 else 0)
    s0, s1, s2, s3 = states[0], states[1], states[2], states[3]
    used, available = np.uint64(0), np.uint64(len(words)) - _4
    i = np.uint64(0)
    for _ in range(len(out) // 4):
        out[i], s0, used = _pull(s0, np.uint64(context[i * stride]), table, slots, words, used)
        i += _1
        out[i], s1, used = _pull(s1, np.uint64(context[i * stride]), table, slots, words, used)
        i += _1
        out[i], s2, used = _pull(s2, np.uint64(context[i * stride]), table, slots, words, used)
        i += _1
        out[i], s3, used = _pull(s3, np.uint64(context[i * stride]), table, slots, words, used)
        i += _1
        if used > available:
            return False
    for _ in range(len(out) % 4):
        out[i], x, used = _pull(s0, np.uint64(context[i * stride]), table, slots, words, used)
        s0, s1, s2, s3 = s1, s2, s3, x
        i += _1
    return used == available and s0 == _LOW and s1 == _LOW and s2 == _LOW and s3 == _LOW


@compiled
def _pull(x: Any, context: Any, table: Any, slots: Any, words: Any, used: Any) -> Any:
    """A symbol, the state before it, and the number of words; a word is read in any case, so that nothing branches."""
    slot = x & _SLOT
    s = slots[context << _13 | slot]
    both = np.uint64(table[context << _8 | np.uint64(s)])
    x = (both & _FREQUENT) * (x >> _13) + slot - (both >> _16)
    more = x << _16 | np.uint64(words[used])
    few = x < _LOW
    x = more if few else x
    return s, x, used + np.uint64(few)
