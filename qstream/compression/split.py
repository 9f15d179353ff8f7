"""Lossless: byte planes, of floats with the exponent in a plane of its own, each entropy-coded where that is smaller."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import read_only
from qstream.compression.dtypes import DTYPES, SPLIT
from qstream.compression.header import Raw, SplitFloat
from qstream.compression.parts import Level, Parts, Piece, code, stored
from qstream.kernels import compiled

Bytes = NDArray[np.uint8]
_WORD: Final = {2: np.uint16, 4: np.uint32, 8: np.uint64}
_RAW: Final = (Raw(op="raw"),)
_SPLIT: Final = {
    (width, rotate): (SplitFloat(op="split_float", width=width, rotate=rotate),)  # type: ignore[arg-type]
    for width in _WORD
    for rotate in (False, True)
}
_SAMPLE: Final = 1024
_FEW: Final = 0.25  # part of a sample


def planes(raw: Bytes, width: int, *, rotate: bool) -> Bytes:
    """Byte planes of values, the highest byte first: uint8 [width, values].

    With `rotate` the sign goes from the highest bit to the lowest, so that the first plane of a float is its exponent, or the
    upper eight bits of it.
    """
    word = _WORD[width]
    values = read_only(raw.view(word))
    out = np.empty((width, len(values)), np.uint8)
    if width == 2 and rotate:
        _split_turned(values, out[0], out[1])
        return out
    turn, top = (word(1), word(8 * width - 1)) if rotate else (word(0), word(0))
    for k in range(0, width, 2):
        _split(values, out[k], out[k + 1], turn, top, word(8 * (width - 1 - k)))
    return out


def joined(found: list[Bytes], *, rotate: bool) -> Bytes:
    """The bytes of `planes`."""
    width = len(found)
    word = _WORD[width]
    if width == 2 and rotate:
        halves = np.empty(len(found[0]), word)
        _join_turned(read_only(found[0]), read_only(found[1]), halves)
        return halves.view(np.uint8)
    out = np.zeros(len(found[0]), word)
    for k, plane in enumerate(found):
        _join(read_only(plane), out, word(8 * (width - 1 - k)))
    if rotate:
        _turn_back(out, word(8 * width - 1))
    return out.view(np.uint8)


def encode(raw: Bytes, dtype: str, level: Level) -> tuple[tuple[Raw | SplitFloat, ...], list[Piece]]:
    """Operations and parts of bytes that must come back as they are."""
    known = DTYPES[dtype]
    width = known.itemsize // (2 if known.kind == "c" else 1)
    floats = dtype in SPLIT
    if width == 1 or len(raw) == 0:
        return _RAW, [code("raw", raw, level, matches=not floats)]
    split = planes(raw, width, rotate=floats)
    # The lowest planes of floats are noise: only the first is tried at the fast level.
    tried = 1 if floats and level == "fast" else width
    found = [
        code(f"plane{k}", plane, level, matches=not floats) if k < tried else stored(f"plane{k}", plane)
        for k, plane in enumerate(split)
    ]
    if not floats or (found[-1].part.codec != "store" and _repeats(raw.view(_WORD[width]))):
        whole = code("raw", raw, level, matches=True)
        if len(whole.data) <= sum(len(piece.data) for piece in found):
            return _RAW, [whole]
    return _SPLIT[width, floats], found


def _repeats(values: NDArray[Any]) -> bool:
    """Whether the values are few different ones, of which planes tell less than whole values do."""
    some = values[:: max(1, len(values) // _SAMPLE)]
    return len(some) >= _SAMPLE and len(np.unique(some)) <= _FEW * len(some)


def decode(parts: Parts, op: Raw | SplitFloat, nbytes: int) -> Bytes:
    """The bytes that `encode` was given."""
    if isinstance(op, Raw):
        return parts.get("raw", nbytes)
    size = nbytes // op.width
    return joined([parts.get(f"plane{k}", size) for k in range(op.width)], rotate=op.rotate)


@compiled
def _split_turned(values: Any, upper: Any, lower: Any) -> None:
    """Both planes of 16-bit floats; with literal shifts the loop runs on many values at once, four times as fast."""
    for i in range(len(values)):
        v = np.uint16(values[i] << np.uint16(1) | values[i] >> np.uint16(15))
        upper[i] = v >> np.uint16(8)
        lower[i] = v


@compiled
def _join_turned(upper: Any, lower: Any, out: Any) -> None:
    for i in range(len(out)):
        v = np.uint16(np.uint16(upper[i]) << np.uint16(8) | np.uint16(lower[i]))
        out[i] = v >> np.uint16(1) | v << np.uint16(15)


@compiled
def _split(values: Any, upper: Any, lower: Any, turn: Any, top: Any, shift: Any) -> None:
    """Two neighbouring planes at a time: `shift` is that of the upper one."""
    below = shift - values.dtype.type(8)
    for i in range(len(values)):
        v = values[i]
        v = v << turn | v >> top if turn else v
        upper[i] = v >> shift
        lower[i] = v >> below


@compiled
def _join(plane: Any, out: Any, shift: Any) -> None:
    for i in range(len(plane)):
        out[i] |= plane[i] << shift


@compiled
def _turn_back(out: Any, top: Any) -> None:
    for i in range(len(out)):
        v = out[i]
        out[i] = v >> 1 | v << top
