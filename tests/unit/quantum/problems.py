"""Problems: random ones of spins and of levels, the same for the same seed."""

from __future__ import annotations

import numpy as np

from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem


def glass(n: int, seed: int = 0) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n), 0.5)


def levels(sizes: tuple[int, ...], seed: int = 0) -> OneHotProblem:
    rng = np.random.default_rng(seed)
    pair = {(i, i + 1): rng.normal(size=(sizes[i], sizes[i + 1])) for i in range(len(sizes) - 1)}
    return OneHotProblem(sizes, tuple(rng.normal(size=k) for k in sizes), pair)
