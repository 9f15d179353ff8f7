"""Link counters as bytes per window: differences of readings, with resets detected and impossible readings refused."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from schemas.wording import Shown, must_be

SLACK: Final = 1.1  # clocks of the two readings differ by as much
# Fields of DCGM that look like counters: gauges in bytes/s, which some exporters publish as counters, and one of unclear unit.
GAUGES: Final = {1011: "DCGM_FI_PROF_NVLINK_TX_BYTES", 1012: "DCGM_FI_PROF_NVLINK_RX_BYTES"}
UNCLEAR: Final = {449: "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL"}


def moved_bytes(
    before: NDArray[np.integer], after: NDArray[np.integer], seconds: float, gb_s: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """What each link carried between two readings of its counter.

    Parameters
    ----------
    before, after : integers [links]
        Bytes that the counter showed at the two times; 2**64 - 1 where it showed nothing.
    seconds
        Time between the readings, above 0.
    gb_s : floats [links]
        Speed of each link, which no true difference exceeds by more than a tenth.

    Returns
    -------
    nbytes : int64 [links]
        The difference; after a reset, when the counter fell, what it has counted since. 0 where `known` is false.
    known : bool [links]
        Whether the counter showed something both times, and no more than the link can carry: more is another unit or link.

    Raises
    ------
    ProblemError
        No time between the readings, or columns of different length.
    """
    if not 0 < seconds < np.inf:
        raise ProblemError(must_be("seconds between readings", "above 0", seconds))
    if not len(before) == len(after) == len(gb_s):
        raise ProblemError(must_be("columns of counters", "as long as links", Shown(f"{len(before)}, {len(after)}, {len(gb_s)}")))
    first, last = np.asarray(before).astype(np.uint64), np.asarray(after).astype(np.uint64)
    missing = np.uint64(2**64 - 1)
    moved = np.where(last >= first, last - first, last)
    known = (first != missing) & (last != missing) & (moved <= np.asarray(gb_s, np.float64) * 1e9 * seconds * SLACK)
    return np.where(known, moved, np.uint64(0)).astype(np.int64), known


def gauge_bytes(bytes_s: NDArray[np.floating], seconds: float) -> NDArray[np.int64]:
    """Bytes of a window from gauges that show the mean of it in bytes/s, as DCGM's fields 1011 and 1012 do, int64 [links]."""
    values = np.asarray(bytes_s, np.float64)
    if not 0 < seconds < np.inf or not (np.isfinite(values) & (values >= 0)).all():
        raise ProblemError(must_be("gauges of links", "finite bytes/s, at least 0, over a time above 0", Shown(f"{seconds} s")))
    return np.rint(values * seconds).astype(np.int64)


def counts_bytes(field: int) -> bool:
    """Whether a field of DCGM counts bytes, and shows no mean (`gauge_bytes`); `ProblemError` where its unit is unclear."""
    if field in UNCLEAR:
        raise ProblemError(must_be("field of DCGM", "one whose unit is clear, such as 1011", f"{field} {UNCLEAR[field]}"))
    return field not in GAUGES
