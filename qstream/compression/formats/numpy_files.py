"""npy and npz files: the layout of their arrays. Nothing is unpickled."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from qstream.compression.formats.deflated import begin_of, inflated
from qstream.compression.formats.layout import Layout, Span, known, ordered
from qstream.errors import BlockError
from schemas.wording import Shown, must_be

MAGIC: Final = b"\x93NUMPY"


def npy_layout(data: NDArray[np.uint8]) -> Layout:
    """Where the array of an npy file is."""
    span = _span("array", data, 0, len(data))
    return ordered("npy", data, [] if span is None else [span])


def npz_layout(data: NDArray[np.uint8], *, stored: bool = False) -> Layout:
    """Where the arrays of an npz file are.

    Deflated members are taken apart where zlib makes the same bytes of them again; otherwise their arrays are not among those
    found. With `stored` such a file is first rewritten without deflate.
    """
    infos = _members(data)
    if stored and any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        return npz_layout(_rewritten(data, infos))
    apart = inflated(data, infos) if any(info.compress_type != zipfile.ZIP_STORED for info in infos) else None
    whole = data if apart is None else apart.data
    spans, members = [], []
    for info in infos:
        if apart is None and (info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1):
            continue
        begin = begin_of(data, info) if apart is None else apart.begins[info.filename]
        members.append((info.filename, begin, info.file_size))
        span = _span(info.filename.removesuffix(".npy"), whole, begin, info.file_size)
        if span is not None:
            spans.append(span)
    if apart is None:
        return ordered("npz", data, spans, members=tuple(members))
    return ordered("npz", whole, spans, members=tuple(members), deflated=apart.members, source=data)


def npz_of(data: NDArray[np.uint8], members: Sequence[tuple[str, int, int]]) -> bytes:
    """An npz file of the same members, with the checks of their present bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, start, size in members:
            archive.writestr(zipfile.ZipInfo(name), data[start : start + size].tobytes())
    return out.getvalue()


def _members(data: NDArray[np.uint8]) -> list[zipfile.ZipInfo]:
    try:
        infos = zipfile.ZipFile(io.BytesIO(data.tobytes())).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as exc:
        raise BlockError("bad_frame", must_be("file", "an npz file", Shown(str(exc)))) from exc
    if any(info.filename.endswith(".pkl") for info in infos):
        raise BlockError(
            "dtype", must_be("file", "safetensors, npy or npz: save its tensors by safetensors", Shown("pickled data"))
        )
    return infos


def _rewritten(data: NDArray[np.uint8], infos: Sequence[zipfile.ZipInfo]) -> NDArray[np.uint8]:
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data.tobytes())) as source, zipfile.ZipFile(out, "w") as archive:
            for info in infos:
                archive.writestr(zipfile.ZipInfo(info.filename), source.read(info))
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as exc:
        raise BlockError("bad_frame", must_be("file", "an npz file", Shown(str(exc)))) from exc
    return np.frombuffer(out.getvalue(), np.uint8)


def _span(name: str, data: NDArray[np.uint8], start: int, size: int) -> Span | None:
    """The array of an npy file that begins at `start`; None where its bytes are not those of values."""
    head = io.BytesIO(data[start : start + min(size, 1 << 16)].tobytes())
    try:
        version = npy.read_magic(head)
        read: Any = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(head)
    except (ValueError, TypeError, SyntaxError) as exc:
        raise BlockError("bad_frame", must_be(f"array {name!r}", "an npy file", Shown(str(exc)[:80]))) from exc
    if dtype.hasobject:
        raise BlockError("dtype", must_be(f"dtype of {name!r}", "numbers: objects would be unpickled", Shown(str(dtype))))
    begin = start + head.tell()
    if not known(dtype) or min(shape, default=0) < 0:
        return None
    nbytes = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    if begin + nbytes > start + size:
        raise BlockError("bad_frame", must_be(f"array {name!r}", f"{nbytes} bytes long", start + size - begin))
    return Span(name, dtype, shape[::-1] if fortran else shape, begin, nbytes)
