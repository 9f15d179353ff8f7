"""Windows of dependent tasks next to CP-SAT and as soon as possible, circuits next to random choices. CPU times of one thread."""

from __future__ import annotations

import time
from itertools import product
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from qstream.energy import TaskWindow, schedule
from qstream.energy.refine import OPTIONS, choose, sample
from qstream.energy.window import tasks_of
from tests.benchmarks.bench_learn import Row
from tests.benchmarks.stick import load_scores

_WINDOWS = ((20, 20, 20, "-"), (50, 30, 8, "<= 3.5"), (200, 60, 4, "<= 1.1"))
_CP_SAT_S = 20.0
_CIRCUITS = {1: "-", 2: "<= 1.0", 4: "<= 0.2"}
_SHOTS = 1024
_SEEDS = 12


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    stick = load_scores("energy_stick")
    return [*peaks(stick), *circuits(stick)] if stick else []


def window_of(given: Any) -> TaskWindow:
    return TaskWindow(given.slots, given.duration, given.power_w, given.release, given.latest, given.edges)


def peaks(stick: ModuleType) -> list[Row]:
    """Peaks above the bound and, of 20 tasks, above the optimum that CP-SAT proves where it is installed."""
    found: list[Row] = []
    for tasks, slots, seeds, target in _WINDOWS:
        given = [stick.window(tasks, seed, slots) for seed in range(seeds)]
        schedule(window_of(given[-1]))
        over, soonest, cost, proven = [], [], [], []
        for one in given:
            window, begin = window_of(one), time.thread_time()
            plan = schedule(window)
            cost.append(1e3 * (time.thread_time() - begin))
            bound = stick.peak_bound_w(one)
            over.append(100 * (stick.peak_w(one, plan.start) / bound - 1))
            soonest.append(100 * (plan.simple_peak_w / bound - 1))
            best = None if tasks > 20 else cp_sat_peak_w(one)
            if best is not None:
                proven.append(100 * (plan.peak_w / best - 1))
        found += [
            (f"{tasks} tasks in {slots} slots: peak over the bound, mean", float(np.mean(over)), "%", target),
            *([("  over the optimum that CP-SAT proves, most", max(proven), "%", "<= 0.0001")] if proven else []),
            ("  as soon as possible: over the bound", float(np.mean(soonest)), "%", "-"),
            ("  CPU, mean", float(np.mean(cost)), "ms", "<= 50" if tasks == 20 else "<= 250"),
            ("  CPU, most", max(cost), "ms", "-"),
        ]
    return found


def cp_sat_peak_w(given: Any) -> float | None:
    """The optimum, or None where OR-tools is absent or proves none in time."""
    try:
        from ortools.sat.python import cp_model  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    model = cp_model.CpModel()
    start = [model.new_int_var(int(a), int(b), "") for a, b in zip(given.release, given.latest, strict=True)]
    for i, j in given.edges:
        model.add(start[j] >= start[i] + int(given.duration[i]))
    tasks = [model.new_fixed_size_interval_var(s, int(d), "") for s, d in zip(start, given.duration, strict=True)]
    peak = model.new_int_var(0, int(given.power_w.sum()), "")
    model.add_cumulative(tasks, [int(watts) for watts in given.power_w], peak)
    model.minimize(peak)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_time_in_seconds = _CP_SAT_S
    return float(solver.value(peak)) if solver.solve(model) == cp_model.OPTIMAL else None


def circuits(stick: ModuleType) -> list[Row]:
    """8 tasks with 4 options each, as now among them: the best of 1,024 samples over the optimum, next to random choices."""
    found: list[Row] = []
    every = np.array(list(product(range(OPTIONS), repeat=8)))
    for layers, target in _CIRCUITS.items():
        terms = SimpleNamespace(circuit_layers=layers, shots=_SHOTS, circuit_slots=8, device=None)
        gap, drawn, hit, chance, cost = [], [], [], [], []
        for seed in range(_SEEDS):
            window = window_of(stick.window(8, seed, 8))
            plan, (tasks, _) = schedule(window), tasks_of(window)
            choice = choose(window, tasks, (plan.start, plan.mode), 8, np.random.default_rng(seed))
            begin = time.thread_time()
            got = sample(choice, terms, seed)
            cost.append(1e3 * (time.thread_time() - begin))
            peak = choice.peaks_w(every)
            best = peak.min() * (1 + 1e-9)
            gap.append(100 * (got.peak_w.min() / plan.peak_w - 1))
            drawn.append(100 * (got.control_w / plan.peak_w - 1))
            hit.append(got.count[got.peak_w <= best].sum() / got.count.sum())
            chance.append((peak <= best).mean())
        found += [
            (f"QAOA of {layers} layers: best of {_SHOTS} samples over the optimum, mean", float(np.mean(gap)), "%", target),
            ("  as many random choices", float(np.mean(drawn)), "%", "-"),
            ("  probability of an optimal peak", float(np.mean(hit)), "", "-"),
            ("  of it, over that of a random choice", float(np.mean(hit) / np.mean(chance)), "", ">= 8" if layers == 2 else "-"),
            ("  CPU with its classical twin, median", float(np.median(cost)), "ms", "<= 40" if layers == 2 else "-"),
        ]
    return found
