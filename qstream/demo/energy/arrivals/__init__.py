"""Arrivals: real requests to a conversation service, second by second; their source and licence are in the README."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

FILE: Final = Path(__file__).with_name("azure_conv_2023.npz")
SERVED_S: Final = 10  # that a request is served for, about


@dataclass(frozen=True, slots=True, eq=False)
class Arrivals:
    """Requests, and tokens generated for them, of each second: int64 [seconds] each."""

    requests: NDArray[np.int64]
    generated_tokens: NDArray[np.int64]

    @property
    def seconds(self) -> int:
        return len(self.requests)

    def load(self) -> NDArray[np.float64]:
        """Demand at each second over the highest, float64 [seconds]: tokens of the requests of the last `SERVED_S` seconds."""
        total = np.concatenate(([0.0], np.cumsum(self.generated_tokens)))
        end = np.arange(1, self.seconds + 1)
        served = total[end] - total[np.maximum(end - SERVED_S, 0)]
        found: NDArray[np.float64] = served / served.max()
        return found


@lru_cache(maxsize=1)
def bundled() -> Arrivals:
    """The arrivals that come with the package."""
    with np.load(FILE) as stored:
        return Arrivals(stored["requests"].astype(np.int64), stored["generated_tokens"].astype(np.int64))
