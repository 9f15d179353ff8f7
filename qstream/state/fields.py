"""A state frame as fields of a hash: one header, and each array in chunks, so that a small change is a small write.

``h`` is JSON: the header of the frame, and of each array the dtype (numpy's code, such as ``<i4``) and the shape.
``a:<name>:<i>`` is chunk i of the little-endian bytes of an array. Chunks hold whole rows along axis 0; only a row larger
than a chunk is cut as well, at fixed byte counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from schemas.frame import Frame, FrameError

S = TypeVar("S", bound=Frame)

MAX_CHUNK_BYTES = 60 << 10
HEADER = "h"
ARRAY_PREFIX = "a:"


def pack(state: Frame) -> dict[str, bytes]:
    """Split a frame into fields; equal frames give equal fields."""
    arrays = {name: array for name in state.arrays if (array := getattr(state, name)) is not None}
    kinds = to_json({name: [array.dtype.newbyteorder("<").str, array.shape] for name, array in arrays.items()})
    header = state.model_dump_json(exclude=set(state.arrays)).encode()
    fields = {HEADER: b'{"arrays":' + kinds + b',"header":' + header + b"}"}
    for name, array in arrays.items():
        fields |= {f"{ARRAY_PREFIX}{name}:{i}": chunk for i, chunk in enumerate(_chunks(array))}
    return fields


def unpack(cls: type[S], fields: Mapping[str, bytes]) -> S:
    """Join fields to a frame; fields of arrays that the frame does not declare are ignored.

    Raises
    ------
    FrameError
        The fields are of another frame or major version, or are damaged; the message names the field.
    """
    try:
        stored = json.loads(fields[HEADER])
        header, kinds = dict(stored["header"]), dict(stored["arrays"])
    except KeyError as exc:
        raise FrameError(f"{cls.tag()}: the state has no {exc}") from exc
    except (ValueError, TypeError, RecursionError) as exc:
        raise FrameError(f"{cls.tag()}: field {HEADER!r} is not the JSON header of a state: {str(exc)[:200]}") from exc
    values = {name: value for name, value in header.items() if name in cls.model_fields and name not in cls.arrays}
    return cls.build(**values, **{name: _array(cls, name, kinds[name], fields) for name in cls.arrays if name in kinds})


def _chunks(array: NDArray[Any]) -> list[bytes]:
    row = array.itemsize * math.prod(array.shape[1:])
    step = MAX_CHUNK_BYTES // row * row if 0 < row <= MAX_CHUNK_BYTES else MAX_CHUNK_BYTES
    flat = array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8)
    return [flat[start : start + step].tobytes() for start in range(0, flat.size, step)]


def _array(cls: type[Frame], name: str, kind: object, fields: Mapping[str, bytes]) -> NDArray[Any]:
    declared, axes = cls.dtypes[name], cls.arrays[name]
    wire = declared.newbyteorder("<")
    match kind:
        case [wire.str, [*shape]] if len(shape) == len(axes):
            pass
        case _:
            raise FrameError(f"{cls.tag()}.{name}: stored as {str(kind)[:80]}, allowed is {declared} [{', '.join(axes)}]")
    chunks: list[bytes] = []
    while (chunk := fields.get(f"{ARRAY_PREFIX}{name}:{len(chunks)}")) is not None:
        chunks.append(chunk)
    data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    with suppress(ValueError, TypeError, OverflowError):
        array = np.frombuffer(data, wire).reshape(cast("list[int]", shape))
        if list(array.shape) == shape:  # a damaged length of -1 would fit any data
            return array
    raise FrameError(f"{cls.tag()}.{name}: {len(data)} bytes in {len(chunks)} chunks, allowed is {declared} {str(shape)[:80]}")
