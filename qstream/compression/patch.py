"""Sparse patches: the values of a tensor that differ from its base, as inference engines write them into place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.compression.decode import restore
from qstream.compression.dtypes import bits_of, canonical
from qstream.compression.header import DeltaExponent, Xor
from qstream.errors import BlockError
from schemas.wording import must_be

_MOST: Final = 1 << 31  # values: indices are int32


@dataclass(frozen=True, slots=True, eq=False)
class SparsePatch:
    """New values of one tensor.

    Attributes
    ----------
    indices : int32 [changes]
        Into the flat tensor, rising.
    values : of the tensor's type [changes]
    full_shape
        Of the tensor.
    """

    name: str
    indices: NDArray[np.int32]
    values: NDArray[Any]
    full_shape: tuple[int, ...]


def sparse_patch(data: Any, base: ArrayLike) -> SparsePatch:
    """The patch of a delta on its base.

    Raises
    ------
    BlockError
        The data are no delta, damaged, or of another base.
    """
    done = restore(data, base=base)
    if not any(done.header.op(kind) for kind in (DeltaExponent, Xor)):
        raise BlockError("bad_frame", must_be("data", "coded in mode delta", done.header.mode))
    return patch_of(done.header.name, done.array, base, dtype=done.header.dtype if done.header.as_bits else None)


def patch_of(name: str, new: ArrayLike, base: ArrayLike, *, dtype: str | None = None) -> SparsePatch:
    """The patch from one tensor to another of the same type and shape."""
    after, before = canonical(new, dtype), canonical(base, dtype)
    if (after.dtype, after.array.shape) != (before.dtype, before.array.shape):
        raise BlockError("shape", must_be(f"base of {name!r}", f"{after.dtype} {after.array.shape}", before.array.shape))
    if after.array.size >= _MOST:
        raise BlockError("limit", must_be(f"tensor {name!r}", f"of fewer than {_MOST} values", after.array.size))
    bits = bits_of(after.dtype) if after.array.dtype.kind != "c" else after.array.dtype
    at = np.flatnonzero(after.array.reshape(-1).view(bits) != before.array.reshape(-1).view(bits))
    return SparsePatch(name, at.astype(np.int32), after.array.reshape(-1)[at], after.array.shape)
