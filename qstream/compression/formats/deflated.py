"""Deflated members of an npz file: taken apart where zlib makes the very same bytes of them again, and put together."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qstream.errors import BlockError
from schemas.wording import Shown, must_be

Bytes = NDArray[np.uint8]
ZIP: Final = b"PK\x03\x04"
LOCAL: Final = 30  # bytes of a local header before the name
_LEVELS: Final = (6, 9, 1)  # 6 is what numpy and zipfile use


class Member(NamedTuple):
    """A member that was deflated: where its own bytes are among those of `Inflated`, and the level of zlib."""

    start: int
    nbytes: int
    level: int


class Inflated(NamedTuple):
    """The bytes of a file with each deflated member in place of its code, and where each member by name begins."""

    data: Bytes
    members: tuple[Member, ...]
    begins: dict[str, int]


def inflated(data: Bytes, infos: Sequence[zipfile.ZipInfo]) -> Inflated | None:
    """The file without its deflate; None where a member could not be made again byte for byte."""
    pieces: list[Bytes] = []
    members: list[Member] = []
    begins: dict[str, int] = {}
    size = end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        begin = begin_of(data, info)
        if begin < end or info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return None
        size += begin - end
        pieces.append(data[end:begin])
        begins[info.filename], end = size, begin
        if info.compress_type == zipfile.ZIP_STORED:
            continue
        code = data[begin : begin + info.compress_size].tobytes()
        raw = _inflated(code, info.file_size)
        level = next((level for level in _LEVELS if raw is not None and _deflated(raw, level) == code), None)
        if raw is None or level is None:
            return None
        members.append(Member(size, len(raw), level))
        pieces.append(np.frombuffer(raw, np.uint8))
        size, end = size + len(raw), begin + len(code)
    return Inflated(np.concatenate([*pieces, data[end:]]), tuple(members), begins)


def deflated(data: Bytes, members: Sequence[tuple[int, int, int]]) -> bytes:
    """The file that `inflated` took apart, as long as this zlib deflates as that one did."""
    pieces, end = [], 0
    for start, nbytes, level in members:
        if not end <= start <= start + nbytes <= len(data) or level not in _LEVELS:
            raise BlockError("bad_frame", must_be("deflated members", "one behind the other, and in the file", Shown("others")))
        pieces += [data[end:start].tobytes(), _deflated(data[start : start + nbytes].data, level)]
        end = start + nbytes
    return b"".join([*pieces, data[end:].tobytes()])


def begin_of(data: Bytes, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin, behind its local header."""
    head = data[info.header_offset : info.header_offset + LOCAL].tobytes()
    if len(head) < LOCAL or head[:4] != ZIP:
        raise BlockError("bad_frame", must_be(f"member {info.filename!r}", "behind a local header", Shown("other bytes")))
    return int(info.header_offset + LOCAL + sum(struct.unpack("<HH", head[26:30])))


def _inflated(code: bytes, size: int) -> bytes | None:
    inflater = zlib.decompressobj(-15)
    try:
        raw = inflater.decompress(code, size + 1)
    except zlib.error:
        return None
    return raw if len(raw) == size and inflater.eof and not inflater.unused_data else None


def _deflated(raw: bytes | memoryview, level: int) -> bytes:
    deflater = zlib.compressobj(level, zlib.DEFLATED, -15)
    return deflater.compress(raw) + deflater.flush()
