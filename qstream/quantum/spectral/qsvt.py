"""The quantum singular-value transformation: polynomials of a matrix through its block encoding, simulated."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from qstream.errors import ProblemError
from qstream.quantum.spectral.answer import Clock, Run, Simulated, SpectralAnswer, relative, with_twin
from qstream.quantum.spectral.chebyshev import MAX_DEGREE, Fit, fit_filter, fit_inverse, fit_sign
from qstream.quantum.spectral.matrices import Array, condition, matrix, padded, qubits_for, unitary_dilation, vector
from qstream.quantum.spectral.qft import inverse_gates, run_gates
from qstream.quantum.spectral.qpe import check_circuit
from qstream.quantum.spectral.qsp import Phases, phases
from schemas.solver import Simulation
from schemas.wording import Shown, must_be

NEEDS: Final[dict[Simulation, str]] = {
    "simulated-gates": "needs the unitary dilation of A, from a singular-value decomposition",
    "simulated-spectral": "needs the singular-value decomposition a classical solve also needs",
}
CACHED_PROGRAMS: Final = 64
MAX_GATE_DIMENSION: Final = 256
MAX_CORRECTIONS: Final = 5


@dataclass(frozen=True, eq=False)
class Program:
    """A fitted polynomial and the circuit's phases [degree + 1], in the reflection form of the block encoding."""

    fit: Fit
    angles: Phases


def invert(
    A: ArrayLike,  # noqa: N803 the name of the field, as in A x = b
    b: ArrayLike,
    *,
    eps: float = 1e-3,
    degree: int | None = None,
    execution: Simulation = "simulated-gates",
    timer: Clock = time.perf_counter,
) -> SpectralAnswer:
    """Solve ``A x = b`` by an odd polynomial near ``1 / (kappa x)`` of A's singular values, next to ``numpy.linalg.solve``.

    The condition number is rounded up to one of ten steps a decade, so that polynomial and phases are kept for the next
    matrix. Source: Gilyen, Su, Low and Wiebe (2019).

    Parameters
    ----------
    A : float64 or complex128 [N, N]
        Regular, N <= 1,024, by gates 256.
    b : float64 or complex128 [N]
        Not zero.
    eps
        Largest relative error of the fit; it sets the degree, unless `degree` is given.
    degree
        Odd, up to 1,000.
    execution
        ``simulated-gates`` multiplies the circuit's unitaries, ``simulated-spectral`` applies the polynomial to the
        singular values; the answers differ by rounding only.
    timer
        Seconds, for the record's times.

    Raises
    ------
    ProblemError
        A is singular or not square, a shape is wrong, a number is not finite, or the condition number is too large for a
        degree of 1,000.
    """
    given = matrix("A", A)
    right = vector("b", b, len(given))

    def simulate() -> Run:
        values = np.linalg.svd(given, compute_uv=False)
        kappa, largest = condition("A", values), float(values[0])
        bucket = kappa_bucket(kappa)
        program = inverse_program(bucket, inverse_degree(bucket, eps) if degree is None else degree)
        applied = transform(given.conj().T / largest, right, program, execution)
        return _run(applied, bucket / (program.fit.scale * largest), program, len(given), kappa)

    return with_twin(
        simulate,
        lambda: np.linalg.solve(given, right),
        lambda x: relative(given @ x - right, right),
        method="qsvt-inverse",
        execution=execution,
        needs=_needs(execution),
        twin_name="numpy.linalg.solve",
        timer=timer,
    )


def sign(
    A: ArrayLike,  # noqa: N803
    *,
    gap: float = 0.1,
    degree: int = 61,
    execution: Simulation = "simulated-gates",
    timer: Clock = time.perf_counter,
) -> SpectralAnswer:
    """The unitary nearest to A, ``V W^+`` of ``A = V S W^+``, by an odd polynomial near the sign of its singular values.

    Exact up to the fit where every singular value is at least `gap` times the largest. Next to it stands the polar factor
    by SVD. `relative_residual` is ``|X X^+ - 1| / |1|``; the success probability is the mean over all states. `ProblemError`
    if A is not square, not finite or, by gates, above 256 rows, if gap is not within (0, 1), or if the degree is not odd.
    """
    given = matrix("A", A)
    program = sign_program(gap, degree)
    one = np.eye(len(given))

    def simulate() -> Run:
        values = np.linalg.svd(given, compute_uv=False)
        applied = transform(given / values[0], one, program, execution)
        return _run(applied, 1 / program.fit.scale, program, len(given), _ratio(values))

    def polar() -> Array:
        left, _, right = np.linalg.svd(given)
        product: Array = left @ right
        return product

    return with_twin(
        simulate,
        polar,
        lambda x: relative(x @ x.conj().T - one, one),
        method="qsvt-sign",
        execution=execution,
        needs=_needs(execution),
        twin_name="polar factor by SVD",
        timer=timer,
    )


