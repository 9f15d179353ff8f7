"""Traffic that a caller gives: bytes between ends, and speeds, checked once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import array, real_number
from qstream.errors import ProblemError
from schemas.wording import must_be


def traffic_of(nbytes: ArrayLike, axes: str) -> NDArray[np.float64]:
    """The bytes as float64 with these axes; `ProblemError` with the place of the first that is not finite or below 0."""
    sent = array("nbytes", nbytes, np.float64, axes)
    wrong = np.argwhere(~(np.isfinite(sent) & (sent >= 0)))
    if len(wrong):
        at = tuple(wrong[0].tolist())
        raise ProblemError(must_be(f"nbytes{list(at)}", "finite and at least 0", float(sent[at])))
    return sent


def speed(name: str, gb_s: float) -> float:
    """A speed in GB/s; `ProblemError` that names it unless it is finite and above 0."""
    found = real_number(name, gb_s, 0.0)
    if found in (0.0, np.inf):
        raise ProblemError(must_be(name, "finite and above 0", gb_s))
    return found


def whole_bytes(nbytes: NDArray[np.float64], pair: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole bytes that add up to those of each pair, rounded; what is over goes to its largest part."""
    found = np.floor(nbytes).astype(np.int64)
    _, at = np.unique(pair, return_inverse=True)
    at = at.ravel()
    over = np.rint(np.bincount(at, nbytes)).astype(np.int64) - np.bincount(at, found).astype(np.int64)
    order = np.lexsort((-nbytes, at))
    found[order[np.append(True, np.diff(at[order]) != 0)]] += over
    return found
