"""Clock: the median time of a call."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def median_s(call: Callable[[], object], repeats: int = 9) -> float:
    """Median wall time of `call` in seconds, after one call that warms the caches."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def median_ms(call: Callable[[], object], repeats: int = 9) -> float:
    """The same in milliseconds."""
    return 1e3 * median_s(call, repeats)
