"""Phases of transfers: in each, every port sends once and receives once at most; by rotation, or by matchings of most bytes."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Phases(NamedTuple):
    """Transfers, or parts of them, by phase."""

    src: Any  # int64 [transfers]
    dst: Any  # int64 [transfers]
    nbytes: Floats
    phase: Any  # int64 [transfers], rising

    def lengths_us(self, gb_s: float, startup_us: float) -> Floats:
        """How long each phase takes that waits for its longest transfer, float64 [phases]."""
        lengths = np.zeros(int(self.phase.max(initial=-1)) + 1)
        np.maximum.at(lengths, self.phase, self.nbytes / gb_s / 1e3 + startup_us)
        return lengths


def rotation(sent: Floats) -> Phases:
    """In phase s port i sends to i + s + 1: what libraries do. `sent` is float64 [n, n] with an empty diagonal."""
    n = len(sent)
    phase, src = (axis.ravel() for axis in np.mgrid[: n - 1, :n])
    dst = (src + phase + 1) % n
    some = sent[src, dst] > 0
    src, dst = src[some], dst[some]
    return Phases(src, dst, sent[src, dst], np.unique(phase[some], return_inverse=True)[1].ravel())


def matchings(sent: Floats, *, cut: float = 1.0, least: float = 0.0, most: int = 10_000) -> Phases | None:
    """Phases of most bytes, one after the other, each an assignment problem; None if there would be more than `most`.

    With `cut` below 1, the transfers of a phase end where that part of them ends, and what is left of the longer ones waits for
    another; a rest of up to `least` bytes is sent along.
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - costs 100 ms to load

    left, parts, phase = sent.copy(), [], 0
    while left.any():
        if phase == most:
            return None
        src, dst = linear_sum_assignment(left, maximize=True)
        some = left[src, dst] > 0
        src, dst = src[some], dst[some]
        size = left[src, dst]
        end = np.quantile(size, cut)
        size = np.where(size - end <= least, size, end)
        left[src, dst] -= size
        parts.append((src, dst, size, np.full(len(src), phase)))
        phase += 1
    return Phases(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def packed(phases: Phases, n: int, took_us: Floats) -> Floats:
    """The start of each transfer if ports keep the order of the phases, but wait for no other port, float64 [transfers]."""
    start, send_free, take_free = np.zeros(len(took_us)), np.zeros(n), np.zeros(n)
    ends = np.searchsorted(phases.phase, np.arange(int(phases.phase.max(initial=-1)) + 2))
    for a, b in itertools.pairwise(ends.tolist()):
        src, dst = phases.src[a:b], phases.dst[a:b]
        start[a:b] = np.maximum(send_free[src], take_free[dst])
        send_free[src] = take_free[dst] = start[a:b] + took_us[a:b]
    return start
