"""Routing: hash rates, placement times and balance, start time. Single-thread wall-clock medians."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from types import ModuleType

import numpy as np

from qstream.routing.hashing import assign, assign_bounded, choose_replica
from qstream.routing.migrate import align
from qstream.routing.pack import place_window
from qstream.routing.scenarios import anneal, place_scenarios
from qstream.routing.score import balancedness, violations
from qstream.routing.warm import warm
from tests.benchmarks.clock import median_s
from tests.benchmarks.stick import TRACE, load_stick

Row = tuple[str, float, str, str]
Planner = Callable[[np.ndarray, int, int], np.ndarray]

_STEPS = 8000
_WARM_START = """
import time
start = time.perf_counter()
from qstream.routing.warm import warm
warm()
print(time.perf_counter() - start)
"""


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none); real-routing rows are left out without the data."""
    warm()
    return [*hash_rows(), *placement_rows(), *next_window_rows(), warm_start_row()]


def hash_rows() -> list[Row]:
    rng = np.random.default_rng(0)
    tokens = np.arange(1_000_000, dtype=np.uint64)
    sessions = rng.zipf(1.2, len(tokens)).astype(np.uint64)
    topk = rng.integers(0, 64, (len(tokens), 6), dtype=np.int32)
    slots = np.arange(128, dtype=np.int32).reshape(64, 2)
    counts = np.full(64, 2, np.int32)
    spread = np.bincount(assign(tokens, 64), minlength=64)
    bounded = np.bincount(assign_bounded(sessions, 64), minlength=64)
    return [
        ("hash, 1M ids to 64 experts", 1 / median_s(lambda: assign(tokens, 64)), "M tokens/s", ">= 20"),
        ("hash, 1M ids to 72 experts", 1 / median_s(lambda: assign(tokens, 72)), "M tokens/s", ">= 20"),
        ("hash, 1M ids to 64 experts, max/mean", spread.max() / spread.mean(), "", "<= 1.03"),
        ("bounded hash, distinct ids, slack .05", 1 / median_s(lambda: assign_bounded(tokens, 64)), "M tokens/s", ">= 15"),
        ("bounded hash, Zipf(1.2) ids, slack .05", 1 / median_s(lambda: assign_bounded(sessions, 64)), "M tokens/s", ">= 15"),
        ("bounded hash, Zipf(1.2) ids, max/mean", bounded.max() / bounded.mean(), "", "<= 1.05 + 1 token"),
        ("replica choice, top-6", 1 / median_s(lambda: choose_replica(tokens, topk, slots, counts)), "M tokens/s", "-"),
    ]


def placement_rows() -> list[Row]:
    rng = np.random.default_rng(0)
    small, large = rng.lognormal(0, 1, (26, 64)), rng.lognormal(0, 1, (58, 256))
    before, plan = place_window(rng.lognormal(0, 1, (58, 256)), 32, 288), place_window(large, 32, 288)
    return [
        ("placement 26 x 64 -> 72 on 8 GPUs", 1e3 * median_s(lambda: place_window(small, 8, 72)), "ms", "<= 2"),
        ("placement 58 x 256 -> 288 on 32 GPUs", 1e3 * median_s(lambda: place_window(large, 32, 288)), "ms", "<= 40"),
        ("  same-window balancedness", balancedness(plan, large, 32), "", ">= 0.999"),
        ("  duplicates on a GPU", float(violations(plan, 256, 32)), "", "0"),
        ("  alignment with an unrelated plan", 1e3 * median_s(lambda: align(before, plan, 32)), "ms", "-"),
    ]


def next_window_rows() -> list[Row]:
    """Plan from the past, score on the next window of real routing: means over seeds 0, 1 and 72, 96 slots on 8 GPUs."""
    stick = load_stick()
    if stick is None:
        return []
    traces = stick.load(TRACE)
    windows = [stick.window_counts(stick.stream(traces, seed).ids) for seed in (0, 1)]

    def fresh(history: np.ndarray, slots: int, gpus: int) -> np.ndarray:
        return place_scenarios(history, gpus, slots, steps=_STEPS)

    tiers: tuple[tuple[str, Callable[[], Planner], str], ...] = (
        ("fast tier", lambda: _aligned(lambda history, slots, gpus: place_window(history[-1], gpus, slots)), "-"),
        ("scenario tier", lambda: _aligned(fresh), ">= 0.915"),
        ("scenario tier in force, move cost .001", lambda: _in_force(fresh, 0.001), "-"),
        ("scenario tier in force, move cost .0005", lambda: _in_force(fresh, 0.0005), "-"),
    )
    return [row for name, planner, target in tiers for row in _next_window(stick, windows, name, planner, target)]


def warm_start_row() -> Row:
    runs = [subprocess.run([sys.executable, "-c", _WARM_START], check=True, capture_output=True, text=True) for _ in range(3)]
    return ("import and warm(), hot cache", statistics.median(float(run.stdout) for run in runs), "s", "< 1.5")


def _next_window(
    stick: ModuleType, windows: list[np.ndarray], name: str, planner: Callable[[], Planner], target: str
) -> list[Row]:
    scores, wall_s, cpu_s = [], [], []
    for trace in windows:
        for slots in (72, 96):
            plan = planner()

            def timed(history: np.ndarray, slots: int, gpus: int, plan: Planner = plan) -> np.ndarray:
                wall, cpu = time.perf_counter(), time.process_time()
                result = plan(history, slots, gpus)
                wall_s.append(time.perf_counter() - wall)
                cpu_s.append(time.process_time() - cpu)
                return result

            scores.append(stick.next_window_score(timed, trace, slots))

    def mean(part: str) -> float:
        return statistics.mean(float(score[part]) for score in scores)

    return [
        (f"next window, {name}: balancedness", mean("balancedness"), "", target),
        ("  moved experts", mean("moved_experts"), "a layer", "-"),
        ("  violations", mean("violations"), "", "0"),
        ("  wall time, 26 layers", 1e3 * statistics.median(wall_s), "ms", "<= 100"),
        ("  CPU time, 26 layers", 1e3 * statistics.median(cpu_s), "ms", "<= 100"),
    ]


def _aligned(plan: Planner) -> Planner:
    """Plan afresh for every window, then rename GPUs and slots after the plan before."""
    in_force: list[np.ndarray] = []

    def next_plan(history: np.ndarray, slots: int, gpus: int) -> np.ndarray:
        new = plan(history, slots, gpus)
        in_force[:] = [align(in_force[0], new, gpus) if in_force else new]
        return in_force[0]

    return next_plan


def _in_force(first: Planner, move_cost: float) -> Planner:
    """Plan afresh once, then improve the plan in force at a price a moved expert."""
    in_force: list[np.ndarray] = []

    def next_plan(history: np.ndarray, slots: int, gpus: int) -> np.ndarray:
        if in_force:
            in_force[:] = [anneal(in_force[0], history[-16:], gpus, steps=_STEPS, move_cost=move_cost)]
        else:
            in_force.append(first(history, slots, gpus))
        return in_force[0]

    return next_plan
