"""The last choice of the circuit on a device of the pool: expectations by shots, through the runtime's slots and breakers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.hpo.options import HpoOptions
from qstream.hpo.vqc import DEVICE_SHOTS
from qstream.quantum.devices.circuits import Rotations, Samples
from qstream.quantum.record import Refused
from qstream.quantum.runtime import QuantumRuntime
from qstream.quantum.variational.gates import default_ranges
from qstream.quantum.variational.observable import PauliSum
from schemas.solver import Execution, Reason

Vec = NDArray[np.float64]
Mat = NDArray[np.float64]
DEADLINE_MS: Final = 200.0  # where the options have none: an answer does not wait for a queue


def on_device(
    options: HpoOptions, runtime: Callable[[], QuantumRuntime] | None, seed: int
) -> Callable[[PauliSum, Mat, int], tuple[Vec, Execution]] | None:
    """What measures expectations on the device that the options name; None if they name none."""
    if options.device is None:
        return None
    name, shots = options.device, options.shots or DEVICE_SHOTS
    deadline_s = (options.deadline_ms or DEADLINE_MS) / 1e3

    def measure(hamiltonian: PauliSum, theta: Mat, layers: int) -> tuple[Vec, Execution]:
        if runtime is None:
            raise Refused(Reason.UNAVAILABLE, "there is no runtime here that has devices")
        needed, rings = hamiltonian.measurements, default_ranges(theta.shape[1], layers)
        each = max(1, shots // len(needed))
        circuits = [Rotations(row, rings, basis, each, seed) for row in theta for basis, _ in needed]
        samples, execution = runtime().measure(name, circuits, deadline_s)
        means = [_mean(found, energies) for found, (_, energies) in zip(samples, needed * len(theta), strict=True)]
        return hamiltonian.coefficients[0] + np.reshape(means, (len(theta), -1)).sum(1), execution

    return measure


def _mean(samples: Samples, energies: Vec) -> float:
    """Mean energy of the outcomes, of which `energies` float64 [2^n] has all."""
    n = samples.spins.shape[1]
    outcome = (samples.spins < 0) @ (1 << np.arange(n)[::-1])
    return float(energies[outcome] @ samples.counts / samples.counts.sum())
