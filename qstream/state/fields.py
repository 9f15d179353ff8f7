"""A state frame as fields of a hash: one header a frame, and each array in chunks, so that a small change is a small write.

``h`` is JSON: the header of the frame, and of each array the dtype (numpy's code, such as ``<i4``) and the shape.
``a:<name>:<i>`` is chunk i of the little-endian bytes of an array. Chunks hold whole rows along axis 0; only a row larger
than a chunk is cut as well, at fixed byte counts. A frame of which a record changes few rows may ask for smaller chunks
(`Frame.CHUNK_BYTES`). A frame inside the frame, alone or in lists, tuples and dicts, has fields
of its own under its path: ``h:topology``, ``a:topology.gpu_capacity:0``, ``h:learners.2``; the outer header names its class.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_origin

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from schemas.arrays import declared
from schemas.frame import Frame, FrameError
from schemas.wording import Shown, must_be

S = TypeVar("S", bound=Frame)

MAX_CHUNK_BYTES = 60 << 10
HEADER = "h"
ARRAY_PREFIX = "a:"
_ESCAPES = str.maketrans({"%": "%25", ".": "%2e", ":": "%3a"})


def is_state_field(name: str) -> bool:
    """Whether a field of the hash belongs to the state, and not to its version, offsets or epochs."""
    return name == HEADER or name.startswith((f"{HEADER}:", ARRAY_PREFIX))


def pack(state: Frame) -> dict[str, bytes]:
    """Split a frame into fields; equal frames give equal fields."""
    return dict(_fields(state, ""))


def unpack(cls: type[S], fields: Mapping[str, bytes]) -> S:
    """Join fields to a frame; fields of arrays that the frame does not declare are ignored.

    Raises
    ------
    FrameError
        The fields are of another frame or major version, or are damaged; the message names the field.
    """
    try:
        return _frame(cls, fields, "")
    except RecursionError as exc:
        raise FrameError(f"{cls.tag()}: the state is nested too deep") from exc


def _fields(frame: Frame, path: str) -> Iterator[tuple[str, bytes]]:
    """The fields of a frame at `path`, and of the frames in it."""
    cls = type(frame)
    arrays = {name: array for name in cls.arrays if (array := getattr(frame, name)) is not None}
    inner: dict[str, Frame] = {}
    left_out: dict[str, Any] = dict.fromkeys(cls.arrays, True)
    for name in _nested(cls):
        if found := _all_but_class(getattr(frame, name), _join(path, name), inner):
            left_out[name] = found
    kinds = to_json({name: [_wire(array.dtype).str, array.shape] for name, array in arrays.items()})
    header = frame.__pydantic_serializer__.to_json(frame, exclude=left_out)  # `model_dump_json` at half its time
    yield _header_name(path), b'{"arrays":' + kinds + b',"header":' + header + b"}"
    for name, array in arrays.items():
        for i, chunk in enumerate(_chunks(array, min(cls.CHUNK_BYTES, MAX_CHUNK_BYTES))):
            yield f"{ARRAY_PREFIX}{_join(path, name)}:{i}", chunk
    for at, part in inner.items():
        yield from _fields(part, at)


def _all_but_class(value: Any, path: str, inner: dict[str, Frame]) -> Any:
    """What the outer header leaves out of `value`, in pydantic's form; the frames found in it go to `inner` by path."""
    if isinstance(value, Frame):
        inner[path] = value
        return type(value).model_fields.keys() - {"frame"}
    if isinstance(value, Mapping):
        items: Iterator[tuple[Any, Any]] = iter(value.items())
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return None
    return {key: found for key, item in items if (found := _all_but_class(item, _join(path, str(key)), inner))}


@dataclass(frozen=True, slots=True)
class _Nested:
    """The frames that a field may hold, by their tags, and whether it holds them in a tuple, which JSON does not know."""

    frames: dict[str, type[Frame]] = field(default_factory=dict)
    is_tuple: bool = False


@cache
def _nested(cls: type[Frame]) -> dict[str, _Nested]:
    """The fields of a frame that may hold frames."""
    found = {name: _frames_in(info.annotation) for name, info in cls.model_fields.items() if name not in cls.arrays}
    return {name: nested for name, nested in found.items() if nested.frames}


