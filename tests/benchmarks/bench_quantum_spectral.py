"""Spectral methods: accuracy and times of HHL and QSVT next to the classical twin. Single-thread wall-clock medians."""

from __future__ import annotations

import statistics
import time

import numpy as np

from qstream.quantum.spectral import hhl, qpe, qsvt
from qstream.quantum.spectral.chebyshev import fit_inverse
from qstream.quantum.spectral.qft import qft, qft_gates, run_gates
from qstream.quantum.spectral.qsp import phases, signal
from tests.benchmarks.clock import median_ms

Row = tuple[str, float, str, str]
System = tuple[np.ndarray, np.ndarray]

CLOSED_FORM = "simulated-spectral"

_SEEDS = 20


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    run_gates(qft_gates(range(2)), 2)  # imports PennyLane
    return [*transform_rows(), *hhl_rows(), *phase_rows(), *qsvt_rows(), *filter_rows()]


def transform_rows() -> list[Row]:
    state = np.ones(1 << 12) / 64
    gates = qft_gates(range(12))
    return [
        ("QFT, 12 qubits", median_ms(lambda: qft(state)), "ms", "-"),
        ("  its circuit", median_ms(lambda: run_gates(gates, 12), 3), "ms", "-"),
        ("QPE distribution, 8 qubits of clock", median_ms(lambda: qpe.clock_distribution(0.3, 8)), "ms", "-"),
    ]


def hhl_rows() -> list[Row]:
    """Relative errors over random symmetric positive definite systems; the circuit on the smallest."""
    result: list[Row] = []
    for size, kappa, target in ((4, 2, "<= 3"), (8, 10, "<= 3"), (16, 10, "<= 3"), (16, 50, "-")):
        for clock in (6, 8, 10, 12):
            errors = [
                hhl.solve(*_system(size, kappa, seed), clock=clock).record.relative_error
                for seed in range(_SEEDS)
                if clock >= 8 or kappa < 50
            ]
            if errors:
                name = f"HHL, N {size}, condition {kappa}, clock {clock}: relative error"
                result.append((f"{name}, mean", 100 * statistics.mean(errors), "%", "-"))
                result.append(("  worst of 20", 100 * max(errors), "%", target if clock == 8 else "-"))
    grid, small = _with_eigenvalues(np.array([1.0, 2, 4, 8]), 0), _system(4, 2, 0)
    eight = _system(16, 10, 0)
    record = hhl.solve(grid, np.ones(4), clock=8, unit=1 / 16).record
    return [
        *result,
        ("HHL, eigenvalues on the grid: relative error / 1e-10", record.relative_error / 1e-10, "", "<= 1"),
        ("HHL, N 16, condition 10, clock 8: success probability", hhl.solve(*eight).record.success_probability, "", "-"),
        ("HHL, N 16, clock 8", median_ms(lambda: hhl.solve(*eight)), "ms", "-"),
        ("  numpy.linalg.solve", median_ms(lambda: np.linalg.solve(*eight)), "ms", "-"),
        ("HHL circuit, N 4, clock 6 (9 qubits)", median_ms(lambda: hhl.solve_by_circuit(*small, clock=6), 3), "ms", "-"),
    ]


def phase_rows() -> list[Row]:
    result: list[Row] = []
    x = np.linspace(-1, 1, 1001)
    for kappa, degree in ((2, 15), (10, 79), (10, 149), (20, 299)):
        fit = fit_inverse(kappa, degree)
        start = time.perf_counter()
        angles = phases(fit.coefficients)
        wall_ms = (time.perf_counter() - start) * 1e3
        residual = np.abs(signal(angles, x).imag - fit(x)).max()
        result += [
            (f"QSP phases, inverse of condition {kappa}, degree {degree}, cold", wall_ms, "ms", "-"),
            ("  relative error of the fit", 100 * fit.error, "%", "-"),
            ("  residual of the phases / 1e-14", residual / 1e-14, "", "-"),
        ]
    return result


def qsvt_rows() -> list[Row]:
    result: list[Row] = []
    for size in (4, 8, 16):
        records = [qsvt.invert(*_system(size, 10, seed), degree=79).record for seed in range(_SEEDS)]
        system = _system(size, 10, 0)
        name = f"QSVT inverse, N {size}, condition 10, degree 79"
        result += [
            (f"{name}: relative error, worst of 20", 100 * max(record.relative_error for record in records), "%", "<= 0.2"),
            ("  success probability, mean", statistics.mean(record.success_probability for record in records), "", "-"),
            ("  by gates, polynomial and phases kept", median_ms(lambda s=system: qsvt.invert(*s, degree=79)), "ms", "<= 10"),
            ("  in closed form", median_ms(lambda s=system: qsvt.invert(*s, degree=79, execution=CLOSED_FORM)), "ms", "-"),
            ("  numpy.linalg.solve", median_ms(lambda s=system: np.linalg.solve(*s)), "ms", "-"),
        ]
    A, b = _system(8, 10, 0)  # noqa: N806
    program = qsvt.inverse_program(10.0, 79)
    contraction = A / np.linalg.norm(A, 2)
    circuit_ms = median_ms(lambda: qsvt.transform_by_circuit(contraction, b, program), 3)
    return [*result, ("QSVT circuit, N 8, degree 79 (5 qubits)", circuit_ms, "ms", "-")]


def filter_rows() -> list[Row]:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(64, 8)) @ rng.normal(size=(8, 64)) + 0.1 * rng.normal(size=(64, 64))
    record = qsvt.truncate(matrix, threshold=0.2, degree=80).record
    return [
        ("QSVT cut, 64 x 64 of rank 8 with noise, degree 80: distance from the hard cut", 100 * record.relative_error, "%", "-"),
        ("  success probability", record.success_probability, "", "-"),
        ("  by gates, phases kept", median_ms(lambda: qsvt.truncate(matrix, threshold=0.2, degree=80)), "ms", "-"),
        ("  cut by SVD", record.twin_ms, "ms", "-"),
    ]


def _with_eigenvalues(values: np.ndarray, seed: int) -> np.ndarray:
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))[0]
    product = (q * values) @ q.T
    return (product + product.T) / 2


def _system(size: int, kappa: float, seed: int) -> System:
    rng = np.random.default_rng(seed)
    values = np.r_[1 / kappa, 1, rng.uniform(1 / kappa, 1, size - 2)]
    return _with_eigenvalues(values, seed), rng.normal(size=size)
