"""What a simulated run costs on this machine, ``t = a + p c`` by qubits, and how many layers fit a deadline."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from qstream.quantum.ising import IsingProblem
from qstream.quantum.qaoa.statevector import Statevector
from qstream.quantum.record import Refused
from schemas.solver import Reason

PROBES: Final = (8, 12, 15)
# A further qubit doubles the work; a layer's grows more once the state leaves the caches, in all 2.3 a qubit from 15 to 20.
FIXED_GROWTH: Final = 2.0
LAYER_GROWTH: Final = 2.3
# Share of the remaining time to plan for: the rest is for a machine busier than at the calibration.
SHARE: Final = 0.6
_LEAST_S: Final = 1e-9


@dataclass(frozen=True)
class CostModel:
    """Seconds of a run without its layers, and of one layer, at the numbers of qubits of `PROBES`."""

    fixed_s: tuple[float, ...]
    layer_s: tuple[float, ...]

    def estimate_s(self, qubits: int, layers: int) -> float:
        """Expected seconds of a run of so many layers."""
        return self.fixed(qubits) + layers * self.layer(qubits)

    def fixed(self, qubits: int) -> float:
        """Seconds of preparation, samples and descent."""
        return at_size(self.fixed_s, qubits, FIXED_GROWTH)

    def layer(self, qubits: int) -> float:
        """Seconds of one layer."""
        return at_size(self.layer_s, qubits, LAYER_GROWTH)

    def fitting_layers(self, qubits: int, remaining_s: float, most: int, work: int = 1) -> int:
        """As many layers, up to `most`, as fit the remaining time when each costs `work` layers.

        `Refused` with ``deadline_insufficient`` if not even one does.
        """
        spare, layer = SHARE * remaining_s - self.fixed(qubits), work * self.layer(qubits)
        if spare < layer:
            need_ms = 1e3 * (self.fixed(qubits) + layer) / SHARE
            raise Refused(
                Reason.DEADLINE_INSUFFICIENT,
                f"{1e3 * remaining_s:.3g} ms remain, one layer on {qubits} qubits needs {need_ms:.3g} ms",
            )
        return most if math.isinf(spare) else min(most, int(spare / layer))


def at_size(seconds: tuple[float, ...], qubits: int, growth: float) -> float:
    """Between the probes the logarithm is linear; below the first the time is that of the first."""
    inside = float(np.exp(np.interp(qubits, PROBES, np.log(seconds))))
    return inside * growth ** max(0, qubits - PROBES[-1])


def calibrate(run: Callable[[IsingProblem], object], clock: Callable[[], float], repeats: int = 3) -> CostModel:
    """Time single layers, and `run` on a whole problem with one layer, at a few sizes: some 15 ms in all, the fastest counts."""
    fixed, layer = [], []
    for qubits in PROBES:
        rng = np.random.default_rng(qubits)
        problem = IsingProblem(qubits, np.triu(rng.normal(size=(qubits, qubits)), 1), rng.normal(size=qubits))
        circuit = Statevector([problem])
        each = fastest_s(partial(circuit.evolve, [0.1], [-0.1]), clock, repeats)
        whole = fastest_s(partial(run, problem), clock, repeats)
        layer.append(each)
        fixed.append(max(whole - each, each))
    return CostModel(tuple(fixed), tuple(layer))


def fastest_s(call: Callable[[], object], clock: Callable[[], float], repeats: int) -> float:
    """Least seconds of some calls after a first, which finds cold caches."""
    call()
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        times.append(clock() - start)
    return max(min(times), _LEAST_S)
