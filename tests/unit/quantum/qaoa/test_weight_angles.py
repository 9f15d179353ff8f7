"""The generator of fixed-weight angles: its objective is what samples give, and it makes the stored table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qstream.quantum.qaoa.fixed_weight import weight_angles, weight_energies, weight_spins
from qstream.quantum.qaoa.weight_angles import PATH, SHOTS, SIZES, captured, differs, family, gaussian, generate, objective

TABLE = json.loads(PATH.read_text())
STARTS = pytest.mark.parametrize("start", ["warm", "uniform"])


def test_without_layers_the_share_is_that_of_uniform_draws() -> None:
    problems = family(8, 3)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(problems.energies), (4000, SHOTS))
    lowest = problems.energies[drawn].min(1)
    gains = np.maximum(problems.before - lowest, 0) / (problems.before - problems.energies.min(0))
    assert captured(problems, np.zeros(0), np.zeros(0), 0.0) == pytest.approx(gains.mean(), abs=0.01)
    assert captured(problems, np.full(1, 0.7), np.zeros(1), 0.0) == pytest.approx(gains.mean(), abs=0.01)


def test_swaps_are_those_from_the_incumbent() -> None:
    problems = family(8, 2)
    spins = weight_spins(8, 4)
    for column, before in zip(problems.energies.T, problems.before, strict=True):
        assert before > column.min()
    incumbent = spins[problems.swaps[:, 0].argmin()]
    np.testing.assert_array_equal(problems.swaps[:, 0], (spins != incumbent).sum(1) // 2)


@STARTS
def test_the_stored_values_are_those_of_the_stored_angles(start: str) -> None:
    families = [family(n) for n in SIZES]
    for row in TABLE[start]:
        angles = np.array([*([row["falloff"]] if start == "warm" else []), *row["gamma"], *row["beta"]])
        assert objective(families, angles, warm=start == "warm") == pytest.approx(row["value"], abs=1e-4)


@STARTS
def test_one_more_layer_captures_more(start: str) -> None:
    values = [row["value"] for row in TABLE[start]]
    assert values == sorted(values)
    assert values[1] > 0.98


def test_the_generator_makes_the_first_row_of_the_stored_table() -> None:
    made = generate(max_p=1, starts_of=["uniform"])
    assert differs(made, TABLE) == []
    made["uniform"][0]["value"] = 0.5
    assert len(differs(made, TABLE)) == 1


def test_no_step_from_the_stored_angles_of_a_warm_start_captures_more() -> None:
    families, row = [family(n) for n in SIZES], TABLE["warm"][0]
    stored = np.array([row["falloff"], *row["gamma"], *row["beta"]])
    for step in (*(0.05 * np.eye(3)), *(-0.05 * np.eye(3))):
        assert objective(families, stored + step, warm=True) < row["value"]


def test_the_table_serves_other_problems_than_those_of_the_search() -> None:
    energies = weight_energies(gaussian(10, np.random.default_rng(99)), 5)
    gammas, betas, falloff = weight_angles(2, float(energies.std()), warm=False)
    assert falloff == 0.0
    np.testing.assert_allclose(np.array(gammas) * energies.std(), TABLE["uniform"][1]["gamma"])
    assert betas == TABLE["uniform"][1]["beta"]
