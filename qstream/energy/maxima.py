"""Analog maxima: how high the next h samples went after the moments of the past that were most like now."""

from __future__ import annotations

from typing import Any

import numpy as np

from qstream.kernels import compiled

_FADE = 4.0  # steps over which a difference between windows loses e-fold weight


@compiled
def analog_maxima(
    series: Any, first: Any, horizon: Any, length: Any, past: Any, nearest: Any, quantile: Any, highest: Any
) -> None:
    """Fill `highest` [T] from `first` on: the quantile of the maxima that followed the `nearest` windows of `length` samples that
    are most like the last ones, at least the last sample itself.

    Only windows of the last `past` samples count, and only such that ended at least `horizon` samples ago. With fewer than
    `nearest` of them all count; without any, the highest of the last `length` samples stands.
    """
    best, peak = np.empty(nearest), np.empty(nearest)
    distance = np.empty(past)
    for t in range(first, len(series)):
        highest[t] = series[t]
        begin, end = max(length - 1, t + 1 - past + length - 1), t - horizon
        if end < begin:
            for i in range(max(0, t + 1 - length), t):
                highest[t] = max(highest[t], series[i])
            continue
        for c in range(end + 1 - begin):
            distance[c] = 0.0
        for age in range(length):
            weight, now = np.exp(-age / _FADE), series[t - age]
            for c in range(end + 1 - begin):
                distance[c] += weight * abs(series[begin + c - age] - now)
        found = 0
        for back in range(end + 1 - begin):  # newest first: of equals, the newest count
            c = end - begin - back
            if found == nearest and distance[c] >= best[found - 1]:
                continue
            at = found if found < nearest else nearest - 1
            while at > 0 and best[at - 1] > distance[c]:
                best[at], peak[at] = best[at - 1], peak[at - 1]
                at -= 1
            top = series[begin + c + 1]
            for i in range(begin + c + 2, begin + c + 1 + horizon):
                top = max(top, series[i])
            best[at], peak[at] = distance[c], top
            found = min(found + 1, nearest)
        for k in range(1, found):  # ascending
            value, at = peak[k], k
            while at > 0 and peak[at - 1] > value:
                peak[at] = peak[at - 1]
                at -= 1
            peak[at] = value
        place = quantile * (found - 1)
        low = int(place)
        high = min(low + 1, found - 1)
        highest[t] = max(highest[t], peak[low] + (place - low) * (peak[high] - peak[low]))
