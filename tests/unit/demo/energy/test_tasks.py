"""The energy scene's window of tasks: its schedules lie between the exact optimum and the soonest start."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from qstream.demo.energy.tasks import STARTS, circuit_peak_w, exact_peak_w, window
from qstream.energy.graphs import alone, plan_graph, simple_graph
from qstream.energy.options import EnergyOptions


def test_the_exact_peak_is_below_all_schedules_and_the_simulated_circuit_s_best_is_near() -> None:
    graph, options = window("g", 1, seed=0), EnergyOptions(qaoa=True)
    exact, (circuit, execution) = exact_peak_w(graph), circuit_peak_w(graph, options)
    planned, simple = plan_graph(alone(graph), options).plan.peak_w, simple_graph(alone(graph)).plan.peak_w
    assert exact <= planned < simple
    assert exact <= circuit < simple
    assert execution == "simulated-subspace"


def test_the_exact_peak_is_the_lowest_of_all_choices() -> None:
    graph = window("g", 1, seed=3)
    part = {name: getattr(graph, name)[:3] for name in ("duration", "power_w", "release", "deadline")}
    three = graph.model_copy(update={**part, "task": graph.task[:3], "edges": graph.edges[:2]})
    long, base = three.duration[:, 0], three.base_w
    peaks = []
    for starts in product(*(range(int(low), int(low) + STARTS) for low in three.release)):
        load = base.copy()
        for task, start in enumerate(starts):
            load[start : start + long[task]] += three.power_w[task, 0]
        if all(starts[a] + long[a] <= starts[b] for a, b in three.edges) and all(np.array(starts) + long <= three.deadline):
            peaks.append(float(load.max()))
    assert exact_peak_w(three) == pytest.approx(min(peaks))
