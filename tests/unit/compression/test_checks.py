"""Circuits on samples: they agree with what is computed classically, and say that they were simulated."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.compression import CompressionOptions, RestoreOptions, compress, restore
from qstream.compression.checks import Check, cosines_by_qft, spectral_by_qsvt, weights_by_hhl
from qstream.compression.prune import System

CHECKED = RestoreOptions(qsvt=True, qft=True)


def test_the_polynomial_of_a_circuit_is_the_spectral_refiner() -> None:
    rng = np.random.default_rng(1)
    low = rng.standard_normal((80, 4)) @ rng.standard_normal((4, 70)) + 0.3 * rng.standard_normal((80, 70))
    found = spectral_by_qsvt(low, 0.3)
    assert found is not None
    assert found.difference < 1e-3
    assert found.execution == "simulated-gates"
    assert spectral_by_qsvt(low, 1.2) is None


def test_the_cosine_transform_is_that_of_the_quantum_fourier_transform() -> None:
    row = np.random.default_rng(2).standard_normal(64)
    found = cosines_by_qft(row)
    assert found is not None
    assert found.difference < 1e-12
    assert cosines_by_qft(row[:60]) is None


def test_restoring_reports_checks_and_what_was_not_needed() -> None:
    rng = np.random.default_rng(3)
    low = (rng.standard_normal((64, 3)) @ rng.standard_normal((3, 64))).astype(np.float32)
    done = compress(low, CompressionOptions(mode="gradient", table=False))
    found = {each.name: each for each in restore(done, CHECKED).refined}
    assert found["spectral"].reason is None
    assert found["qsvt"].difference == pytest.approx(0, abs=2e-3)
    assert found["qft"].reason == "not_needed"
    assert np.array_equal(restore(done, CHECKED).array, restore(done).array)


def test_cosines_travel_without_a_basis() -> None:
    t = np.arange(256, dtype=np.float32)
    rows = np.stack([np.cos(t * f / 40 + f) for f in range(1, 200)]).astype(np.float32)
    options = CompressionOptions(mode="bounded", bound_kind="l2", bound=0.03, table=False, spectral=False)
    done = compress(rows, options.changed({"transform": "fourier"}))
    assert done.payload_bytes < 0.7 * compress(rows, options).payload_bytes
    assert {part.name for part in done.header.parts} & {"basis", "scale"} == set()
    back = restore(done, CHECKED)
    assert np.linalg.norm(back.array - rows) <= 0.03 * np.linalg.norm(rows)
    assert next(each for each in back.refined if each.name == "qft").difference < 1e-12


@pytest.mark.parametrize("condition", [2.0, 7.0, 31.0])
def test_hhl_agrees_with_cholesky_the_better_the_smaller_the_condition(condition: float) -> None:
    rng = np.random.default_rng(4)
    axes = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    system = System((axes * np.geomspace(1, condition, 8)) @ axes.T, rng.standard_normal((8, 3)))
    found = weights_by_hhl([system], clock=8, max_condition=1e4)
    assert isinstance(found, Check)
    assert found.difference < condition / 2**8
    assert found.twin_difference < 1e-12
    assert found.detail["condition"] == pytest.approx(condition)
