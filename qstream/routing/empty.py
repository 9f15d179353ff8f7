"""Empty slots of a map, -1: an expert for each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def filled(load: NDArray[np.float64], old: NDArray[np.int64], gpus: int) -> NDArray[np.int64]:
    """A map int64 [L, P] with an expert in each empty slot, by `load` [L, E]: absent ones first, then the heaviest replicas.

    No GPU gets one that it has; other slots keep what they hold.
    """
    out = old.copy()
    experts, per_gpu = load.shape[1], old.shape[1] // gpus
    for row, weight in zip(out, load, strict=True):
        count = np.bincount(row[row >= 0], minlength=experts)
        for slot in np.flatnonzero(row < 0):
            worth = np.where(count == 0, weight + weight.sum() + 1.0, weight / np.maximum(count, 1))
            on_gpu = row[slot // per_gpu * per_gpu :][:per_gpu]
            worth[on_gpu[on_gpu >= 0]] = -1.0
            row[slot] = worth.argmax()
            count[row[slot]] += 1
    return out
