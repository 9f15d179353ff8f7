"""Windows of a counter add up to what it counted, over resets too, and what cannot be true is not known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.nvlink.counters import counts_bytes, gauge_bytes, moved_bytes

NONE = 2**64 - 1


def test_differences_know_resets_missing_readings_and_impossible_ones():
    before = np.array([100, 500, NONE, 7, 0, 2**63], np.uint64)
    after = np.array([350, 40, 9, NONE, 10**12, 2**63 + 5], np.uint64)
    nbytes, known = moved_bytes(before, after, 1.0, np.full(6, 50.0))
    assert nbytes.tolist() == [250, 40, 0, 0, 0, 5]
    assert known.tolist() == [True, True, False, False, False, True]
    assert (nbytes.dtype, known.dtype) == (np.int64, np.bool_)


def test_windows_add_up_to_the_whole():
    readings = np.cumsum(np.random.default_rng(3).integers(0, 10**9, (20, 4)), 0).astype(np.uint64)
    gb_s = np.full(4, 50.0)
    windows = sum(moved_bytes(a, b, 0.25, gb_s)[0] for a, b in itertools.pairwise(readings))
    np.testing.assert_array_equal(windows, moved_bytes(readings[0], readings[-1], 5.0, gb_s)[0])


def test_gauges_are_no_counters_and_an_unclear_field_is_refused():
    assert counts_bytes(1040)
    assert not counts_bytes(1011)
    assert gauge_bytes(np.array([1e9, 0.0]), 0.25).tolist() == [250_000_000, 0]
    with pytest.raises(ProblemError, match="field of DCGM must be one whose unit is clear"):
        counts_bytes(449)
    with pytest.raises(ProblemError, match="seconds between readings must be above 0, got 0"):
        moved_bytes(np.zeros(1, np.uint64), np.zeros(1, np.uint64), 0, np.ones(1))
    with pytest.raises(ProblemError, match="columns of counters must be as long as links, got 1, 2, 1"):
        moved_bytes(np.zeros(1, np.uint64), np.zeros(2, np.uint64), 1.0, np.ones(1))
    with pytest.raises(ProblemError, match="gauges of links must be finite"):
        gauge_bytes(np.array([np.nan]), 1.0)
