"""Arrays that may be larger than the memory, a piece at a time: what a recorder has dumped lies on disk, mapped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.array_files import MAX_ENTRIES, check_size, numbers

PIECE_ENTRIES: Final = 1 << 22


def array_of(field: str, value: Any, axes: tuple[int, ...], *, least: int = 0) -> Any:
    """A list as an array of numbers from `least`; an array or tensor as it is, of that many axes, none of them empty.

    Raises
    ------
    ProblemError
        Its shape is wrong, or it is a view of more entries than lie on disk: a small file may describe a huge one.
    """
    if isinstance(value, list | tuple):
        return numbers(field, value, axes, least=least)
    shape = tuple(getattr(value, "shape", ()))
    if len(shape) not in axes or 0 in shape:
        numbers(field, value, axes, least=least)  # says what is wrong
    if not (is_small(shape) or _is_backed(value)):
        check_size(field, shape)
    return value


def is_small(shape: Sequence[int]) -> bool:
    """Whether an array of that shape may be held as a whole."""
    return math.prod(shape) <= MAX_ENTRIES


def pieces(field: str, value: Any, axis: int, *, least: int = 0) -> Iterator[NDArray[np.int64]]:
    """An array or tensor of `array_of` along one axis, in order, as whole numbers from `least`; `ProblemError` for others."""
    length = value.shape[axis]
    step = max(1, PIECE_ENTRIES * length // max(1, math.prod(value.shape)))
    before = (slice(None),) * axis
    for start in range(0, length, step):
        yield numbers(field, value[(*before, slice(start, start + step))], value.ndim, least=least)


def _is_backed(value: Any) -> bool:
    """Whether each entry has its own bytes."""
    if isinstance(value, np.ndarray):
        return all(stride for stride, size in zip(value.strides, value.shape, strict=True) if size > 1)
    try:
        return bool(value.untyped_storage().nbytes() >= value.numel() * value.element_size())
    except (AttributeError, RuntimeError, NotImplementedError):  # sparse, quantised
        return False
