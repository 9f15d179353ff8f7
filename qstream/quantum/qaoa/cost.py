"""What a simulated run costs on this machine, ``t = a + p c`` by qubits, and how many layers fit a deadline."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from qstream.quantum.record import Reason, Refused

PROBES: Final = (8, 11, 14)
PROBE_LAYERS: Final = (1, 9)
# Each further qubit doubles the work, and more once the state leaves the caches: in all 2.3 a qubit from 14 to 20.
GROWTH: Final = 2.3
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
        return at_size(self.fixed_s, qubits) + layers * at_size(self.layer_s, qubits)

    def fitting_layers(self, qubits: int, remaining_s: float, most: int, work: int = 1) -> int:
        """As many layers, up to `most`, as fit the remaining time when each costs `work` layers.

        `Refused` with ``deadline_insufficient`` if not even one does.
        """
        spare = SHARE * remaining_s - at_size(self.fixed_s, qubits)
        layer = work * at_size(self.layer_s, qubits)
        if spare < layer:
            need_ms = 1e3 * (at_size(self.fixed_s, qubits) + layer) / SHARE
            raise Refused(
                Reason.DEADLINE_INSUFFICIENT,
                f"{1e3 * remaining_s:.3g} ms remain, one layer on {qubits} qubits needs {need_ms:.3g} ms",
            )
        return most if math.isinf(spare) else min(most, int(spare / layer))


def at_size(seconds: tuple[float, ...], qubits: int) -> float:
    """Between the probes the logarithm is linear; below the first the time is that of the first."""
    inside = float(np.exp(np.interp(qubits, PROBES, np.log(seconds))))
    return inside * GROWTH ** max(0, qubits - PROBES[-1])


def calibrate(run: Callable[[int, int], object], clock: Callable[[], float], repeats: int = 4) -> CostModel:
    """Time ``run(qubits, layers)`` at a few sizes and depths, some 10 ms in all; the fastest of `repeats` counts."""
    fixed, layer = [], []
    for qubits in PROBES:
        run(qubits, PROBE_LAYERS[1])  # cold caches and first calls do not count
        times = [[seconds(run, qubits, layers, clock) for layers in PROBE_LAYERS] for _ in range(repeats)]
        few, many = (min(column) for column in zip(*times, strict=True))
        each = max((many - few) / (PROBE_LAYERS[1] - PROBE_LAYERS[0]), 0.01 * few, _LEAST_S)
        layer.append(each)
        fixed.append(max(few - PROBE_LAYERS[0] * each, _LEAST_S))
    return CostModel(tuple(fixed), tuple(layer))


def seconds(run: Callable[[int, int], object], qubits: int, layers: int, clock: Callable[[], float]) -> float:
    start = clock()
    run(qubits, layers)
    return clock() - start
