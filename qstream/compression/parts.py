"""Parts: one plane of bytes as it is, or entropy-coded, whichever is smaller; and back, within the declared size.

zstd with a match length that random data never reaches is a pure Huffman coder: smaller and faster than its levels there. Most
planes of exponents are coded for it by `huffman`, which is faster still.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from qstream.arguments import read_only
from qstream.compression import huffman, rans
from qstream.compression.header import Header, Part, digest
from qstream.errors import BlockError
from qstream.kernels import compiled
from schemas.wording import Shown, must_be

Bytes = NDArray[np.uint8]
Level = Literal["fast", "balanced", "small"]

WORTH: Final = 0.98  # a coded plane must be smaller than this part of the plane
_SAMPLE: Final = 1024
_SMALL: Final = 512  # bytes: trying is as fast as looking
_REPEATS: Final = 1.5  # bits a byte below which repeats of strings are looked for
_MATCHES: Final[dict[Level, int]] = {"fast": 1, "balanced": 3, "small": 12}


class Piece(NamedTuple):
    """A part and its bytes, and what they stand for where they are coded."""

    part: Part
    data: Any
    plain: Bytes | None = None

    def is_kept(self) -> bool:
        """Whether the bytes decode to what they stand for, for those that no context is needed for."""
        if self.plain is None or self.part.codec == "store":
            return True
        found = _DECODERS[self.part.codec](np.frombuffer(self.data, np.uint8), len(self.plain), None)
        return found is not None and len(found) == len(self.plain) and bool(_same(read_only(found), read_only(self.plain)))


Chosen = tuple[Literal["store", "zstd", "rans"], Any]  # a codec, and what it made


_own = threading.local()  # compressors must not be shared by threads


def _zstd(level: int | None) -> Any:
    """The compressor of this thread for a level of zstd, or for None its Huffman coder alone."""
    held: dict[int | None, Any] = _own.__dict__.setdefault("compressors", {})
    if level not in held:
        if level is None:
            only = zstandard.ZstdCompressionParameters(
                compression_level=1, strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, window_log=18, target_length=0
            )
            held[level] = zstandard.ZstdCompressor(compression_params=only)
        else:
            held[level] = zstandard.ZstdCompressor(level=level)
    return held[level]


def stored(name: str, data: Any) -> Piece:
    """Bytes as they are."""
    view = memoryview(data).cast("B")
    return Piece(Part(name, len(view), len(view), "store", digest(view)), view)


def code(
    name: str, plane: Bytes, level: Level, *, matches: bool = False, context: Bytes | None = None, contexts: int = 1
) -> Piece:
    """A plane as the smallest of what the level allows.

    With `matches` repeats of strings are looked for as well; with `context` each symbol is coded by the table of its context.
    """
    codec, data = _smallest(plane, level, matches, context, contexts)
    return Piece(Part(name, len(data), len(plane), codec, digest(data)), data, plane)


def _smallest(plane: Bytes, level: Level, matches: bool, context: Bytes | None, contexts: int) -> Chosen:
    raw: Chosen = "store", plane.data
    if context is not None:
        return min(raw, ("rans", rans.encode(plane, context, contexts)), key=_size)
    bits = entropy_of_sample(plane) if len(plane) > _SMALL else 0.0
    if bits > 8 * WORTH and not matches:
        return raw
    best = raw
    if level == "small" and bits <= 8 * WORTH:
        best = "rans", rans.encode(plane)
    elif bits <= 8 * WORTH:
        best = "zstd", huffman.encode(plane) or _zstd(None).compress(plane)
    if matches or 0 < bits < _REPEATS:
        best = min(best, ("zstd", _zstd(_MATCHES[level]).compress(plane)), key=_size)
    return best if _size(best) < WORTH * len(plane) else raw


def _size(chosen: Chosen) -> int:
    return len(chosen[1])


def entropy_of_sample(plane: Bytes) -> float:
    """Bits a byte of an ideal order-0 coder, from about 1,024 bytes spread over the plane."""
    return float(_sampled_bits(read_only(plane), max(1, len(plane) // _SAMPLE)))


def entropy_of(counts: NDArray[Any]) -> float:
    """Bits a symbol of an ideal coder that knows how often each occurs."""
    used = counts[counts > 0].astype(np.float64)
    total = float(used.sum())
    return float(np.log2(total) - float(used @ np.log2(used)) / total) if total else 0.0


class Parts:
    """The parts of one tensor, each decoded when it is asked for, once its check has been compared."""

    def __init__(self, header: Header, payload: memoryview) -> None:
        self.name = header.name
        self._at: dict[str, tuple[Part, memoryview]] = {}
        at = 0
        for part in header.parts:
            self._at[part.name] = part, payload[at : at + part.nbytes]
            at += part.nbytes

    def __contains__(self, name: str) -> bool:
        return name in self._at

    def get(self, name: str, size: int, context: Bytes | None = None) -> Bytes:
        """The bytes of a part, which must be `size` many; `BlockError` if it is missing, damaged or of another size."""
        if name not in self._at:
            raise BlockError("bad_frame", must_be(f"parts of {self.name!r}", f"some with {name!r}", Shown(", ".join(self._at))))
        part, data = self._at[name]
        if part.raw_nbytes != size:
            raise BlockError("bad_frame", must_be(f"part {name!r}", f"{size} bytes", part.raw_nbytes))
        if digest(data) != part.check:
            raise BlockError("checksum", must_be(f"part {name!r} of {self.name!r}", "as it was coded", Shown("other bytes")))
        found = _DECODERS[part.codec](np.frombuffer(data, np.uint8), size, context)
        if found is None or len(found) != size:
            raise BlockError("bad_frame", must_be(f"part {name!r}", f"{size} bytes coded by {part.codec}", Shown("others")))
        return found

    def size(self, name: str) -> int:
        """Bytes of a part once decoded; 0 for one that is missing."""
        return self._at[name][0].raw_nbytes if name in self._at else 0


def _stored(data: Bytes, size: int, context: Bytes | None) -> Bytes | None:
    return data if context is None or len(data) == size else None


def _unzstd(data: Bytes, size: int, context: Bytes | None) -> Bytes | None:
    try:
        if zstandard.frame_content_size(data.data) != size:
            return None
        held = getattr(_own, "decompressor", None)
        if held is None:
            held = _own.decompressor = zstandard.ZstdDecompressor()
        return np.frombuffer(held.decompress(data.data, max_output_size=size, allow_extra_data=False), np.uint8)
    except zstandard.ZstdError:
        return None


_DECODERS: Final[dict[str, Callable[[Bytes, int, Bytes | None], Bytes | None]]] = {
    "store": _stored,
    "zstd": _unzstd,
    "rans": rans.decode,
}


@compiled
def _same(a: Any, b: Any) -> Any:
    unlike = np.uint8(0)
    for i in range(len(a)):  # wider numbers would be fewer at a time
        unlike = np.uint8(unlike | np.uint8(a[i] ^ b[i]))
    return unlike == 0


@compiled
def _sampled_bits(plane: Any, stride: Any) -> Any:
    """A sample of n looks (symbols - 1) / (2 n ln 2) bits too even (Miller 1955)."""
    counts = np.zeros(256, np.int64)
    for i in range(0, len(plane), stride):
        counts[plane[i]] += 1
    total = counts.sum()
    bits, symbols = 0.0, 0
    for count in counts:
        if count > 0:
            bits += count * np.log2(total / count)
            symbols += 1
    return (bits + (symbols - 1) / (2 * np.log(2))) / total if total else 0.0