def truncate(
    A: ArrayLike,  # noqa: N803
    *,
    threshold: float = 0.3,
    degree: int = 80,
    execution: Simulation = "simulated-gates",
    timer: Clock = time.perf_counter,
) -> SpectralAnswer:
    """A softly cut to low rank: each singular value s is multiplied by an even polynomial near ``s > threshold * s_max``.

    No singular value needs to be known to choose. Next to it stands the hard cut by SVD. The success probability is that of
    the filter on the amplitude-encoded matrix; `relative_residual` is ``|X - A| / |A|``, what was cut away.

    Parameters
    ----------
    A : float64 or complex128 [M, N]
        Need not be square nor of full rank; up to 1,024 rows and columns, by gates 256.
    threshold
        Part of the largest singular value, within (0, 1); the step is about 8 / degree wide.
    degree
        Even, up to 1,000.

    Raises
    ------
    ProblemError
        A is not a finite matrix, or threshold or degree is out of range.
    """
    given = matrix("A", A, square=False)
    program = filter_program(threshold, degree)
    rows, columns = given.shape
    size = max(rows, columns)

    def simulate() -> Run:
        values = np.linalg.svd(given, compute_uv=False)
        square = np.zeros((size, size), given.dtype)
        square[:rows, :columns] = given / values[0]
        applied = transform(square, square.conj().T, program, execution)
        cut = Simulated(applied.solution.conj().T[:rows, :columns], applied.success_probability)
        return _run(cut, values[0] / program.fit.scale, program, size, _ratio(values))

    def hard_cut() -> Array:
        left, values, right = np.linalg.svd(given, full_matrices=False)
        product: Array = (left * np.where(values > threshold * values[0], values, 0)) @ right
        return product

    return with_twin(
        simulate,
        hard_cut,
        lambda x: relative(x - given, given),
        method="qsvt-filter",
        execution=execution,
        needs=_needs(execution),
        twin_name="cut by SVD",
        timer=timer,
    )


def transform(contraction: Array, vectors: Array, program: Program, execution: Simulation) -> Simulated:
    """Apply the program's polynomial to the singular values of a matrix of norm 1 at most.

    For ``A = V S W^+``: ``V p(S) W^+`` of an odd, ``W p(S) W^+`` of an even polynomial, times `vectors` [N] or [N, K]. The
    success probability is that of the ancillas' post-selection on the normalised `vectors`.
    """
    _needs(execution)
    result = _BY_EXECUTION[execution](contraction, vectors, program)
    return Simulated(result, relative(result, vectors) ** 2)


def transform_by_circuit(contraction: Array, vector: Array, program: Program) -> Simulated:
    """`transform` of one vector [N] by PennyLane's simulation of the circuit: two ancillas, 14 qubits at most.

    The first ancilla, in |+>, chooses the sign of all phases at once and so takes the imaginary part; the second is that
    of the block encoding.
    """
    import pennylane as qml  # noqa: PLC0415 slow, and an extra

    size, system = len(contraction), qubits_for(len(contraction))
    check_circuit(2 + system)
    degree = program.fit.degree
    state = np.zeros(1 << system, vector.dtype)
    state[:size] = vector / np.linalg.norm(vector)
    wires = list(range(1, 2 + system))
    encoding = qml.QubitUnitary(unitary_dilation(padded(contraction, 1.0)), wires=wires)
    forth_and_back = (encoding, *inverse_gates([encoding]))
    gates: list[Any] = [qml.StatePrep(state, wires=wires[1:]), qml.Hadamard(0)]
    for k in range(degree, -1, -1):
        gates.append(qml.IsingZZ(-2 * program.angles[k], wires=[0, 1]))  # exp(i angle Z Z)
        if k:
            gates.append(forth_and_back[(degree - k) % 2])
    gates.append(qml.Hadamard(0))
    # The branches are i^-d (P, (-1)^d conj P): their sum or difference is the imaginary part, up to a phase of the whole.
    chosen = run_gates(gates, 2 + system).reshape(2, 2, -1)[1 - degree % 2, 0, :size]
    result = chosen * (1j**degree / 1j) * np.linalg.norm(vector)
    return Simulated(result, relative(result, vector) ** 2)


def compiled(fit: Fit) -> Program:
    """The phases of a fit; `ProblemError` if it exceeds 1, see `phases`.

    They are those for reflections ``R = [[x, s], [s, -x]]``: ``W = i e^{-i pi/4 Z} R e^{-i pi/4 Z}``, and the factor i^degree
    stays outside.
    """
    angles = phases(fit.coefficients) - np.pi / 2
    angles[[0, -1]] += np.pi / 4
    return Program(fit, angles)


@lru_cache(maxsize=CACHED_PROGRAMS)
def inverse_program(kappa: float, degree: int) -> Program:
    """Fit and phases of `fit_inverse`; the last 64 are kept."""
    return compiled(fit_inverse(kappa, degree))


@lru_cache(maxsize=CACHED_PROGRAMS)
def sign_program(gap: float, degree: int) -> Program:
    """Fit and phases of `fit_sign`; the last 64 are kept."""
    return compiled(fit_sign(gap, degree))


