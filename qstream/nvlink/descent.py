"""Descent: shares that keep the fullest link low over several demands, by gradient steps on logits from WCMP."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.kernels import compiled
from qstream.nvlink.links import fullest

Floats = NDArray[np.float64]
STEPS: Final = 40
RATE: Final = 0.08  # of Adam
SHARPNESS: Final = 60.0  # of the smooth maximum, over WCMP's own
STAY: Final = 0.05  # weight of the divergence from WCMP: what is not known of the next window
_TINY: Final = 1e-12


def descend(base: Floats, demands: Floats, up_gb_s: Floats, down_gb_s: Floats) -> Floats:
    """Return shares float64 [L, L, S] from `base` (WCMP's), for demands [R, L, L] that are equally likely.

    The objective is the mean over the demands of the log-sum-exp of all utilisations over those of WCMP's fullest link, plus
    `STAY` times the Kullback-Leibler divergence from `base`, averaged over pairs. Steps are counted, not timed: the same
    arrays give the same bytes. Paths without a share in `base` stay without.
    """
    scale = np.array([fullest(base, demand, up_gb_s, down_gb_s) for demand in demands])
    kept = (scale > 0) & np.isfinite(scale)
    if not kept.any():
        return base
    share = np.empty_like(base)
    safe_up, safe_down = np.maximum(up_gb_s, _TINY), np.maximum(down_gb_s, _TINY)
    _descend(base, np.ascontiguousarray(demands[kept]), scale[kept], safe_up, safe_down, share)
    return share


@compiled
def _descend(base: Any, demands: Any, scale: Any, up: Any, down: Any, share: Any) -> None:
    """Adam (Kingma, Ba 2015) on the logits; fills `share`."""
    leaves, spines = up.shape
    theta, first, second = np.empty(base.shape), np.zeros(base.shape), np.zeros(base.shape)
    for i in range(leaves):
        for j in range(leaves):
            for s in range(spines):
                theta[i, j, s] = np.log(max(base[i, j, s], _TINY))
    slope = np.empty(base.shape)
    on_up, on_down = np.empty(up.shape), np.empty(down.shape)
    decay_1, decay_2 = 1.0, 1.0
    _softmax(theta, base, share)
    for _ in range(STEPS):
        for i in range(leaves):
            for j in range(leaves):
                for s in range(spines):
                    ratio = max(share[i, j, s], _TINY) / max(base[i, j, s], _TINY)
                    slope[i, j, s] = STAY * (np.log(ratio) + 1)
        for r in range(len(demands)):
            _pressure(share, demands[r], scale[r], len(demands), up, down, on_up, on_down)
            for i in range(leaves):
                for j in range(leaves):
                    for s in range(spines):
                        slope[i, j, s] += demands[r, i, j] * (on_up[i, s] + on_down[s, j])
        decay_1 *= 0.9
        decay_2 *= 0.999
        for i in range(leaves):
            for j in range(leaves):
                mean = 0.0
                for s in range(spines):
                    mean += share[i, j, s] * slope[i, j, s]
                for s in range(spines):
                    g = share[i, j, s] * (slope[i, j, s] - mean)
                    first[i, j, s] = 0.9 * first[i, j, s] + 0.1 * g
                    second[i, j, s] = 0.999 * second[i, j, s] + 0.001 * g * g
                    step = first[i, j, s] / (1 - decay_1) / (np.sqrt(second[i, j, s] / (1 - decay_2)) + 1e-9)
                    theta[i, j, s] -= RATE * step
        _softmax(theta, base, share)


@compiled
def _softmax(theta: Any, base: Any, share: Any) -> None:
    """Shares of the logits, 0 where `base` has none."""
    leaves, _, spines = theta.shape
    for i in range(leaves):
        for j in range(leaves):
            high, total = theta[i, j, 0], 0.0
            for s in range(spines):
                high = max(high, theta[i, j, s])
            for s in range(spines):
                share[i, j, s] = np.exp(theta[i, j, s] - high) if base[i, j, s] > 0 else 0.0
                total += share[i, j, s]
            for s in range(spines):
                share[i, j, s] /= total


@compiled
def _pressure(share: Any, demand: Any, scale: Any, among: Any, up: Any, down: Any, on_up: Any, on_down: Any) -> None:
    """Fill the slope of the smooth maximum, for one GB/s more on each uplink and downlink."""
    leaves, spines = up.shape
    for i in range(leaves):
        for s in range(spines):
            on_up[i, s] = 0.0
            on_down[s, i] = 0.0
    for i in range(leaves):
        for j in range(leaves):
            for s in range(spines):
                flow = demand[i, j] * share[i, j, s]
                on_up[i, s] += flow
                on_down[s, j] += flow
    most, total = 0.0, 0.0
    for i in range(leaves):
        for s in range(spines):
            on_up[i, s] /= up[i, s] * scale
            on_down[s, i] /= down[s, i] * scale
            most = max(most, on_up[i, s], on_down[s, i])
    for i in range(leaves):
        for s in range(spines):
            on_up[i, s] = np.exp(SHARPNESS * (on_up[i, s] - most))
            on_down[s, i] = np.exp(SHARPNESS * (on_down[s, i] - most))
            total += on_up[i, s] + on_down[s, i]
    for i in range(leaves):
        for s in range(spines):
            on_up[i, s] /= total * among * up[i, s] * scale
            on_down[s, i] /= total * among * down[s, i] * scale
