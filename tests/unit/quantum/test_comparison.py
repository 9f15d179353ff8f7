"""The comparison's problems are what they are called, and its figures are those of the problems."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from qstream.quantum.comparison import METHODS, Row, compare, cubic_maxcut, glass, partition, verdict


def test_the_families_are_what_they_are_called():
    rng = np.random.default_rng(0)
    assert np.count_nonzero(glass(6, rng).J) == 15
    cut = cubic_maxcut(8, rng)
    assert np.all((cut.symmetric() != 0).sum(0) == 3)
    assert cut.energy(np.ones(8)) == 0
    for spins in itertools.product((1, -1), repeat=4):
        numbers = np.random.default_rng(1).random(4)
        assert partition(4, np.random.default_rng(1)).energy(spins) == pytest.approx(float(numbers @ np.array(spins)) ** 2)


def test_random_solutions_have_the_mean_energy_and_deeper_circuits_a_better_one():
    ticks = itertools.count()
    rows = {(row.family, row.method): row for row in compare(8, 3, seed=1, shots=512, clock=lambda: next(ticks))}
    assert len(rows) == 3 * len(METHODS)
    for family in ("spin glass", "3-regular MaxCut"):
        assert rows[family, "exact"].hit == 1
        shallow, deep = rows[family, "qaoa p=1 tree"], rows[family, "qaoa p=32 ramp"]
        assert rows[family, "random"].ratio < shallow.ratio < deep.ratio
        assert rows[family, "random"].p_opt < shallow.p_opt < deep.p_opt
    assert all(row.ms == 1000 for row in rows.values())  # one tick of this clock


def test_the_verdict_counts_what_the_rows_say():
    rows = [
        Row("f", 8, "exact", False, 2.0, 1.0, None, 1.0),
        Row("f", 8, "qaoa p=1 tree", True, 1.0, 0.7, 0.1, 1.0),
        Row("f", 8, "qaoa p=3 tree", True, 8.0, 0.7, 0.1, 1.0),
    ]
    assert "Of 2 rows of simulated quantum methods 1 are faster" in verdict(rows)
    assert "0.5 to 4 times" in verdict(rows)
