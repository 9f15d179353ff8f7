"""Types of values: their names, and arrays brought into one form, C-ordered little-endian bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from qstream.errors import BlockError
from schemas.wording import Shown, must_be

MAX_AXES: Final = 8
# What numpy knows, and what only ml_dtypes knows; the latter may also come as whole numbers of their size.
_EXTRA: Final = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
}
_PLAIN: Final = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_FLOATS: Final = ("float16", "float32", "float64")
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    **{name: np.dtype(name) for name in (*_PLAIN, *_FLOATS, "complex64", "complex128")},
    **_EXTRA,
}
_BITS: Final = {name: np.dtype(f"u{dtype.itemsize}") for name, dtype in DTYPES.items() if dtype.itemsize <= 8}
SPLIT: Final = (*_FLOATS, "bfloat16", "complex64", "complex128")  # whose exponents form a plane of their own
LOSSY: Final = (*_FLOATS, "bfloat16")  # whose values may be coded with an error
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """An array in one form, and what its user gave.

    Attributes
    ----------
    array
        C-ordered, little-endian, of the numpy type of `dtype`.
    as_bits
        The user gave whole numbers that are the bits of `dtype`, and gets whole numbers back.
    big_endian
        The user's array was big-endian.
    """

    array: NDArray[Any]
    dtype: str
    as_bits: bool = False
    big_endian: bool = False

    @property
    def raw(self) -> NDArray[np.uint8]:
        """The bytes, uint8 [nbytes]."""
        return self.array.reshape(-1).view(np.uint8)


def canonical(array: Any, dtype: str | None = None) -> Form:
    """Any array as C-ordered little-endian data, with the name of its type.

    Raises
    ------
    BlockError
        `dtype`: a type that is not known, or given bits of another size; `shape`: more than 8 axes.
    """
    given = np.asarray(array)
    if given.ndim > MAX_AXES:
        raise BlockError("shape", must_be("array", f"one of at most {MAX_AXES} axes", Shown(f"{given.ndim} axes")))
    order = given.dtype.byteorder
    big = order == ">" or (order == "=" and not np.little_endian)
    little = given.astype(given.dtype.newbyteorder("<")) if big else given
    whole = little.flags.c_contiguous and little.flags.aligned
    plain = little if whole else np.require(little, requirements=["C", "A"]).reshape(given.shape)
    own = _NAMES.get(plain.dtype)
    if dtype is None or dtype == own:
        if own is None:
            raise BlockError("dtype", must_be("dtype of the array", f"one of {', '.join(DTYPES)}", Shown(str(given.dtype))))
        return Form(plain, own, False, big)
    known = DTYPES.get(dtype)
    if known is None:
        raise BlockError("dtype", must_be("dtype", f"one of {', '.join(DTYPES)}", dtype))
    if dtype not in _EXTRA or plain.dtype != bits_of(dtype):
        allowed = f"{dtype} or {bits_of(dtype)}" if dtype in _EXTRA else dtype
        raise BlockError("dtype", must_be(f"array with dtype={dtype!r}", allowed, Shown(str(given.dtype))))
    return Form(plain.view(known), dtype, True, big)


def bits_of(dtype: str) -> np.dtype[Any]:
    """Whole numbers of the size of a type."""
    return _BITS[dtype]


def size_of(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor; `BlockError` for a type or shape that cannot be."""
    if dtype not in DTYPES:
        raise BlockError("dtype", must_be("dtype", f"one of {', '.join(DTYPES)}", dtype))
    if len(shape) > MAX_AXES or min(shape, default=0) < 0:
        raise BlockError("shape", must_be("shape", f"at most {MAX_AXES} numbers of 0 or more", tuple(shape)))
    return math.prod(shape) * DTYPES[dtype].itemsize


def given_back(raw: NDArray[np.uint8], dtype: str, shape: Sequence[int], *, as_bits: bool, big_endian: bool) -> NDArray[Any]:
    """The bytes as the array that the user gave."""
    array = raw.view(bits_of(dtype) if as_bits else DTYPES[dtype]).reshape(tuple(shape))
    return array.astype(array.dtype.newbyteorder(">")) if big_endian else array


def rows_of(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of the matrix view: all axes but the last, and the last."""
    if not shape:
        return 1, 1
    columns = shape[-1]
    return math.prod(shape[:-1]), columns


def as_floats(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Values as float32, or float64 where they are: what a lossy mode computes with."""
    if dtype == "float64":
        return array
    if dtype == "bfloat16":
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)


def from_floats(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Values in their own type again, rounded to nearest, ties to even."""
    if dtype == "bfloat16":
        return to_bfloat16(values).view(DTYPES["bfloat16"])
    if values.dtype == DTYPES[dtype]:
        return values
    with np.errstate(over="ignore"):
        return values.astype(DTYPES[dtype], copy=False)


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bits of the nearest bfloat16 of finite values."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)
