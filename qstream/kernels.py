"""How kernels are compiled: one decorator, and a 64-bit mixer that they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_HALF = np.uint64(32)


def compiled(function: Function) -> Function:
    """Compile a kernel on first call, keep it on disk, release the GIL while it runs; IEEE order of operations is kept.

    Loops over elements compile several times faster than expressions of whole arrays, as ``a[g] += b[e] * c`` or ``a[:] = b``.
    A cached kernel does not notice a change in a kernel of another file that it calls: delete ``__pycache__`` then.
    """
    return cast(Function, njit(cache=True, nogil=True, error_model="numpy")(function))


@compiled
def mix64(x: Any) -> Any:
    """Finalizer of SplitMix64 (Steele, Lea, Flood 2014; constants by Stafford): a bijection of uint64."""
    x = (x ^ (x >> _SHIFTS[0])) * _MIX_1
    x = (x ^ (x >> _SHIFTS[1])) * _MIX_2
    return x ^ (x >> _SHIFTS[2])


@compiled
def below(x: Any, n: Any) -> Any:
    """Map the upper half of a random uint64 to 0..n-1 without a division (Lemire 2019), bias below n / 2**32."""
    return np.int64(((x >> _HALF) * np.uint64(n)) >> _HALF)
