"""The exact gradient of the QAOA expectation, by one sweep forth and one back (adjoint differentiation).

About three times the cost of the expectation, whatever the number of angles; it keeps the state of every layer.
Source: Jones and Gacon, arXiv:2009.02823.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from qstream.quantum.qaoa.statevector import Floats, Statevector, multiply_group, probabilities
from schemas.wording import Shown, must_be


def expectation_gradient(
    circuit: Statevector, gammas: ArrayLike, betas: ArrayLike
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Expectation and its derivatives by gamma [p] and by beta [p], of one problem from the uniform start.

    `circuit` is reset first, and of no use until the next reset afterwards. `ProblemError` if it has a warm start.
    """
    if circuit.warm:
        raise ProblemError(must_be("the start", "uniform for a gradient", Shown("a warm start")))
    phases, mixers = np.asarray(gammas, np.float64), np.asarray(betas, np.float64)
    circuit.reset()
    states = [circuit.state.copy()]
    for gamma, beta in zip(phases, mixers, strict=True):
        circuit.evolve([gamma], [beta])
        states.append(circuit.state.copy())
    energies = circuit.energies[0].astype(circuit.state.dtype)
    value = float(circuit.offsets[0] + probabilities(circuit.state)[0] @ circuit.energies[0])
    by_gamma, by_beta = np.empty(len(phases)), np.empty(len(mixers))
    scratch = np.empty_like(circuit.state)
    circuit.state *= energies  # the bra <psi|E, taken back layer by layer
    for layer in range(len(phases) - 1, -1, -1):
        by_beta[layer] = 2 * mixer_overlap(circuit, states[layer + 1], scratch)
        circuit.mix(np.cos(mixers[layer]), -np.sin(mixers[layer]))
        circuit.phase(-phases[layer])
        np.multiply(states[layer], energies, out=scratch)
        (bra_real, bra_imag), (ket_real, ket_imag) = circuit.state, scratch
        by_gamma[layer] = 2 * (np.vdot(bra_real, ket_imag) - np.vdot(bra_imag, ket_real))
    return value, by_gamma, by_beta


def mixer_overlap(circuit: Statevector, ket: Floats, scratch: Floats) -> float:
    """``Re <bra| -i sum_i X_i |ket>``, the bra being the circuit's state."""
    total = 0.0
    for qubits, right in circuit.groups:
        multiply_group(generator(qubits).astype(ket.dtype), right, ket, scratch)
        total += float(np.vdot(circuit.state, scratch))
    if circuit.mirrored:
        circuit.turn_all(ket, scratch)
        total += float(np.vdot(circuit.state, scratch))
    return total


@cache
def generator(qubits: int) -> NDArray[np.float64]:
    """``-i sum_i Y_i`` [K, K] of a group: the derivative of its rotations at angle 0."""
    total: NDArray[np.float64] = np.zeros((1, 1))
    single = np.array([[0.0, -1.0], [1.0, 0.0]])
    for _ in range(qubits):
        total = np.asarray(np.kron(total, np.eye(2)) + np.kron(np.eye(len(total)), single), np.float64)
    return total
