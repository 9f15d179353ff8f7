"""Quantum phase estimation: the distribution of the clock register in closed form, and its circuit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from qstream.quantum.spectral.matrices import Array, finite_numbers, matrix, power_of_two, vector
from qstream.quantum.spectral.qft import inverse_gates, qft_gates, run_gates
from schemas.wording import Shown, must_be

MAX_CLOCK: Final = 16
MAX_CIRCUIT_QUBITS: Final = 14

Distribution = NDArray[np.float64]


def clock_distribution(phases: ArrayLike, clock: int) -> Distribution:
    """Probabilities [..., 2^clock] to read k where the eigenvalue is ``exp(2 pi i phase)``.

    ``(sin(pi M d) / (M sin(pi d)))^2`` with ``M = 2^clock`` and ``d = phase - k / M``. Source: Cleve, Ekert, Macchiavello and
    Mosca (1998).

    Parameters
    ----------
    phases : float64 [...]
        In turns; whole turns are dropped.
    clock : int
        Qubits of the clock register, 1 to 16.

    Raises
    ------
    ProblemError
        The clock is out of range, or a phase is not finite.
    """
    clock = checked_clock(clock)
    turns = finite_numbers("phases", phases)
    if np.iscomplexobj(turns):
        raise ProblemError(must_be("phases", "real numbers of turns", Shown("complex ones")))
    values = 1 << clock
    offset = turns[..., np.newaxis] - np.arange(values) / values
    offset -= np.round(offset)
    # sinc keeps the limit at 0, where both sines vanish; sinc(d) stays above 0.63 on |d| <= 1/2.
    ratio: Distribution = np.sinc(values * offset) / np.sinc(offset)
    return ratio * ratio


def estimate(unitary: ArrayLike, state: ArrayLike, clock: int) -> Distribution:
    """Probabilities [2^clock] of the clock for a unitary [N, N] and a state [N], which is normalised.

    The eigendecomposition is computed, by a Schur form: eigenvectors are orthogonal even where eigenvalues coincide.
    `ProblemError` if a shape is wrong, a number is not finite or the matrix is not unitary.
    """
    import scipy.linalg  # noqa: PLC0415 slow

    operator, amplitudes = _unitary_and_state(unitary, state)
    triangle, vectors = scipy.linalg.schur(operator, output="complex")
    phases = np.angle(np.diag(triangle)) / (2 * np.pi)
    weights = np.abs(vectors.conj().T @ amplitudes) ** 2
    result: Distribution = weights @ clock_distribution(phases, clock)
    return result


def estimate_by_circuit(unitary: ArrayLike, state: ArrayLike, clock: int) -> Distribution:
    """`estimate` by PennyLane's simulation of the circuit; N must be a power of two, 14 qubits at most."""
    import pennylane as qml  # noqa: PLC0415 slow, and an extra

    operator, amplitudes = _unitary_and_state(unitary, state)
    clock = checked_clock(clock)
    system = power_of_two("state", len(amplitudes))
    check_circuit(clock + system)
    wires = list(range(clock + system))
    powers = [np.linalg.matrix_power(operator, 1 << (clock - 1 - i)) for i in range(clock)]
    gates = [qml.StatePrep(amplitudes, wires=wires[clock:]), *clock_gates(powers, wires[:clock], wires[clock:])]
    probabilities = np.abs(run_gates(gates, len(wires))) ** 2
    result: Distribution = probabilities.reshape(1 << clock, -1).sum(1)
    return result


def clock_gates(powers: Sequence[Array], clock: Sequence[int], system: Sequence[int]) -> list[Any]:
    """Phase estimation as PennyLane operators; ``powers[i]`` is the unitary to the power ``2^(clock - 1 - i)``."""
    import pennylane as qml  # noqa: PLC0415 slow, and an extra

    gates: list[Any] = [qml.Hadamard(wire) for wire in clock]
    gates += [qml.ControlledQubitUnitary(power, wires=[control, *system]) for power, control in zip(powers, clock, strict=True)]
    return gates + inverse_gates(qft_gates(clock))


def checked_clock(clock: int) -> int:
    """The clock's qubits as an int; `ProblemError` if they are not a whole number from 1 to 16."""
    if isinstance(clock, bool) or not isinstance(clock, (int, np.integer)) or not 1 <= clock <= MAX_CLOCK:
        raise ProblemError(must_be("clock", f"1 to {MAX_CLOCK} qubits", clock))
    return int(clock)


def check_circuit(n_qubits: int) -> None:
    """`ProblemError` if a reference circuit would be too wide to simulate."""
    if n_qubits > MAX_CIRCUIT_QUBITS:
        raise ProblemError(must_be("circuit", f"of at most {MAX_CIRCUIT_QUBITS} qubits for a reference circuit", n_qubits))


def _unitary_and_state(unitary: ArrayLike, state: ArrayLike) -> tuple[Array, Array]:
    operator = matrix("unitary", unitary)
    amplitudes = vector("state", state, len(operator))
    error = np.abs(operator @ operator.conj().T - np.eye(len(operator))).max()
    if error > 1e-10:
        raise ProblemError(must_be("unitary", "within 1e-10 of U U^+ = 1", Shown(f"{error:.3g}")))
    return operator, amplitudes / np.linalg.norm(amplitudes)
