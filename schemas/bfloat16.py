"""bfloat16: numbers that NumPy does not have, as their bits in uint16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even, of each float32; NaN stays NaN, what is too large becomes infinity.

    >>> to_bfloat16(np.array([1.0, -2.0, 3.14159], np.float32)).tolist()
    [16256, 49152, 16457]
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    quiet_nan = bits >> 16 | 0x40
    return np.where(bits & 0x7FFFFFFF > 0x7F800000, quiet_nan, rounded).astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 of each bfloat16, exactly.

    >>> from_bfloat16(np.array([16256, 49152], np.uint16)).tolist()
    [1.0, -2.0]
    """
    return (bits.astype(np.uint32) << 16).view(np.float32)
