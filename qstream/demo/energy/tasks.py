"""Tasks: a window of eight tasks that depend on one another, for a schedule with circuits, and its optimum by enumeration."""

from __future__ import annotations

from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.demo.energy.rack import DOMAIN
from qstream.energy.graphs import alone, window_of
from qstream.energy.options import EnergyOptions
from qstream.energy.refine import choose, sample
from qstream.energy.window import tasks_of
from schemas.tasks import TaskGraph

NAMES: Final = ("fetch", "clean", "embed", "index", "evaluate-a", "evaluate-b", "distil", "report")
SLOTS: Final = 9  # the first is over when a schedule comes
STARTS: Final = 4  # of each task


def window(graph_id: str, ts_ns: int, seed: int) -> TaskGraph:
    """Eight tasks of one or two slots of five minutes, with four starts each, above a base load that varies."""
    rng = np.random.default_rng(seed)
    duration = rng.integers(1, 3, len(NAMES))
    release = np.array([1, 2, 4, 1, 1, 2, 3, 5])
    power = rng.integers(8, 24, len(NAMES)) * 25.0
    return TaskGraph(
        domain=DOMAIN,
        ts_ns=ts_ns,
        graph_id=graph_id,
        slot_s=300.0,
        slots=SLOTS,
        task=NAMES,
        duration=duration[:, None].astype(np.int32),
        power_w=power[:, None].astype(np.float32),
        release=release.astype(np.int32),
        deadline=np.minimum(release + STARTS - 1 + duration, SLOTS).astype(np.int32),
        edges=np.array([[0, 1], [1, 2], [4, 7], [5, 7]], np.int32),
        base_w=(1500 + 25.0 * rng.integers(0, 8, SLOTS)).astype(np.float32),
    )


def circuit_peak_w(graph: TaskGraph, options: EnergyOptions) -> tuple[float, str]:
    """The lowest peak among the samples of one circuit that begins at the soonest schedule, and what was simulated."""
    window = window_of(alone(graph))
    tasks, _ = tasks_of(window)
    soonest = tasks.release.copy(), window.fastest()
    choice = choose(window, tasks, soonest, options.circuit_slots, np.random.default_rng(options.seed))
    found = sample(choice, options, options.seed)
    return float(found.peak_w.min(initial=np.inf)), found.execution


def exact_peak_w(graph: TaskGraph) -> float:
    """The lowest peak of all choices of starts; for graphs as `window` makes them, with one mode."""
    assert graph.release is not None
    assert graph.deadline is not None
    assert graph.edges is not None
    long, draw = graph.duration[:, 0], graph.power_w[:, 0].astype(np.float64)
    ranges = [range(int(low), int(end - n) + 1) for low, end, n in zip(graph.release, graph.deadline, long, strict=True)]
    starts = np.array(list(product(*ranges)))
    before, after = graph.edges.T
    starts = starts[(starts[:, before] + long[before] <= starts[:, after]).all(1)]
    load: NDArray[np.float64] = np.zeros((len(starts), graph.slots)) + (0.0 if graph.base_w is None else graph.base_w)
    slot = np.arange(graph.slots)
    for task in range(len(long)):
        runs = (starts[:, task, None] <= slot) & (slot < starts[:, task, None] + long[task])
        load += draw[task] * runs
    return float(load.max(1).min())
