"""The plain 8-bit path: whole numbers from -127 to 127, with a scale for each tensor, row or group of 128."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Scale = Literal["tensor", "row", "group"]
GROUP: Final = 128
_LEVELS: Final = 127


def groups_of(shape: tuple[int, int], scale: Scale) -> tuple[int, int]:
    """How many scales a row has, and rows that have their own: [rows, scales]."""
    rows, columns = shape
    return (1, 1) if scale == "tensor" else (rows, 1) if scale == "row" else (rows, -(-columns // GROUP))


def quantise(x: NDArray[Any], scale: Scale) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(whole numbers [rows, columns], scales): the largest value of a group is 127. Values must be finite."""
    size = np.abs(x).astype(np.float32)
    if scale == "tensor":
        peak = size.max(initial=0).reshape(1, 1)
    elif scale == "row":
        peak = size.max(axis=1, initial=0)[:, None]
    else:
        pad = -x.shape[1] % GROUP
        peak = np.pad(size, ((0, 0), (0, pad))).reshape(len(x), -1, GROUP).max(axis=2, initial=0)
    scales = (peak / np.float32(_LEVELS)).astype(np.float32)
    unit = spread(np.where(scales > 0, scales, np.float32(1)), x.shape)
    return np.clip(np.rint(x / unit), -_LEVELS, _LEVELS).astype(np.int8), scales


def spread(scales: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The scale of each value, to be broadcast to [rows, columns]."""
    return scales if scales.shape[1] <= 1 else np.repeat(scales, GROUP, axis=1)[:, : shape[1]]


def restored(values: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values [rows, columns]."""
    return values.astype(np.float32) * spread(scales, values.shape)
