"""The circuit of VQC-H: a rotation a parameter, rings of CNOTs after it, expectations, and descent by the parameter-shift rule.

Angles are float64 [B, d], in [0, pi]. Source of the rule: Schuld et al., Evaluating analytic gradients on quantum hardware (PRA
2019); it is exact here, as each angle turns one qubit once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.variational.embedding import product_state
from qstream.quantum.variational.gates import default_ranges, ring
from qstream.quantum.variational.observable import PauliSum, moments, product_moments

Vec = NDArray[np.float64]
Mat = NDArray[np.float64]

STEPS: Final = 40
STEP: Final = 0.3  # radians that the fastest angle turns in the first step
DECAY: Final = 0.97  # of that from step to step
MOST_QUBITS: Final = 10  # of which states are simulated; the closed form has no limit


def states(theta: Mat, layers: int) -> Mat:
    """States [B, 2^d] of ``RY(theta_i)`` on each qubit, then `layers` rings of CNOTs that reach 1, 2, ... qubits far; real."""
    found: Mat = product_state(theta)
    for reach in default_ranges(theta.shape[1], layers):
        found = found[:, ring(theta.shape[1], reach)]
    return found


def design(theta: Mat, layers: int) -> Mat:
    """What each term of a `PauliSum` is in those states, float64 [B, terms]: the rows of a linear model of its coefficients."""
    return moments(states(theta, layers)) if layers else product_moments(theta)


class Landscape(NamedTuple):
    """Expectations of a Hamiltonian, and their gradient by the shift rule."""

    energy: Callable[[Mat], Vec]  # angles [B, d] to [B]
    slope: Callable[[Mat], Mat]  # angles [B, d] to [B, d]


def exact(hamiltonian: PauliSum, layers: int) -> Landscape:
    """Without noise: in closed form where there are no entangling layers, else by statevector."""
    if not layers:
        return Landscape(hamiltonian.on_product, hamiltonian.slope_on_product)
    return shifted(lambda theta: np.asarray(hamiltonian.expectation(states(theta, layers))))


def measured(hamiltonian: PauliSum, layers: int, shots: int, rng: np.random.Generator) -> Landscape:
    """As `shots` of each state show them."""
    return shifted(lambda theta: hamiltonian.sample(states(theta, layers), shots, rng))


def shifted(energy: Callable[[Mat], Vec]) -> Landscape:
    """``(E(theta_i + pi/2) - E(theta_i - pi/2)) / 2`` of each angle: 2 d circuits a point."""

    def slope(theta: Mat) -> Mat:
        count, d = theta.shape
        turn = np.pi / 2 * np.eye(d)
        plus, minus = energy(np.stack([theta[:, None] + turn, theta[:, None] - turn]).reshape(-1, d)).reshape(2, count, d)
        found: Mat = (plus - minus) / 2
        return found

    return Landscape(energy, slope)


def descend(landscape: Landscape, theta: Mat) -> Mat:
    """Where descent from each of [B, d] ends: the fastest angle turns by a step that shrinks, the others in proportion."""
    for step in range(STEPS):
        slope = landscape.slope(theta)
        fastest = np.abs(slope).max(1, keepdims=True)
        theta = np.clip(theta - STEP * DECAY**step * slope / np.where(fastest > 0, fastest, 1), 0, np.pi)
    return theta


def twin(landscape: Landscape, theta: Mat) -> float:
    """The lowest expectation that L-BFGS reaches from the same starts, all of them in one batch: the classical twin."""
    from scipy.optimize import fmin_l_bfgs_b  # noqa: PLC0415 slow to import

    def total(flat: Vec) -> tuple[float, Vec]:
        at = flat.reshape(theta.shape)
        return float(landscape.energy(at).sum()), landscape.slope(at).ravel()

    found = fmin_l_bfgs_b(total, theta.ravel(), bounds=[(0, np.pi)] * theta.size, maxiter=STEPS)[0]
    return float(landscape.energy(found.reshape(theta.shape)).min())


def control(landscape: Landscape, points: int, d: int, rng: np.random.Generator) -> float:
    """The lowest expectation of as many random points as the descent visits: the control without descent."""
    return float(landscape.energy(np.pi * rng.random((points, d))).min())
