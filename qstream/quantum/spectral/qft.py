"""The quantum Fourier transform: the unitary discrete Fourier transform with a plus sign, and its circuit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.quantum.spectral.matrices import finite_numbers, power_of_two

State = NDArray[np.complex128]


def qft(state: ArrayLike) -> State:
    """Amplitudes ``y_k = 2^(-n/2) sum_j exp(2 pi i j k / 2^n) x_j``, of one state [2^n] or a batch [..., 2^n], complex128.

    Qubit 0 is the most significant bit of j and of k. `ProblemError` if an amplitude is not
    finite or the last axis is not a power of two.
    """
    amplitudes = finite_numbers("state", state)
    power_of_two("state", amplitudes.shape[-1] if amplitudes.ndim else 0)
    transformed: State = np.fft.ifft(amplitudes, norm="ortho")
    return transformed


def inverse_qft(state: ArrayLike) -> State:
    """The inverse of `qft`, on the same shapes."""
    amplitudes = finite_numbers("state", state)
    power_of_two("state", amplitudes.shape[-1] if amplitudes.ndim else 0)
    transformed: State = np.fft.fft(amplitudes, norm="ortho")
    return transformed


def qft_gates(wires: Sequence[int]) -> list[Any]:
    """The circuit of the transform as PennyLane operators: n Hadamards, n (n-1) / 2 controlled phases, swaps.

    Source: Coppersmith (1994); Nielsen and Chuang, section 5.1.
    """
    import pennylane as qml  # noqa: PLC0415 slow, and an extra

    gates: list[Any] = []
    for i, target in enumerate(wires):
        gates.append(qml.Hadamard(target))
        gates += [
            qml.ControlledPhaseShift(2 * np.pi / 2 ** (distance + 1), wires=[control, target])
            for distance, control in enumerate(wires[i + 1 :], start=1)
        ]
    half = len(wires) // 2
    gates += [qml.SWAP(wires=[a, b]) for a, b in zip(wires[:half], reversed(wires), strict=False)]
    return gates


def inverse_gates(gates: Sequence[Any]) -> list[Any]:
    """The circuit that undoes `gates`."""
    import pennylane as qml  # noqa: PLC0415 slow, and an extra

    return [qml.adjoint(gate, lazy=False) for gate in reversed(gates)]


def run_gates(gates: Sequence[Any], n_qubits: int) -> State:
    """The state [2^n] that a circuit makes of ``|0...0>``, by PennyLane's ``default.qubit``."""
    import pennylane as qml  # noqa: PLC0415 slow, and an extra

    device = qml.device("default.qubit", wires=n_qubits)
    script = qml.tape.QuantumScript(gates, [qml.state()])
    state: State = np.asarray(qml.execute([script], device)[0], np.complex128)
    return state
