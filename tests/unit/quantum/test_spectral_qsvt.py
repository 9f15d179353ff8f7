"""The singular-value transformation: gates against closed form, against PennyLane, and against the classical twins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pennylane as qml
import pytest

from qstream.errors import ProblemError
from qstream.quantum.spectral import qsvt
from qstream.quantum.spectral.chebyshev import fit_inverse
from qstream.quantum.spectral.matrices import unitary_dilation
from qstream.quantum.spectral.qsvt import (
    Program,
    compiled,
    filter_program,
    inverse_degree,
    inverse_program,
    invert,
    kappa_bucket,
    sign,
    sign_program,
    transform,
    transform_by_circuit,
    truncate,
)


def with_singular_values(values, seed: int = 0, *, imaginary: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    size = len(values)
    left, right = (
        np.linalg.qr(rng.normal(size=(size, size)) + 1j * imaginary * rng.normal(size=(size, size)))[0] for _ in range(2)
    )
    product = (left * values) @ right
    return product if imaginary else product.real


def of_condition(size: int, kappa: float, seed: int, *, imaginary: bool = False) -> np.ndarray:
    inner = np.random.default_rng(seed).uniform(1 / kappa, 1, size - 2)
    return with_singular_values(np.r_[1 / kappa, 1, inner], seed, imaginary=imaginary)


PROGRAMS = {
    "odd 13": lambda: inverse_program(2.0, 13),
    "odd 15": lambda: inverse_program(2.0, 15),
    "sign 21": lambda: sign_program(0.2, 21),
    "even 10": lambda: filter_program(0.4, 10),
    "even 12": lambda: filter_program(0.4, 12),
}


@pytest.fixture(params=PROGRAMS)
def program(request) -> Program:
    return PROGRAMS[request.param]()


def by_svd(matrix: np.ndarray, vectors: np.ndarray, program: Program) -> np.ndarray:
    left, values, right = np.linalg.svd(matrix)
    polynomial = np.polynomial.chebyshev.chebval(values, program.fit.coefficients)
    start = left if program.fit.degree % 2 else right.conj().T
    return start @ np.diag(polynomial) @ right @ vectors


@pytest.mark.parametrize("imaginary", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_the_gates_and_the_closed_form_apply_the_polynomial_to_the_singular_values(program, size, imaginary):
    matrix = with_singular_values(np.linspace(1, 0.05, size), size, imaginary=imaginary)
    vectors = np.random.default_rng(1).normal(size=(size, 2)) * (1 if size != 3 else 1j)
    expected = by_svd(matrix, vectors, program)
    for execution in ("simulated-gates", "simulated-spectral"):
        result = transform(matrix, vectors, program, execution)
        assert np.abs(result.solution - expected).max() < 1e-12
        probability = (np.linalg.norm(expected) / np.linalg.norm(vectors)) ** 2
        assert result.success_probability == pytest.approx(probability, abs=1e-12)
        one = transform(matrix, vectors[:, 0], program, execution)
        assert np.abs(one.solution - expected[:, 0]).max() < 1e-12


@pytest.mark.parametrize("imaginary", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("size", [2, 3])
def test_the_gates_are_the_circuit(program, size, imaginary):
    matrix = with_singular_values(np.linspace(1, 0.2, size), size, imaginary=imaginary)
    vector = np.arange(1.0, size + 1) * (1j if imaginary else 1)
    gates, circuit = transform(matrix, vector, program, "simulated-gates"), transform_by_circuit(matrix, vector, program)
    assert np.abs(gates.solution - circuit.solution).max() < 1e-12
    assert gates.success_probability == pytest.approx(circuit.success_probability, abs=1e-12)


def test_pennylane_s_own_transformation_of_a_low_degree_agrees():
    matrix = with_singular_values([0.9, 0.4], 2)
    symmetric = (matrix + matrix.T) / 2.5
    program = compiled(replace(fit := inverse_program(2.0, 9).fit, coefficients=fit.coefficients / 2))
    monomials = np.polynomial.chebyshev.cheb2poly(program.fit.coefficients)
    circuit = qml.matrix(qml.qsvt(symmetric, monomials, encoding_wires=[0, 1], block_encoding="embedding"), wire_order=[0, 1])
    ours = transform(symmetric, np.eye(2), program, "simulated-gates").solution
    assert np.abs(np.real(circuit[:2, :2]) - ours).max() < 1e-9


@pytest.mark.parametrize("imaginary", [False, True], ids=["real", "complex"])
def test_the_dilation_is_unitary_and_holds_the_matrix(imaginary):
    matrix = with_singular_values([1, 0.5, 0.0], 0, imaginary=imaginary)
    unitary = unitary_dilation(matrix)
    assert np.abs(unitary @ unitary.conj().T - np.eye(6)).max() < 1e-14
    assert np.array_equal(unitary[:3, :3], matrix)


@pytest.mark.parametrize("size", [4, 8, 16])
def test_a_condition_of_ten_is_inverted_to_two_thousandths_at_degree_79(size):
    for seed in range(10):
        matrix, right = of_condition(size, 10, seed), np.random.default_rng(seed).normal(size=size)
        record = invert(matrix, right, degree=79).record
        assert record.relative_error <= 2e-3
        assert record.queries == 79


@pytest.mark.parametrize(("kappa", "eps"), [(1.0, 1e-3), (1.2, 1e-6), (2.0, 1e-3), (3.7, 1e-12), (10.0, 1e-3), (25.0, 1e-4)])
def test_the_degree_for_eps_is_the_least(kappa, eps):
    degree = inverse_degree(kappa, eps)
    assert fit_inverse(kappa, degree).error <= eps
    assert degree == 1 or fit_inverse(kappa, degree - 2).error > eps


@pytest.mark.parametrize("eps", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("kappa", [1, 2, 7, 12])
def test_the_error_of_a_solution_stays_within_eps(kappa, eps):
    matrix = with_singular_values(np.geomspace(1 / kappa, 1, 6), 5) * 40
    answer = invert(matrix, np.arange(1.0, 7), eps=eps, execution="simulated-spectral")
    assert answer.record.relative_error <= eps * (1 + 1e-6)
    assert np.array_equal(answer.twin, np.linalg.solve(matrix, np.arange(1.0, 7)))


def test_solving_for_each_column_of_one_gives_the_inverse():
    matrix = of_condition(5, 3, 1, imaginary=True) * 7
    inverse = np.stack([invert(matrix, column, eps=1e-8).solution for column in np.eye(5)], axis=1)
    assert np.abs(inverse @ matrix - np.eye(5)).max() < 1e-7


def test_the_success_probability_is_the_norm_of_the_rescaled_solution():
    matrix, right = np.diag([1.0, 0.5]), np.array([0.6, 0.8])
    answer = invert(matrix, right, eps=1e-9)
    scale = inverse_program(kappa_bucket(2.0), inverse_degree(kappa_bucket(2.0), 1e-9)).fit.scale
    exact = (scale / kappa_bucket(2.0)) ** 2 * (0.6**2 + 1.6**2)
    assert answer.record.success_probability == pytest.approx(exact, rel=1e-6)


def test_a_polynomial_above_one_has_no_circuit():
    fit = inverse_program(10.0, 79).fit
    with pytest.raises(ProblemError, match=r"\|p\| up to"):
        compiled(replace(fit, coefficients=fit.coefficients / fit.scale))


def test_the_sign_of_a_regular_matrix_is_its_nearest_unitary():
    matrix = with_singular_values([1, 0.6, 0.3, 0.12], 4) * 3
    answer = sign(matrix, gap=0.1, degree=121)
    assert answer.record.relative_error < 1e-4
    assert answer.record.relative_residual < 2e-4
    assert np.abs(answer.twin @ answer.twin.T - np.eye(4)).max() < 1e-14
    distances = [np.linalg.norm(matrix - np.linalg.qr(np.random.default_rng(s).normal(size=(4, 4)))[0]) for s in range(50)]
    assert np.linalg.norm(matrix - answer.twin) < min(distances)


def test_the_sign_of_a_symmetric_matrix_projects_on_its_positive_part():
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    values = np.array([1, 0.5, -0.2, -0.9])
    answer = sign((vectors * values) @ vectors.T, gap=0.15, degree=121)
    assert np.abs(answer.solution - (vectors * np.sign(values)) @ vectors.T).max() < 1e-4


@pytest.mark.parametrize("shape", [(6, 6), (9, 5), (5, 9)])
@pytest.mark.parametrize("imaginary", [False, True], ids=["real", "complex"])
def test_a_cut_keeps_what_is_above_the_threshold_and_drops_the_rest(shape, imaginary):
    values = np.zeros(max(shape))
    values[:5] = [1, 0.8, 0.5, 0.1, 0.05]
    matrix = 3 * with_singular_values(values, 7, imaginary=imaginary)
    cut = matrix[: shape[0], : shape[1]]
    left, found, right = np.linalg.svd(cut, full_matrices=False)
    threshold = 0.3
    answers = [truncate(cut, threshold=threshold, degree=80, execution=e) for e in ("simulated-gates", "simulated-spectral")]
    factors = filter_program(threshold, 80).fit
    expected = (left * found * factors(found / found[0]) / factors.scale) @ right
    hard = (left * found * (found > threshold * found[0])) @ right
    for answer in answers:
        assert np.abs(answer.solution - expected).max() < 1e-11
        assert np.abs(answer.twin - hard).max() < 1e-13
        kept = np.sum((factors(found / found[0]) * found) ** 2) / np.sum(found**2)
        assert answer.record.success_probability == pytest.approx(kept, abs=1e-12)
        assert answer.record.relative_residual == pytest.approx(np.linalg.norm(expected - cut) / np.linalg.norm(cut))


def test_a_clear_gap_makes_soft_and_hard_cut_equal_and_singular_matrices_are_welcome():
    matrix = with_singular_values([1, 0.7, 0.05, 0, 0, 0], 3)
    record = truncate(matrix, threshold=0.3, degree=80).record
    assert record.relative_error < 1e-3
    assert record.condition > 1e12


def test_programs_are_kept_per_bucket_of_the_condition_and_within_a_bound():
    assert kappa_bucket(10.0) == kappa_bucket(8.0) == kappa_bucket(10.0 * (1 + 1e-9)) == 10.0
    assert kappa_bucket(1.0) == 1.0
    inverse_program.cache_clear()
    for seed, kappa in enumerate((8.1, 9.0, 10.0)):
        invert(of_condition(4, kappa, seed), np.ones(4), degree=79)
    assert inverse_program.cache_info()[:2] == (2, 1)
    for kappa in np.linspace(1, 2, qsvt.CACHED_PROGRAMS + 9):
        inverse_program(float(kappa), 3)
    assert inverse_program.cache_info().currsize == qsvt.CACHED_PROGRAMS


def test_the_record_says_that_it_is_simulated_and_what_it_cost():
    seconds = iter([0.0, 0.25, 1.25])
    record = invert(np.diag([2.0, 1, 1]), [1.0, 0, 1], degree=15, timer=lambda: next(seconds)).record
    found = record.as_dict()
    assert (found["label"], found["execution"], found["method"]) == ("simulated", "simulated-gates", "qsvt-inverse")
    assert (record.wall_ms, record.twin_ms, record.twin) == (250.0, 1000.0, "numpy.linalg.solve")
    assert (record.n_qubits, record.queries, record.condition) == (4, 15, pytest.approx(2))
    spectral = invert(np.diag([2.0, 1, 1]), [1.0, 0, 1], degree=15, execution="simulated-spectral").record
    assert "a classical solve also needs" in spectral.needs


EYE = [[1.0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("matrix", "right", "options", "named"),
    [
        ([[1.0, 2], [2, 4]], [1, 1], {}, "A must be a regular matrix"),
        ([[1.0, 2, 3], [4, 5, 6]], [1, 1], {}, "A must be .*got shape"),
        ([[1.0, np.nan], [0, 1]], [1, 1], {}, r"A\[0, 1\]"),
        (np.diag([1, 1e-4]), [1, 1], {}, "A must be of a condition number .*got 1e"),
        (EYE, [1, 1, 1], {}, "b must be .*got shape"),
        (EYE, [0, 0], {}, "b must be"),
        (EYE, [np.inf, 0], {}, r"b\[0\]"),
        (EYE, [1, 1], {"degree": 4}, "degree"),
        (EYE, [1, 1], {"degree": 0}, "degree"),
        (EYE, [1, 1], {"degree": 1001}, "degree"),
        (EYE, [1, 1], {"eps": 0.0}, "eps"),
        (EYE, [1, 1], {"eps": np.nan}, "eps"),
        (EYE, [1, 1], {"execution": "device"}, "execution"),
    ],
)
def test_hostile_systems_are_refused_by_the_name_of_the_field(matrix, right, options, named):
    with pytest.raises(ProblemError, match=named):
        invert(matrix, right, **options)


def test_hostile_matrices_and_settings_of_sign_and_cut_are_refused():
    for matrix in ([[np.nan]], [], [1.0], np.zeros((2, 2)), "x", np.ones((2, 1025))):
        with pytest.raises(ProblemError, match="A"):
            truncate(matrix)
        with pytest.raises(ProblemError, match="A"):
            sign(matrix)
    with pytest.raises(ProblemError, match=r"A must be .*got shape"):
        sign(np.ones((2, 3)))
    with pytest.raises(ProblemError, match="gap"):
        sign(EYE, gap=0.0)
    with pytest.raises(ProblemError, match="threshold"):
        truncate(EYE, threshold=1.0)
    with pytest.raises(ProblemError, match="degree"):
        truncate(EYE, degree=7)
    with pytest.raises(ProblemError, match=r"A must be of at most .* got 257"):
        sign(np.eye(257), degree=3)
    with pytest.raises(ProblemError, match="execution"):
        truncate(EYE, execution="classical")


def test_a_circuit_too_wide_to_simulate_is_refused():
    with pytest.raises(ProblemError, match=r"circuit must be .*got 15"):
        transform_by_circuit(np.eye(5000), np.ones(5000), sign_program(0.5, 3))
