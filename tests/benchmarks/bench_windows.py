"""Windows on real routing: QAOA next to enumeration, greedy exchanges and its control at p = 0; exact splits; whole plans."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import TypeVar

import numpy as np

from qstream.routing.colocate import coactivation, colocate
from qstream.routing.hybrid import improve_placement
from qstream.routing.partitions import gpu_partitions, gpu_plan, node_partitions, nodes_of
from qstream.routing.scenarios import place_scenarios
from qstream.routing.window_model import Partition
from qstream.routing.windows import Improved, WindowSettings, improve
from tests.benchmarks.stick import TRACE, load_stick

Row = tuple[str, float, str, str]
Result = TypeVar("Result")
Partitions = tuple[Partition, ...]

LAYERS = range(0, 26, 5)
WINDOW, GPUS, SLOTS = 1024, 8, 72
GOALS = {8: ">= 0.97", 10: ">= 0.95", 12: ">= 0.85"}


def rows() -> list[Row]:
    """Nothing without the data folder."""
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 - comes with the extra that this measures

    stick = load_stick()
    if stick is None:
        return []
    traces = stick.load(TRACE)
    first, second = (np.concatenate([np.array_split(t["ids"], 2)[half] for t in traces.values()]) for half in (0, 1))
    together = coactivation(first[:, LAYERS].astype(np.int32), 64)
    with threadpool_limits(1):
        return [
            *window_rows(together),
            *split_rows(together),
            *node_rows(stick, together, second[:, LAYERS]),
            *gpu_rows(stick, traces),
        ]


def window_rows(together: np.ndarray) -> list[Row]:
    """24 windows in each of 6 layers, 64 experts on 4 nodes, 32 shots, p = 2; shares of the energy that enumeration gains."""
    found: list[Row] = []
    for start, steps in (("even load", 0), ("annealed, 1,000 steps", 1000)):
        given = node_partitions(colocate(together, np.full(4, 16), steps=steps), together, 4)
        for n, goal in GOALS.items():
            exact = WindowSettings(size=n, count=24)
            cold, warm = replace(exact, solver="qaoa"), replace(exact, solver="qaoa", warm=True)
            runs = {name: _timed(given, settings) for name, settings in (("cold", cold), ("warm", warm), ("exact", exact))}
            greedy = _timed(given, replace(exact, solver="greedy"))
            best = {name: _captured(run) for name, (run, _) in runs.items() if name != "exact"}
            worse = sum(
                new.objective() > old.objective() + 1e-12
                for run, _ in runs.values()
                for old, new in zip(given, run.partitions, strict=True)
            )
            found += [
                (f"windows of {n}, from {start}: QAOA captures", best["cold"][0], "of exact", goal if steps == 0 else "-"),
                ("  started around the plan", best["warm"][0], "of exact", "-"),
                ("  control: as many samples at p = 0, uniform", best["cold"][1], "of exact", "-"),
                ("  control: as many samples at p = 0, around the plan", best["warm"][1], "of exact", "-"),
                ("  expectation, (E_max - E) / (E_max - E_min)", best["cold"][2], "", "-"),
                ("  probability of the optimum", best["cold"][3], "", "-"),
                ("  objective gained by QAOA", _gained(runs["cold"][0]), "of exact", "-"),
                ("  objective gained by greedy exchanges", _gained(greedy[0]), "of exact", "-"),
                ("  layers that became worse", float(worse), "", "0"),
                ("  time: QAOA", runs["cold"][1], "ms a window", "-"),
                ("  time: enumeration", runs["exact"][1], "ms a window", "-"),
                ("  time: greedy exchanges", greedy[1], "ms a window", "-"),
            ]
    return found


def split_rows(together: np.ndarray) -> list[Row]:
    """Two nodes, the first E experts of 6 layers, at most 1.05 of the even load: against all splits."""
    found: list[Row] = []
    for experts in (12, 16, 24):
        pairs = together[:, :experts, :experts]
        annealed = colocate(pairs, np.full(2, experts // 2))
        given = node_partitions(annealed, pairs, 2)
        best = [best_split(partition) for partition in given]
        for solver in ("exact", "qaoa"):
            after = improve(given, WindowSettings(solver=solver, size=12, count=64)).partitions
            hits = np.mean([new.objective() <= least + 1e-9 for new, least in zip(after, best, strict=True)])
            found.append((f"{experts} experts on 2 nodes, annealing and {solver} windows: optimal", float(hits), "", "1"))
        hits = np.mean([new.objective() <= least + 1e-9 for new, least in zip(given, best, strict=True)])
        found.append(("  annealing alone", float(hits), "", "-"))
    return found


def node_rows(stick: ModuleType, together: np.ndarray, unseen: np.ndarray) -> list[Row]:
    """64 experts on 4 nodes: nodes a token of the unseen half touches, after windows and after as much more annealing."""
    found: list[Row] = []

    def row(name: str, node: np.ndarray, ms: float) -> None:
        touched = np.mean([stick.nodes_per_token(unseen[:, i], node[i]) for i in range(len(node))])
        cost = sum(partition.objective() for partition in node_partitions(node, together, 4)) / len(node)
        found.extend(
            [
                (f"4 nodes, {name}: objective", cost, "", "-"),
                ("  nodes a token touches", float(touched), "", "-"),
                ("  time", ms, "ms a layer", "-"),
            ]
        )

    for steps in (1000, 40_000, 400_000):
        node, ms = _clocked(lambda steps=steps: colocate(together, np.full(4, 16), steps=steps))
        row(f"annealing, {steps:,} steps", node, ms / len(node))
        given = node_partitions(node, together, 4)
        for solver in ("exact", "qaoa") if steps < 400_000 else ():
            run, ms = _clocked(lambda given=given, solver=solver: improve(given, WindowSettings(solver=solver, count=32)))
            row(f"  then 32 {solver} windows", nodes_of(run.partitions), ms / len(node))
    return found


def gpu_rows(stick: ModuleType, traces: dict[str, dict[str, np.ndarray]]) -> list[Row]:
    """72 slots on 8 GPUs, plans for every third window of two streams: objective of the past, balancedness of the next window."""
    histories = []
    for seed in (0, 1):
        windows = stick.window_counts(stick.stream(traces, seed).ids, WINDOW).astype(np.float64)
        histories += [(windows[:i], windows[i]) for i in range(4, len(windows), 3)]
    found: list[Row] = []
    arms = (
        ("deterministic, 3,000 steps", 3000, {}),
        ("deterministic, 20,000 steps", 20_000, {}),
        ("QAOA", 3000, {"qaoa": True}),
        ("HQC, enumeration", 3000, {"hqc_turns": True}),
        ("QAOA and HQC", 3000, {"qaoa": True, "hqc_turns": True}),
        ("all three in 50 ms", 3000, {"qaoa": True, "hqc_turns": True, "deadline_s": 0.05}),
    )
    for name, steps, more in arms:
        past, following, times = [], [], []
        for history, unseen in histories:
            plan, planned_ms = _clocked(lambda h=history, s=steps: place_scenarios(h, GPUS, SLOTS, steps=s))
            given = gpu_partitions(plan, history, GPUS)
            terms = {"qaoa": False, "hqc_turns": False, **more}
            outcome, ms = _clocked(lambda g=given, t=terms: improve_placement(g, WindowSettings(), **t))
            new = gpu_plan(outcome.race.answer, plan)
            past.append(sum(partition.objective() for partition in outcome.race.answer) / len(plan))
            following.append(stick.balancedness(new, unseen, GPUS))
            times.append(planned_ms + (ms if more else 0.0))
        found += [
            (f"8 GPUs, {name}: fullest over mean, planned windows", statistics.mean(past), "", "-"),
            ("  next-window balancedness", statistics.mean(following), "", "-"),
            ("  time, 26 layers", statistics.median(times), "ms", "-"),
        ]
    return found


def best_split(partition: Partition) -> float:
    """The lowest objective of all splits into two equal halves, by enumeration."""
    experts, prices = len(partition.bin_of), partition.prices
    assert partition.together is not None
    chosen = itertools.combinations(range(1, experts), experts // 2 - 1)
    load, pairs, lowest = partition.load[:, 0], partition.together, math.inf
    while block := list(itertools.islice(chosen, 200_000)):
        side = np.full((len(block), experts), -1.0)
        side[:, 0] = 1.0
        np.put_along_axis(side, np.array(block), 1.0, 1)
        cut = 0.25 * (pairs.sum() - np.einsum("xe,xe->x", side @ pairs, side))
        fuller = 1.0 + 0.5 * np.abs(side @ load)
        lowest = min(lowest, float((prices.traffic * cut + prices.over * np.maximum(fuller - prices.limit, 0.0)).min()))
    return lowest


def _captured(run: Improved) -> tuple[float, float, float, float]:
    """Means over windows that have something to gain: captured by QAOA and by its control, ratio, probability of the optimum."""
    circuits = [r.circuit for r in run.records if r.circuit is not None and r.circuit.before - r.circuit.optimum > 1e-9]
    parts = [(c.captured, c.control_captured, c.ratio or 0.0, c.p_opt or 0.0) for c in circuits]
    captured, control, ratio, p_opt = (float(x) for x in np.mean(parts, axis=0))
    return captured, control, ratio, p_opt


def _gained(run: Improved) -> float:
    return sum(record.gain for record in run.records) / sum(record.best_gain for record in run.records)


def _timed(given: Partitions, settings: WindowSettings) -> tuple[Improved, float]:
    improve(given, replace(settings, count=1))
    run, ms = _clocked(lambda: improve(given, settings))
    return run, ms / len(run.records)


def _clocked(call: Callable[[], Result]) -> tuple[Result, float]:
    start = time.perf_counter()
    result = call()
    return result, 1e3 * (time.perf_counter() - start)
