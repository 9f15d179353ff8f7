"""Load the compiled kernels that readings and plans of budgets call before the first record arrives."""

from __future__ import annotations

from qstream.energy.allocation import allocate
from qstream.energy.memory import fresh
from qstream.energy.readings import fold
from qstream.energy.samples import gather
from schemas.power import GpuTelemetry, PowerTopology


def warm() -> None:
    """Plan three GPUs: on a new machine the kernels compile (about ten seconds), else they load from the disk cache."""
    memory = fresh(PowerTopology.example())
    fold(memory, gather([GpuTelemetry.example()], [1], memory.now))
    allocate([[200.0, 300.0]] * 3, [[0.8, 1.0]] * 3, [[0, 1], [0, 1], [1, -1]], [500.0, 800.0])
