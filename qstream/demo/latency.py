"""Latencies of a demo's answers in two numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def percentiles(took_ms: Sequence[float]) -> dict[str, float | None]:
    """The median and the 99th percentile of milliseconds; None where nothing was answered."""
    p50, p99 = np.percentile(took_ms, [50, 99]).tolist() if len(took_ms) else (None, None)
    return {"p50": p50, "p99": p99}
