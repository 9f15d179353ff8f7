"""Measures of a simulated state: expectation, probability of the optimum, samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.compare import margin
from qstream.quantum.qaoa.statevector import Statevector


@dataclass(frozen=True, eq=False)
class Distribution:
    """Energies and probabilities of the basis states of one problem.

    Parameters
    ----------
    n
        Number of spins.
    offset
        Of the problem; `energies` are without it.
    energies, probabilities : float64 [N]
        Of all states, or of those with spin 0 at +1 where `mirrored`: then each stands for itself and its mirror image.
    """

    n: int
    offset: float
    mirrored: bool
    energies: NDArray[np.float64]
    probabilities: NDArray[np.float64]

    @cached_property
    def expectation(self) -> float:
        """The mean energy of a measurement."""
        return self.offset + float(self.probabilities @ self.energies)

    @cached_property
    def optimum(self) -> float:
        """The least energy of all states."""
        return self.offset + float(self.energies.min())

    @cached_property
    def optimal(self) -> NDArray[np.intp]:
        """The entries of least energy, up to rounding."""
        low, high = float(self.energies.min()), float(self.energies.max())
        return np.flatnonzero(self.energies <= low + margin(self.n, max(abs(low), abs(high))))

    @property
    def p_opt(self) -> float:
        """The probability that a measurement is optimal."""
        return float(self.probabilities[self.optimal].sum())

    @property
    def random_p_opt(self) -> float:
        """The probability that a uniformly random solution is optimal."""
        return self.optimal.size / self.energies.size

    def full(self) -> NDArray[np.float64]:
        """Probabilities [2^n] of all basis states, in index order."""
        if not self.mirrored:
            return self.probabilities
        return np.concatenate([self.probabilities, self.probabilities[::-1]]) / 2

    def sample(self, shots: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Measure `shots` times: distinct basis states by index, rising, and how often each was seen."""
        levels = np.cumsum(self.probabilities)
        found = np.searchsorted(levels, np.sort(rng.random(shots)) * levels[-1], side="right")
        index = np.minimum(found, levels.size - 1).astype(np.int64)
        if self.mirrored:
            index = np.where(rng.random(shots) < 0.5, index, (1 << self.n) - 1 - index)
        states, counts = np.unique(index, return_counts=True)
        return states, counts.astype(np.int64)


def distributions(state: Statevector) -> list[Distribution]:
    """The distribution of each problem of the state."""
    rows = zip(state.offsets.tolist(), state.energies, state.probabilities(), strict=True)
    return [Distribution(state.n, offset, state.mirrored, energies, p) for offset, energies, p in rows]
