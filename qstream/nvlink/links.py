"""Links: what shares of leaf-to-leaf traffic put on each uplink and downlink. Axes: leaves L, spines S; a path is a spine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def utilisation(share: Floats, demand: Floats, up_gb_s: Floats, down_gb_s: Floats) -> tuple[Floats, Floats]:
    """Load over capacity of uplinks [L, S] and of downlinks [S, L], for shares [L, L, S] of demand [L, L] in GB/s.

    A link without capacity is at 0 without load, else infinite.
    """
    flow = share * demand[:, :, None]
    return _over(flow.sum(axis=1), up_gb_s), _over(flow.sum(axis=0).T, down_gb_s)


def _over(load: Floats, capacity: Floats) -> Floats:
    used = np.where(load > 0, np.inf, 0.0)
    return np.divide(load, capacity, out=used, where=capacity > 0)


def fullest(share: Floats, demand: Floats, up_gb_s: Floats, down_gb_s: Floats) -> float:
    """Utilisation of the fullest link."""
    up, down = utilisation(share, demand, up_gb_s, down_gb_s)
    return float(max(up.max(), down.max()))


def narrowest(up_gb_s: Floats, down_gb_s: Floats) -> Floats:
    """Capacity of each path in GB/s, that of the narrower of its two links: [L, L, S]."""
    return np.asarray(np.minimum(up_gb_s[:, None, :], down_gb_s.T[None]))


def wcmp(up_gb_s: Floats, down_gb_s: Floats) -> Floats:
    """Weighted-cost multipath: shares [L, L, S] in proportion to the capacity of each path; even where no path is left.

    Zhou et al., "WCMP: weighted cost multipathing for improved fairness in data centers", EuroSys 2014.
    """
    narrow = narrowest(up_gb_s, down_gb_s)
    total = narrow.sum(axis=2, keepdims=True)
    return np.asarray(np.where(total > 0, narrow / np.where(total > 0, total, 1.0), 1.0 / narrow.shape[2]))