def _frames_in(annotation: Any) -> _Nested:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return _Nested({annotation.tag(): annotation}) if issubclass(annotation, Frame) else _Nested()
    parts = [_frames_in(part) for part in get_args(annotation)]
    frames = {tag: cls for part in parts for tag, cls in part.frames.items()}
    return _Nested(frames, get_origin(annotation) is tuple or any(part.is_tuple for part in parts))


def _frame(cls: type[S], fields: Mapping[str, bytes], path: str) -> S:
    """The frame at `path`."""
    name_of_header = _header_name(path)
    try:
        stored = json.loads(fields[name_of_header])
        header, kinds = dict(stored["header"]), dict(stored["arrays"])
    except KeyError as exc:
        raise FrameError(f"{cls.tag()}: the state has no {exc}") from exc
    except (ValueError, TypeError, RecursionError) as exc:
        raise FrameError(f"{cls.tag()}: field {name_of_header!r} must be the JSON header of a state: {str(exc)[:200]}") from exc
    values = {name: value for name, value in header.items() if name in cls.model_fields and name not in cls.arrays}
    for name, nested in _nested(cls).items():
        if name in values:
            value = _with_frames(values[name], nested, fields, _join(path, name))
            values[name] = tuple(value) if nested.is_tuple and isinstance(value, list) else value
    arrays = {name: _array(cls, name, _join(path, name), kinds[name], fields) for name in cls.arrays if name in kinds}
    return cls.build(**values, **arrays)


def _with_frames(value: Any, nested: _Nested, fields: Mapping[str, bytes], path: str) -> Any:
    """The value of a header with its frames in it."""
    if isinstance(value, list):
        return [_with_frames(item, nested, fields, _join(path, str(at))) for at, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    tag = value.get("frame")
    if not isinstance(tag, str):
        return {key: _with_frames(item, nested, fields, _join(path, key)) for key, item in value.items()}
    if tag not in nested.frames:
        raise FrameError(must_be(f"field {path!r} of the state", " or ".join(nested.frames), tag))
    return _frame(nested.frames[tag], fields, path)


def _header_name(path: str) -> str:
    return f"{HEADER}:{path}" if path else HEADER


def _join(path: str, name: str) -> str:
    name = name.translate(_ESCAPES)
    return f"{path}.{name}" if path else name


@cache
def _wire(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The little-endian twin of a dtype."""
    return dtype.newbyteorder("<")


def _chunks(array: NDArray[Any], most: int) -> list[bytes]:
    array = array.astype(_wire(array.dtype), copy=False)
    if 0 < array.nbytes <= most:
        return [array.tobytes()]
    row = array.itemsize * math.prod(array.shape[1:])
    step = most // row * row if 0 < row <= most else most
    flat = array.reshape(-1).view(np.uint8)
    return [flat[start : start + step].tobytes() for start in range(0, flat.size, step)]


def _array(cls: type[Frame], name: str, path: str, kind: object, fields: Mapping[str, bytes]) -> NDArray[Any]:
    dtype, axes = cls.dtypes[name], cls.arrays[name]
    wire = _wire(dtype)
    match kind:
        case [wire.str, [*shape]] if len(shape) == len(axes):
            pass
        case _:
            raise FrameError(must_be(f"{cls.tag()}.{name}", declared(dtype, axes), Shown(f"stored as {kind}")))
    chunks: list[bytes] = []
    while (chunk := fields.get(f"{ARRAY_PREFIX}{path}:{len(chunks)}")) is not None:
        chunks.append(chunk)
    data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    with suppress(ValueError, TypeError, OverflowError):
        array = np.frombuffer(data, wire).reshape(cast("list[int]", shape))
        if list(array.shape) == shape:  # a damaged length of -1 would fit any data
            return array
    raise FrameError(
        must_be(f"{cls.tag()}.{name}", f"{dtype} {str(shape)[:80]}", Shown(f"{len(data)} bytes in {len(chunks)} chunks"))
    )
