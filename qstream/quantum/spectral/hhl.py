"""HHL: linear systems by phase estimation, simulated eigenvalue by eigenvalue, and its circuit."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from qstream.quantum.spectral.answer import Clock, Run, Simulated, SpectralAnswer, relative, with_twin
from qstream.quantum.spectral.matrices import (
    Array,
    condition,
    hermitian_dilation,
    is_hermitian,
    matrix,
    padded,
    qubits_for,
    vector,
)
from qstream.quantum.spectral.qft import inverse_gates, run_gates
from qstream.quantum.spectral.qpe import check_circuit, checked_clock, clock_distribution, clock_gates
from schemas.wording import Shown, must_be

NEEDS: Final = "needs the eigendecomposition a classical solve also needs"
MAX_AMPLITUDES: Final = 1 << 22
_GUARD = 8


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A Hermitian matrix as the clock sees it.

    Eigenvectors [N, N], the `phases` [N] of their eigenvalues in turns on a clock of ``M = 2^clock`` values, and for each
    value k of the clock the amplitude `rotation` [M] that the ancilla is turned to: ``k_min / k``, at most 1 in size and 0
    at k = 0, where k_min stands for the eigenvalue `constant`, the largest value of the clock that no eigenvalue is below.
    With a negative eigenvalue the upper half of the clock counts as negative.
    """

    vectors: Array
    phases: NDArray[np.float64]
    rotation: NDArray[np.float64]
    constant: float
    condition: float


def solve(
    A: ArrayLike,  # noqa: N803 the name of the field, as in A x = b
    b: ArrayLike,
    *,
    clock: int = 8,
    unit: float | None = None,
    timer: Clock = time.perf_counter,
) -> SpectralAnswer:
    """Solve ``A x = b`` as a noiseless HHL circuit would, next to ``numpy.linalg.solve``.

    A matrix that is not Hermitian is solved in its Hermitian dilation, of twice the size. The clock's uncompute and
    post-selection leave each eigenvector with the factor ``f(phase) = sum_k P(k | phase) k_min / k``. Source: Harrow,
    Hassidim and Lloyd (2009), with uniform clock amplitudes.

    Parameters
    ----------
    A : float64 or complex128 [N, N]
        Regular, N <= 1,024.
    b : float64 or complex128 [N]
        Not zero.
    clock : int
        Qubits of the clock register. Three more than log2(condition) give about one per cent; a spectrum of both signs
        takes one more for the sign.
    unit
        The eigenvalue that one step of the clock stands for, ``2 pi / (2^clock t)`` at evolution time t. By default such
        that the smallest eigenvalue in size, where an error weighs most, lies on a value of the clock, and an eighth of the
        clock stays free above the largest, so that no tail wraps round into small or opposite values.
    timer
        Seconds, for the record's times.

    Raises
    ------
    ProblemError
        A is singular or not square, a shape is wrong, a number is not finite, the clock is too short for the condition, or
        the unit does not fit the spectrum.
    """
    given = matrix("A", A)
    right = vector("b", b, len(given))
    clock = checked_clock(clock)
    return with_twin(
        lambda: _simulate(given, right, clock, unit),
        lambda: np.linalg.solve(given, right),
        lambda x: relative(given @ x - right, right),
        method="hhl",
        execution="simulated-spectral",
        needs=NEEDS,
        twin_name="numpy.linalg.solve",
        timer=timer,
    )


