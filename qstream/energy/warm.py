"""Load the compiled kernels that readings and plans call before the first record arrives."""

from __future__ import annotations

import numpy as np

from qstream.energy.allocation import allocate
from qstream.energy.memory import fresh
from qstream.energy.nodes import select_nodes
from qstream.energy.options import EnergyOptions
from qstream.energy.outlook import advanced, fresh_outlook
from qstream.energy.readings import fold
from qstream.energy.samples import gather
from qstream.energy.window import TaskWindow
from schemas.power import GpuTelemetry, PowerTopology


def warm(options: EnergyOptions) -> None:
    """Plan three GPUs and three tasks: on a new machine the kernels compile (some twenty seconds), else they load from the disk
    cache. Those of circuits only where they are on."""
    memory = fresh(PowerTopology.example())
    fold(memory, gather([GpuTelemetry.example()], [1], memory.now))
    outlook = advanced(fresh_outlook(), 1_000_000_000, 100.0, options.bound)
    advanced(outlook, 40_000_000_000, 100.0, options.bound)  # until a forecast of each horizon was met
    allocate([[200.0, 300.0]] * 3, [[0.8, 1.0]] * 3, [[0, 1], [0, 1], [1, -1]], [500.0, 800.0])
    short = options.model_copy(update={"device": None, "shots": 1, "circuit_layers": 1})
    two, early, late = (np.full(3, value) for value in (2, 0, 3))
    window = TaskWindow(5, two, np.full(3, 100.0), early, late)  # two must overlap, above the bound: all is called
    select_nodes(window, [1, 1, 1], [3], [0.0], options=short)
