"""HHL against its own circuit in PennyLane, against closed forms on the clock's grid, and within its error bars."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.quantum.spectral.hhl import solve, solve_by_circuit


def rotated(values, seed: int = 0) -> np.ndarray:
    """A real symmetric matrix with these eigenvalues."""
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))[0]
    product = (q * values) @ q.T
    return (product + product.T) / 2


def random_system(size: int, kappa: float, seed: int, *, signed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = np.r_[1 / kappa, 1, rng.uniform(1 / kappa, 1, size - 2)]
    if signed:
        values = values * rng.choice([-1, 1], size)
    return rotated(values, seed) * rng.uniform(0.1, 10), rng.normal(size=size)


GRIDS = [[1, 2, 4, 8], [3, 5], [1, 2, 3, 4, 5, 6, 7, 13], [5, 5, 15], [-1, 2, 5, -7], [-3, -1], [2, 2], [31, 30], [15, -15]]


@pytest.mark.parametrize("values", GRIDS, ids=str)
def test_eigenvalues_on_the_grid_are_inverted_exactly(values):
    matrix, right = rotated(values), np.arange(1.0, len(values) + 1)
    answer = solve(matrix, right, clock=5, unit=1.0)
    assert answer.record.relative_error < 1e-10
    assert answer.record.relative_residual < 1e-10
    assert np.array_equal(answer.twin, np.linalg.solve(matrix, right))


@pytest.mark.parametrize("values", [[1, 2, 4, 8], [0.7, 1.4, 2.1], [-1, 3, 5, -7]], ids=str)
def test_multiples_of_the_smallest_eigenvalue_lie_on_the_grid_by_default(values):
    assert solve(rotated(values), np.ones(len(values)), clock=5).record.relative_error < 1e-10


@pytest.mark.parametrize("unit", [1.1, 0.03, 0.0, -1.0, np.nan])
def test_a_unit_that_does_not_fit_the_spectrum_is_refused(unit):
    with pytest.raises(ProblemError, match="unit must be"):
        solve(rotated([1, 3]), [1.0, 2], clock=5, unit=unit)


def test_the_success_probability_on_the_grid_is_that_of_the_rotations():
    answer = solve(np.diag([1.0, 2, 4]), [3.0, 0, 4], clock=4)
    assert answer.record.success_probability == pytest.approx(0.36 * 1 + 0.64 / 16, abs=1e-12)


@pytest.mark.parametrize("size", [2, 4, 8, 16])
@pytest.mark.parametrize("kappa", [2, 5, 10])
def test_eight_qubits_of_clock_keep_three_per_cent_up_to_a_condition_of_ten(size, kappa):
    errors = [solve(*random_system(size, kappa, seed), clock=8).record.relative_error for seed in range(40)]
    assert max(errors) <= 0.03


def test_longer_clocks_are_better_on_average_down_to_a_thousandth():
    means = [
        np.mean([solve(*random_system(8, 10, seed), clock=clock).record.relative_error for seed in range(20)])
        for clock in (4, 6, 8, 10, 12)
    ]
    assert all(after < before for before, after in itertools.pairwise(means))
    assert means[-1] < 1e-3


def test_a_spectrum_of_both_signs_costs_one_qubit():
    errors = [solve(*random_system(8, 10, seed, signed=True), clock=9).record.relative_error for seed in range(40)]
    assert max(errors) <= 0.03


def complex_hermitian() -> np.ndarray:
    return np.array([[2, 1j], [-1j, 3.5]])


@pytest.mark.parametrize(
    ("matrix", "right", "clock"),
    [
        (rotated([1, 1.7]), [1.0, -2], 5),
        (rotated([0.3, 0.5, 0.9, 1.1]), [1.0, 0, 2, -1], 4),
        (rotated([-1, 1.3]), [1.0, 2], 5),
        (rotated([1, 1.5, 2.2]), [1.0, 2, 3], 4),
        (complex_hermitian(), [1.0, 1j], 4),
        (np.array([[1.0, 2], [-0.5, 1]]), [1.0, 3], 4),
        (np.array([[1.0, 2j], [-0.5, 1]]), [1j, 3], 4),
        (np.array([[3.0]]), [2.0], 2),
    ],
    ids=["positive", "four", "indefinite", "three", "complex", "general", "general complex", "one"],
)
def test_the_closed_form_is_the_circuit(matrix, right, clock):
    answer, circuit = solve(matrix, right, clock=clock), solve_by_circuit(matrix, right, clock=clock)
    assert np.abs(answer.solution - circuit.solution).max() < 1e-12
    assert answer.record.success_probability == pytest.approx(circuit.success_probability, abs=1e-12)


def test_a_general_matrix_is_solved_in_its_dilation():
    rng = np.random.default_rng(3)
    matrix = rotated([1, 2, 3, 5], 1) @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
    answer = solve(matrix, rng.normal(size=4), clock=9)
    assert answer.record.relative_error < 1e-10  # singular values 1, 2, 3, 5 lie on the grid
    assert answer.record.n_qubits == 1 + 9 + 3


def test_scaling_either_side_scales_the_solution():
    matrix, right = random_system(4, 5, 0)
    plain = solve(matrix, right).solution
    assert np.abs(solve(matrix * 1e6, right).solution * 1e6 - plain).max() < 1e-9 * np.abs(plain).max()
    assert np.abs(solve(matrix, right * -1e-6).solution * -1e6 - plain).max() < 1e-9 * np.abs(plain).max()


def test_a_clock_may_be_a_numpy_integer():
    assert solve(rotated([1, 2]), [1.0, 2], clock=np.int8(9)).record.as_dict()["n_qubits"] == 11


def test_real_systems_have_real_solutions():
    assert solve(*random_system(4, 5, 0)).solution.dtype == np.float64
    assert solve(complex_hermitian(), [1.0, 0]).solution.dtype == np.complex128


def test_the_record_says_that_it_is_simulated_and_what_it_cost():
    seconds = iter([10.0, 10.5, 10.75])
    record = solve(np.diag([1.0, 2]), [1.0, 1], clock=6, timer=lambda: next(seconds)).record
    found = record.as_dict()
    assert found["label"] == "simulated"
    assert found["execution"] == "simulated-spectral"
    assert "eigendecomposition a classical solve also needs" in found["needs"]
    assert (record.wall_ms, record.twin_ms, record.twin) == (500.0, 250.0, "numpy.linalg.solve")
    assert (record.n_qubits, record.queries, record.condition) == (1 + 6 + 1, 126, pytest.approx(2))


def test_a_clock_too_short_is_refused_and_the_length_it_names_is_the_least_that_works():
    matrix, right = random_system(4, 30, 0)
    for clock in range(1, 6):
        with pytest.raises(ProblemError, match=r"clock must be 6 or more qubits at the condition .*, got \d"):
            solve(matrix, right, clock=clock)
    assert solve(matrix, right, clock=6).record.relative_error < 0.2


EYE = [[1.0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("matrix", "right", "clock", "named"),
    [
        ([[1.0, 2], [2, 4]], [1, 1], 8, "A must be a regular matrix"),
        ([[1.0, 1], [1, 1 + 1e-16]], [1, 1], 8, "A must be a regular matrix"),
        ([[0.0, 1], [0, 0]], [1, 1], 8, "A must be a regular matrix"),
        (rotated([0, 1, 2], 3), [1, 1, 1], 8, "A must be a regular matrix"),
        (rotated([0, 1, 2], 4), [1, 1, 1], 8, "A must be a regular matrix"),
        ([[0.0, 0], [0, 0]], [1, 1], 8, "A must be a matrix with an entry"),
        ([[1.0, 2, 3], [4, 5, 6]], [1, 1], 8, "A must be .*got shape"),
        ([1.0, 2], [1, 1], 8, "A must be .*got shape"),
        (np.zeros((0, 0)), [], 8, "A must be .*got shape"),
        ([[1.0], [2, 3]], [1, 1], 8, "A must be an array of numbers"),
        ([[1.0, np.nan], [0, 1]], [1, 1], 8, r"A\[0, 1\]"),
        ([[1.0, np.inf], [0, 1]], [1, 1], 8, r"A\[0, 1\]"),
        ([[1e200, 0], [0, 1e200]], [1, 1], 8, "A must be of a largest entry"),
        ([["a", "b"], ["c", "d"]], [1, 1], 8, "A must be of numbers"),
        (np.array([[True, False], [False, True]]), [1, 1], 8, "A must be of numbers"),
        (np.eye(1025), np.ones(1025), 8, "A must be .*got shape"),
        (np.eye(1024), np.ones(1024), 13, "A must be of at most .* rows at clock 13, got 1024"),
        (EYE, [1, 1, 1], 8, "b must be .*got shape"),
        (EYE, [[1], [1]], 8, "b must be .*got shape"),
        (EYE, [0, 0], 8, "b must be"),
        (EYE, [1, -np.inf], 8, r"b\[1\]"),
        (EYE, [1e-200, 0], 8, "b must be of a largest entry"),
        (EYE, None, 8, "b must be of numbers"),
        (EYE, [1, 1], 0, "clock"),
        (EYE, [1, 1], 17, "clock"),
        (EYE, [1, 1], 8.0, "clock"),
    ],
)
def test_hostile_input_is_refused_by_the_name_of_its_field(matrix, right, clock, named):
    with pytest.raises(ProblemError, match=named):
        solve(matrix, right, clock=clock)


def test_a_circuit_too_wide_to_simulate_is_refused():
    with pytest.raises(ProblemError, match=r"circuit must be .*got 15"):
        solve_by_circuit(np.eye(64), np.ones(64), clock=8)
