"""Huffman codes in zstd's own frames, of bytes up to 128, such as exponents: any zstd reads them.

Two symbols are counted, and coded, at a time: a table of pairs holds what both of them become. Frames: RFC 8878, literals of
four streams, a table for each MiB. Lengths are Huffman's (1952), cut at 11 bits.
"""

from __future__ import annotations

import threading
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import read_only
from qstream.kernels import compiled

Bytes = NDArray[np.uint8]

SYMBOLS: Final = 129  # as many as weights of four bits can tell lengths of
_LONGEST: Final = 11  # bits
_BLOCK: Final = 1 << 17
_TABLE: Final = 1 << 20  # bytes of one table
_LEAST: Final = 1 << 14  # bytes: the table of a shorter plane costs more than zstd's
_ROOM: Final = 8 * (_BLOCK // 4 * _LONGEST // 64 + 2)  # bytes of a stream
_TURN: Final = 16  # bytes: two pairs in each stream
_MAGIC: Final = b"\x28\xb5\x2f\xfd\xa0"  # one segment, whose size follows in four bytes
# Numbers of kernels: indices without a sign are not looked at for being negative.
_ONE, _SIX, _SIXTEEN, _LAST = np.uint64(1), np.uint64(6), np.uint64(16), np.uint64(63)
_BELOW = np.uint64(0x7F7F7F7F7F7F7F7F)
_LENGTH, _CODE, _LOW = np.uint32(27), np.uint32((1 << 27) - 1), np.uint64(0xFFFF)


class _Scratch(NamedTuple):
    """Arrays that a thread uses again for each plane; `counts` are zero between them."""

    counts: NDArray[np.uint32]
    table: NDArray[np.uint32]
    tree: Bytes
    words: NDArray[np.uint64]


_own = threading.local()


def encode(plane: Bytes) -> bytes | None:
    """A zstd frame of the plane; None where zstd itself codes it: short, of larger bytes, or with runs."""
    size = len(plane)
    whole = size - size % _TURN
    if size < _LEAST or size >= 1 << 32:
        return None
    held = _scratch()
    words = read_only(plane[:whole]).view(np.uint64)
    if not words.flags.aligned:
        words = read_only(words.copy())
    pairs = words.view(np.uint16)
    streams = held.words.data.cast("B")
    pieces: list[Any] = [_MAGIC, size.to_bytes(4, "little")]
    tables = max(1, whole // _TABLE)
    for n in range(tables):
        begin, end = n * _TABLE, (n + 1) * _TABLE if n + 1 < tables else whole
        used = _prepared(words[begin // 8 : end // 8], held.counts, held.counts.reshape(-1), held.table, held.tree)
        if not used:
            return None
        tree, kind = bytes(held.tree[:used]), 2
        for at in range(begin, end, _BLOCK):
            count = min(_BLOCK, end - at)
            sizes = _streams(pairs[at // 2 : (at + count) // 2], held.table, held.words)
            a, b, c, d = sizes
            body = len(tree) + 6 + a + b + c + d
            block = (at + count == size) | 2 << 1 | (5 + body + 1) << 3
            head = block | (kind | 3 << 2 | count << 4 | body << 22) << 24
            pieces += [head.to_bytes(8, "little"), tree, (a | b << 16 | c << 32).to_bytes(6, "little")]
            pieces += [bytes(streams[k * _ROOM : k * _ROOM + used]) for k, used in enumerate(sizes)]
            pieces.append(b"\0")  # no sequences
            tree, kind = b"", 3  # by the table of the block before
    if whole < size:
        pieces += [(1 | (size - whole) << 3).to_bytes(3, "little"), plane[whole:].tobytes()]
    return b"".join(pieces)


def _scratch() -> _Scratch:
    held: _Scratch | None = getattr(_own, "scratch", None)
    if held is None:
        counts, table = np.zeros((256, 256), np.uint32), np.zeros(1 << 16, np.uint32)
        held = _own.scratch = _Scratch(counts, table, np.zeros(SYMBOLS, np.uint8), np.zeros(4 * _ROOM // 8, np.uint64))
    return held


@compiled
def _prepared(words: Any, counts: Any, flat: Any, table: Any, tree: Any) -> Any:
    """What pairs of symbols become, and how a reader is told; the bytes of that, none where another coder should have them."""
    seen = np.uint64(0)
    for i in range(np.uint64(len(words))):
        w = words[i]
        seen |= w & ((w & _BELOW) + _BELOW)  # the highest bit of a byte above 128
        flat[w & _LOW] += np.uint32(1)
        flat[w >> _SIXTEEN & _LOW] += np.uint32(1)
        flat[w >> _SIXTEEN >> _SIXTEEN & _LOW] += np.uint32(1)
        flat[w >> _SIXTEEN >> _SIXTEEN >> _SIXTEEN] += np.uint32(1)
    number, equal = np.zeros(256, np.int64), 0
    for b in range(256):
        row = np.uint32(0)
        for a in range(256):
            row += counts[b, a]
        if row > 0:
            equal += counts[b, b]
            number[b] += row
            for a in range(256):
                number[a] += counts[b, a]
                counts[b, a] = np.uint32(0)
    total, expected, most = 8.0 * len(words), 0.0, 0
    for s in range(129):
        expected += (number[s] / total) ** 2
        most = max(most, number[s])
    if seen & ~_BELOW or most > 0.45 * total or 2 * equal / total > expected + 0.1:  # zstd finds repeats
        return 0
    lengths = np.zeros(129, np.int64)
    _set_lengths(number, lengths)
    return _set_table(lengths, table, tree)


@compiled
def _set_lengths(number: Any, lengths: Any) -> None:
    """Lengths of an optimal code, the longest cut, and others changed until the code is complete again."""
    symbol, weight = np.zeros(129, np.int64), np.zeros(258, np.int64)
    n = 0
    for s in range(129):
        lengths[s] = 0
        if number[s] > 0:
            symbol[n], weight[n] = s, number[s]
            n += 1
    parent, depth = np.zeros(258, np.int64), np.zeros(258, np.int64)
    for node in range(n, 2 * n - 1):
        for _ in range(2):  # the lightest, and the one after it
            best = -1
            for i in range(node):
                if parent[i] == 0 and (best < 0 or weight[i] < weight[best]):
                    best = i
            parent[best] = node
            weight[node] += weight[best]
    for i in range(2 * n - 3, -1, -1):
        depth[i] = depth[parent[i]] + 1
    over = -2048  # how many codes of 11 bits more than there are the lengths take
    for i in range(n):
        depth[i] = min(depth[i], 11)
        over += 2048 >> depth[i]
    while over != 0:
        best = -1
        for i in range(n):
            room = 2048 >> depth[i]
            if over > 0:  # a longer one, where that costs least
                better = depth[i] < 11 and (
                    best < 0 or room < 2048 >> depth[best] or (room == 2048 >> depth[best] and weight[i] < weight[best])
                )
            else:
                better = room <= -over and (best < 0 or weight[i] > weight[best])
            best = i if better else best
        room = 2048 >> depth[best]
        depth[best] += 1 if over > 0 else -1
        over -= room // 2 if over > 0 else -room
    for i in range(n):
        lengths[symbol[i]] = depth[i]


@compiled
def _set_table(lengths: Any, table: Any, tree: Any) -> Any:
    """Of each pair the code, and from bit 27 its length; the second symbol comes first, in streams that are written from the end.

    The tree holds the lengths as weights of four bits, except for the last symbol, whose weight the others tell; its bytes.
    """
    number, begin = np.zeros(13, np.int64), np.zeros(13, np.int64)
    symbol, n, longest = np.zeros(129, np.int64), 0, 0
    for s in range(129):
        if lengths[s] > 0:
            number[lengths[s]] += 1
            longest = max(longest, lengths[s])
            symbol[n], n = s, n + 1
    for length in range(11, 0, -1):
        begin[length - 1] = (begin[length] + number[length]) >> 1
    code = np.zeros(129, np.int64)
    for i in range(n):
        s = symbol[i]
        code[s] = begin[lengths[s]]
        begin[lengths[s]] += 1
    for i in range(n):
        b = symbol[i]
        for k in range(n):
            a = symbol[k]
            table[b << 8 | a] = code[b] | code[a] << lengths[b] | (lengths[a] + lengths[b]) << 27
    last = symbol[n - 1]
    tree[0] = 127 + last
    for k in range((last + 1) // 2):
        upper, lower = lengths[2 * k], lengths[2 * k + 1] if 2 * k + 1 < last else 0
        tree[k + 1] = (longest + 1 - upper if upper else 0) << 4 | (longest + 1 - lower if lower else 0)
    return 1 + (last + 1) // 2


@compiled
def _streams(pairs: Any, table: Any, words: Any) -> Any:
    """Four streams, each at the beginning of its room; their sizes."""
    part, room = len(pairs) // 4, len(words) // 4
    a = _stream(pairs[:part], table, words[:room])
    b = _stream(pairs[part : 2 * part], table, words[room : 2 * room])
    c = _stream(pairs[2 * part : 3 * part], table, words[2 * room : 3 * room])
    return a, b, c, _stream(pairs[3 * part :], table, words[3 * room :])


@compiled
def _stream(pairs: Any, table: Any, words: Any) -> Any:
    """Codes of pairs from the last to the first, from the lowest bit of each word, and a bit behind them; the number of bytes."""
    word, used, k = np.uint64(0), np.uint64(0), np.uint64(0)
    i = np.uint64(len(pairs))
    for _ in range(len(pairs) // 2):
        i -= np.uint64(2)
        second, first = table[pairs[i + _ONE]], table[pairs[i]]
        length = np.uint64(second >> _LENGTH)
        bits = np.uint64(second & _CODE) | np.uint64(first & _CODE) << length
        end = used + length + np.uint64(first >> _LENGTH)
        both = word | bits << used
        words[k] = both
        full = end >> _SIX
        k += full
        word = bits >> _ONE >> _LAST - used if full else both
        used = end & _LAST
    words[k] = word | _ONE << used
    return np.int64(k) * 8 + np.int64(used >> np.uint64(3)) + 1