@lru_cache(maxsize=CACHED_PROGRAMS)
def filter_program(threshold: float, degree: int) -> Program:
    """Fit and phases of `fit_filter`; the last 64 are kept."""
    return compiled(fit_filter(threshold, degree))


@lru_cache(maxsize=CACHED_PROGRAMS)
def inverse_degree(kappa: float, eps: float) -> int:
    """An odd degree, the least or near it, at which `fit_inverse` is within `eps`; `ProblemError` if above 1,000."""
    if not 1e-12 <= eps < 1:
        raise ProblemError(must_be("eps", "from 1e-12 to below 1", eps))
    if kappa == 1:
        return 1
    # The error falls as 2.6 ((kappa - 1) / (kappa + 1))^(degree / 2), the 2.6 being a fit.
    decay = math.log((kappa + 1) / (kappa - 1)) / 2
    following, found, degree = math.log(2.6 / eps) / decay, 0, 0
    for _ in range(MAX_CORRECTIONS if following < 1.1 * MAX_DEGREE else 0):
        before, degree = degree, 2 * (min(max(1, int(following)), MAX_DEGREE - 1) // 2) + 1
        if degree == before:
            break
        error = max(fit_inverse(kappa, degree).error, 1e-16)
        found = degree if error <= eps else found
        following = degree + 2 * math.ceil(math.log(error / eps) / decay / 2)
    if not found:
        raise ProblemError(
            must_be("A", f"of a condition number that eps {eps} allows at a degree up to {MAX_DEGREE}", Shown(f"{kappa:.4g}"))
        )
    return found


def kappa_bucket(kappa: float) -> float:
    """The least ``10^(n / 10)`` at or above a condition number, up to rounding."""
    return float(10 ** (math.ceil(10 * math.log10(kappa) - 1e-6) / 10))


def _by_gates(contraction: Array, vectors: Array, program: Program) -> Array:
    """The circuit's unitaries one after the other, on both branches of the sign ancilla at once."""
    size, degree = len(contraction), program.fit.degree
    if size > MAX_GATE_DIMENSION:
        raise ProblemError(
            must_be(
                "A",
                f"of at most {MAX_GATE_DIMENSION} rows and columns with execution 'simulated-gates'",
                Shown(f"{size} rows or columns"),
            )
        )
    encoding = unitary_dilation(contraction)
    forth_and_back = (encoding, np.ascontiguousarray(encoding.conj().T))
    columns = vectors.reshape(size, -1)
    count = columns.shape[1]
    real = np.isrealobj(contraction) and np.isrealobj(vectors)
    signs = (1,) if real else (1, -1)  # of real numbers the second branch is the conjugate of the first
    state = np.zeros((2 * size, len(signs) * count), np.complex128)
    state[:size] = np.tile(columns, len(signs))
    turns = np.repeat(np.exp(1j * np.outer(program.angles, signs)), count, axis=1)
    for k in range(degree, -1, -1):
        state[:size] *= turns[k]
        state[size:] *= turns[k].conj()
        if k:
            state = _product(forth_and_back[(degree - k) % 2], state)
    plus, minus = 1j**degree * state[:size, :count], (-1j) ** degree * state[:size, count:]
    result: Array = plus.imag if real else (plus - minus) / 2j
    return result.reshape(vectors.shape)


def _product(unitary: Array, state: Array) -> Array:
    """``unitary @ state``; a real unitary acts on real and imaginary parts as on columns of their own."""
    if np.iscomplexobj(unitary):
        return unitary @ state
    product: Array = (unitary @ state.view(np.float64)).view(np.complex128)
    return product


def _by_singular_values(contraction: Array, vectors: Array, program: Program) -> Array:
    left, values, right = np.linalg.svd(contraction)
    out = left if program.fit.degree % 2 else right.conj().T
    factors = program.fit(np.clip(values, 0, 1)).reshape(-1, *[1] * (vectors.ndim - 1))
    result: Array = out @ (factors * (right @ vectors))
    return result


_BY_EXECUTION: Final[dict[Simulation, Callable[[Array, Array, Program], Array]]] = {
    "simulated-gates": _by_gates,
    "simulated-spectral": _by_singular_values,
}


def _ratio(values: Array) -> float:
    return float(values[0] / values[-1]) if values[-1] > 0 else math.inf


def _run(applied: Simulated, factor: float, program: Program, size: int, kappa: float) -> Run:
    """The record of a transformation of a matrix of that size, its outcome rescaled by `factor`."""
    rescaled = Simulated(applied.solution * factor, applied.success_probability)
    return Run(rescaled, n_qubits=2 + qubits_for(size), queries=program.fit.degree, condition=kappa)


def _needs(execution: Simulation) -> str:
    if execution not in NEEDS:
        raise ProblemError(must_be("execution", f"one of {', '.join(sorted(NEEDS))}", execution))
    return NEEDS[execution]
