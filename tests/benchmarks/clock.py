"""Clock: the median time of a call."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def median_s(call: Callable[[], object], repeats: int = 9, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median time of `call` in seconds by `clock`, wall time by default, after one call that warms the caches."""
    call()
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        times.append(clock() - start)
    return statistics.median(times)


def median_ms(call: Callable[[], object], repeats: int = 9) -> float:
    """Median wall time in milliseconds."""
    return 1e3 * median_s(call, repeats)


def cpu_ms(call: Callable[[], object], repeats: int = 5) -> float:
    """Median CPU time in milliseconds."""
    return 1e3 * median_s(call, repeats, time.process_time)
