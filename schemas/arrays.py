"""Arrays of a frame: numbers and lists to the declared dtype and axes, without changing any value."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import SchemaValidator, core_schema

from schemas.wording import Shown, must

SMALL = 64  # numbers, up to which a Python list is quicker than NumPy
ITEM_TYPES: dict[str, tuple[type, ...]] = {
    "f": (int, float, np.integer, np.floating),
    "i": (int, np.integer),
    "u": (int, np.integer),
    "b": (bool, np.bool_),
}


def as_array(value: Any, dtype: np.dtype[Any], axes: tuple[str, ...], plain: SchemaValidator) -> NDArray[Any]:
    """Convert a list or array to the declared dtype without changing any value, read-only and contiguous."""
    if type(value) is list and plain.isinstance_python(value):
        try:
            array = np.array(value, dtype)
        except (OverflowError, ValueError):  # out of range or ragged, which the long way explains
            array = _from_list(value, dtype, axes)
        array.setflags(write=False)
        return array
    if isinstance(value, np.ndarray):
        array = value if value.dtype == dtype else _cast(value, dtype, axes)
        if array is value and value.flags.writeable:
            array = value.copy()
    elif isinstance(value, list | tuple):
        array = _from_list(value, dtype, axes)
    else:
        raise _refusal(dtype, axes, type(value).__name__)
    if array.ndim != len(axes) or (array.ndim > 1 and array.size == 0):
        raise _refusal(dtype, axes, f"shape {list(array.shape)}")
    if dtype.kind == "f" and not all_finite(array):
        raise ValueError(must("finite numbers", Shown("NaN or infinity")))
    flags = array.flags
    if not flags.c_contiguous:
        array = np.ascontiguousarray(array)
        flags = array.flags
    if flags.writeable:
        array.setflags(write=False)
    return array


def _reader(dtype: np.dtype[Any], axes: tuple[str, ...], plain: SchemaValidator) -> Callable[[Any], NDArray[Any]]:
    """`as_array` for one field, with a short way for what a body of bytes gives: an array that is right already."""
    rank, is_float = len(axes), dtype.kind == "f"

    def read(value: Any) -> NDArray[Any]:
        if type(value) is np.ndarray and value.dtype == dtype and value.ndim == rank and (rank == 1 or value.size):
            flags = value.flags
            if flags.c_contiguous and not flags.writeable and not (is_float and not all_finite(value)):
                return value
        return as_array(value, dtype, axes, plain)

    return read


def all_finite(array: NDArray[Any]) -> bool:
    """Whether no number is NaN or infinite. For few numbers, Python is quicker than one call of NumPy."""
    if array.size <= SMALL and math.isfinite(sum(array.ravel().tolist())):  # a sum that overflows says nothing
        return True
    return int(np.count_nonzero(np.isfinite(array))) == array.size


def extremes(array: NDArray[Any]) -> tuple[Any, Any]:
    """Least and greatest value of an array that is not empty."""
    if array.size <= SMALL:
        values = array.ravel().tolist()
        return min(values), max(values)
    return array.min(), array.max()


def array_schema(dtype: np.dtype[Any], axes: tuple[str, ...]) -> core_schema.CoreSchema:
    """How pydantic reads and writes an array of this dtype and these axes.

    JSON lists of one axis are checked while they are parsed. What that refuses is refused without its reason: a caller who
    wants it validates the parsed values again (`as_array`).
    """
    plain = _plain_lists(dtype, len(axes))
    read = core_schema.no_info_plain_validator_function(_reader(dtype, axes, SchemaValidator(plain)))
    from_json: core_schema.CoreSchema = read
    if len(axes) == 1:
        from_json = core_schema.no_info_after_validator_function(partial(_packed, dtype=dtype), plain)
    return core_schema.json_or_python_schema(
        from_json,
        read,
        serialization=core_schema.plain_serializer_function_ser_schema(np.ndarray.tolist, when_used="json"),
        metadata={"pydantic_js_functions": [partial(json_schema, dtype=dtype, axes=axes)]},
    )


def _packed(value: list[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A list of plain numbers as an array, in half the time that NumPy takes."""
    try:
        return np.frombuffer(struct.pack(f"{len(value)}{dtype.char}", *value), dtype)
    except (struct.error, OverflowError) as exc:
        raise ValueError(f"beyond the range of {dtype}") from exc


