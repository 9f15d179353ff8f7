"""safetensors files: the layout of their tensors, and files of other tensors."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.compression.dtypes import DTYPES
from qstream.compression.formats.layout import Layout, Span, ordered
from qstream.errors import BlockError
from schemas.wording import Shown, must_be

MAX_HEADER_BYTES: Final = 100_000_000  # as the format says
NAMES: Final = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "C64": "complex64",
}  # fmt: skip
_CODES: Final = {name: code for code, name in NAMES.items()}


def layout(data: NDArray[np.uint8]) -> Layout:
    """Where the tensors are; one of a type that is not known is coded as bytes."""
    header, start = _header(data)
    metadata = header.pop("__metadata__", {})
    spans = []
    for name, entry in header.items():
        try:
            code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            numbers = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        except (KeyError, TypeError, ValueError) as exc:
            raise BlockError("bad_frame", must_be(f"entry {name!r}", "dtype, shape and data_offsets", Shown("others"))) from exc
        dtype = DTYPES[NAMES[code]] if code in NAMES else np.dtype(np.uint8)
        shape = shape if code in NAMES else (max(end - begin, 0) if numbers else 0,)
        if not numbers or end - begin != math.prod(shape) * dtype.itemsize:
            raise BlockError("bad_frame", must_be(f"data_offsets of {name!r}", "as dtype and shape say", [begin, end]))
        spans.append(Span(name, dtype, shape, start + begin, end - begin))
    return ordered("safetensors", data, spans, metadata=metadata if isinstance(metadata, dict) else {})


def _header(data: NDArray[np.uint8]) -> tuple[dict[str, Any], int]:
    if len(data) < 8:
        raise BlockError("bad_frame", must_be("file", "a safetensors file", Shown(f"{len(data)} bytes")))
    (size,) = struct.unpack("<Q", data[:8].tobytes())
    if size > min(MAX_HEADER_BYTES, len(data) - 8):
        allowed = f"a safetensors file, whose header is at most {len(data) - 8} bytes"
        raise BlockError("bad_frame", must_be("file", allowed, Shown(f"a header of {size} bytes")))
    try:
        header = json.loads(data[8 : 8 + size].tobytes())
    except (ValueError, RecursionError) as exc:
        raise BlockError("bad_frame", must_be("header", "JSON", Shown(type(exc).__name__))) from exc
    if not isinstance(header, dict):
        raise BlockError("bad_frame", must_be("header", "a JSON object", Shown(type(header).__name__)))
    return header, 8 + size


def written(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file. Bytes are written from C-ordered little-endian arrays, of the types of ml_dtypes as well."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at, pieces = 0, []
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array)
        code = _CODES.get(next((known for known, dtype in DTYPES.items() if dtype == raw.dtype), ""))
        if code is None:
            raise BlockError("dtype", must_be(f"dtype of {name!r}", f"one of {', '.join(_CODES)}", Shown(str(raw.dtype))))
        header[name] = {"dtype": code, "shape": list(raw.shape), "data_offsets": [at, at + raw.nbytes]}
        pieces.append(raw.tobytes())
        at += raw.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *pieces])
