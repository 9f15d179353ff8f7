"""Warming loads the kernels of budgets and schedules, and one compiled form of each kernel serves every caller."""

from __future__ import annotations

import numpy as np

from qstream.energy import TaskWindow, allocate, allot, forecast_series, plan_energy, schedule, select_nodes, value_curve
from qstream.energy.building import build_to
from qstream.energy.folding import fold_frames
from qstream.energy.greedy import exchange, fill
from qstream.energy.hulls import hull_rows
from qstream.energy.maxima import analog_maxima
from qstream.energy.processor import EnergyProcessor
from schemas.power import GpuTelemetry, PowerTopology


def test_one_compiled_form_of_each_kernel_serves_every_caller() -> None:
    EnergyProcessor().warm()
    loaded = (fill, exchange, hull_rows, fold_frames)
    assert all(len(kernel.signatures) >= 1 for kernel in (*loaded, build_to))
    power, value, above = [[200.0, 300.0]] * 3, [[0.8, 1.0]] * 3, [[0, 1], [0, 1], [1, -1]]
    for budget in ([500.0, 800.0], [300.0, 800.0]):
        allocate(power, value, above, budget)
        allocate(np.array(power), np.array(value), above, budget, group=[0, 1, 1])
    value_curve(power, value, above, [500.0, 800.0])
    allot(power, value, above, [500.0, 800.0])
    plan_energy(PowerTopology.example(), [])
    plan_energy(PowerTopology.example(), GpuTelemetry.example().model_copy(update={"count": None, "counter": ()}))
    window = TaskWindow(9, [1, 3], [300.0, 100.0], [0, 0], [5, 4])
    schedule(window)
    schedule(TaskWindow(9, [[1, 3], [2, 0]], [[300.0, 100.0], [50.0, -1]], [0, 0], [5, 4], [(0, 1)], np.ones(9)))
    select_nodes(window, [1, 1], [2, 2], [1.0, 1.0])
    forecast_series([1.0, 2.0], 1)
    forecast_series(np.ones(3), 1)
    forms = {kernel.__name__: len(kernel.signatures) for kernel in (*loaded, build_to, analog_maxima)}
    assert set(forms.values()) == {1}, forms