def _plain_lists(dtype: np.dtype[Any], ndim: int) -> core_schema.CoreSchema:
    """Nested lists of plain numbers that `dtype` holds, except for the range of integers; quicker than a look at each."""
    item: core_schema.CoreSchema = core_schema.int_schema(strict=True)
    if dtype.kind == "f":
        bound = float(np.finfo(dtype).max)
        item = core_schema.float_schema(strict=True, allow_inf_nan=False, ge=-bound, le=bound)
    elif dtype.kind == "b":
        item = core_schema.bool_schema(strict=True)
    for _ in range(ndim):
        item = core_schema.list_schema(item, strict=True, fail_fast=True, min_length=int(ndim > 1))
    return item


def _from_list(value: Sequence[Any], dtype: np.dtype[Any], axes: tuple[str, ...]) -> NDArray[Any]:
    """Check the type of every item, since NumPy would take a bool or a string for a number, and a long string for width."""
    shape = [len(value)]
    for _ in axes[1:]:
        if not all(isinstance(row, list | tuple | np.ndarray) for row in value):
            raise _refusal(dtype, axes, "numbers in place of lists")
        lengths = {len(row) for row in value}
        if len(lengths) != 1:
            raise _refusal(dtype, axes, "an empty or ragged list")
        shape.append(lengths.pop())
        value = list(chain.from_iterable(value))
    kinds = set(map(type, value))
    for kind in kinds:
        if not issubclass(kind, ITEM_TYPES[dtype.kind]) or (kind is bool and dtype.kind != "b"):
            raise _refusal(dtype, axes, f"a {kind.__name__} in the list")
    try:
        with np.errstate(over="ignore"):
            array = np.array(value, dtype) if kinds <= {int, float, bool} else _cast(np.array(value), dtype, axes)
    except OverflowError as exc:
        raise _refusal(dtype, axes, "values beyond its range") from exc
    return array.reshape(shape)


def _cast(array: NDArray[Any], dtype: np.dtype[Any], axes: tuple[str, ...]) -> NDArray[Any]:
    kinds = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}[dtype.kind]
    if array.dtype.kind not in kinds:
        raise _refusal(dtype, axes, f"dtype {array.dtype}")
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        if low < bounds.min or high > bounds.max:
            raise ValueError(must(f"{bounds.min} to {bounds.max}", Shown(f"values from {low} to {high}")))
    return cast


def _refusal(dtype: np.dtype[Any], axes: tuple[str, ...], shown: str) -> ValueError:
    return ValueError(must(declared(dtype, axes), Shown(shown)))


def declared(dtype: np.dtype[Any], axes: tuple[str, ...]) -> str:
    """For messages: ``int32 [tokens, k]``; an array of several axes has none that is empty."""
    return f"{dtype} [{', '.join(axes)}]" + (" without an empty axis" if len(axes) > 1 else "")


def json_schema(_schema: Any, _handler: Any, dtype: np.dtype[Any], axes: tuple[str, ...]) -> dict[str, Any]:
    item: dict[str, Any] = {"type": {"f": "number", "b": "boolean"}.get(dtype.kind, "integer")}
    if dtype.kind in "iu":
        item |= {"minimum": int(np.iinfo(dtype).min), "maximum": int(np.iinfo(dtype).max)}
    for _ in axes:
        item = {"type": "array", "items": item} | ({"minItems": 1} if len(axes) > 1 else {})
    return item | {"x-dtype": str(dtype), "x-axes": list(axes)}