def spectrum_on_clock(hermitian: Array, clock: int, unit: float | None = None) -> Spectrum:
    """Place the eigenvalues of a Hermitian matrix on a clock; errors as of `solve`."""
    if len(hermitian) << clock > MAX_AMPLITUDES:
        allowed = MAX_AMPLITUDES >> clock
        raise ProblemError(
            must_be("A", f"of at most {allowed} rows at clock {clock}", Shown(f"{len(hermitian)} rows with its dilation"))
        )
    values, vectors = np.linalg.eigh(hermitian)
    sizes, signed = np.abs(values), bool(values[0] < 0)
    kappa = condition("A", sizes)
    smallest, largest = float(sizes.min()), float(sizes.max())
    size = 1 << clock
    if unit is None:
        unit = _unit(clock, signed, smallest, largest)
    elif not unit > 0 or largest / unit > _highest(clock, signed) * (1 + 1e-12) or smallest / unit < 1 - 1e-12:
        lowest = largest / max(1, _highest(clock, signed))
        raise ProblemError(must_be("unit", f"{lowest:.6g} to {smallest:.6g}", unit))
    least = math.floor(smallest / unit * (1 + 1e-12))
    k = np.arange(size)
    if signed:
        k[size // 2 :] -= size
    rotation = np.clip(np.divide(least, k, out=np.zeros(size), where=k != 0), -1, 1)
    return Spectrum(vectors, values / (unit * size), rotation, least * unit, kappa)


def solve_by_circuit(A: ArrayLike, b: ArrayLike, *, clock: int, unit: float | None = None) -> Simulated:  # noqa: N803
    """`solve` by PennyLane's simulation of the whole circuit: ancilla, clock and system, 14 qubits at most."""
    import pennylane as qml  # noqa: PLC0415 slow, and an extra

    given = matrix("A", A)
    right = vector("b", b, len(given))
    clock = checked_clock(clock)
    hermitian, embedded = _embedded(given, right)
    on_clock = spectrum_on_clock(hermitian, clock, unit)
    system = qubits_for(len(hermitian))
    check_circuit(1 + clock + system)
    ancilla, clock_wires = 0, list(range(1, 1 + clock))
    system_wires = list(range(1 + clock, 1 + clock + system))
    state = np.zeros(1 << system, embedded.dtype)
    state[: len(embedded)] = embedded / np.linalg.norm(embedded)
    estimation = clock_gates(_powers(on_clock, clock), clock_wires, system_wires)
    gates: list[Any] = [
        qml.StatePrep(state, wires=system_wires),
        *estimation,
        qml.SelectPauliRot(2 * np.arcsin(on_clock.rotation), control_wires=clock_wires, target_wire=ancilla, rot_axis="Y"),
        *inverse_gates(estimation),
    ]
    amplitudes = run_gates(gates, 1 + clock + system).reshape(2, 1 << clock, -1)[1, 0]
    probability = float(np.linalg.norm(amplitudes) ** 2)
    scaled = amplitudes[: len(hermitian)] * (np.linalg.norm(embedded) / on_clock.constant)
    return Simulated(scaled[len(hermitian) - len(given) :], probability)


def _simulate(given: Array, right: Array, clock: int, unit: float | None) -> Run:
    hermitian, embedded = _embedded(given, right)
    on_clock = spectrum_on_clock(hermitian, clock, unit)
    factors = clock_distribution(on_clock.phases, clock) @ on_clock.rotation
    length = float(np.linalg.norm(embedded))
    amplitudes = factors * (on_clock.vectors.conj().T @ (embedded / length))
    solution = on_clock.vectors @ amplitudes * (length / on_clock.constant)
    return Run(
        Simulated(solution[len(hermitian) - len(given) :], float(np.linalg.norm(amplitudes) ** 2)),
        n_qubits=1 + clock + qubits_for(len(hermitian)),
        queries=2 * ((1 << clock) - 1),
        condition=on_clock.condition,
    )


def _embedded(given: Array, right: Array) -> tuple[Array, Array]:
    """The system as a Hermitian one: itself, or ``[[0, A], [A^+, 0]] [0, x] = [b, 0]``."""
    if is_hermitian(given):
        return given, right
    return hermitian_dilation(given), np.concatenate([right, np.zeros_like(right)])


def _unit(clock: int, signed: bool, smallest: float, largest: float) -> float:
    """The step that puts `smallest` on as high a value as keeps `largest` below the guard."""
    kappa = largest / smallest

    def least(clock: int) -> int:
        top = _highest(clock, signed)
        return math.floor((top - top // _GUARD) / kappa * (1 + 1e-12))

    if least(clock) < 1:
        needed = next(longer for longer in itertools.count(clock) if least(longer) >= 1)
        raise ProblemError(must_be("clock", f"{needed} or more qubits at the condition {kappa:.4g} of A", clock))
    return smallest / least(clock)


def _highest(clock: int, signed: bool) -> int:
    """The highest value of a clock, of its positive half if signed."""
    return (1 << clock - signed) - 1


def _powers(on_clock: Spectrum, clock: int) -> list[Array]:
    """``exp(2 pi i phase 2^j)`` as matrices on whole qubits, the highest power first."""
    vectors = on_clock.vectors

    def power(exponent: int) -> Array:
        turned = np.exp(2j * np.pi * exponent * on_clock.phases)
        return padded((vectors * turned) @ vectors.conj().T, 1.0)

    return [power(1 << j) for j in range(clock - 1, -1, -1)]
