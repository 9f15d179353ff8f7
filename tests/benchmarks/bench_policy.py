"""Measures the agent's whole placement policy on real routing: what is in force, scored on the window that follows."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

import numpy as np

from qstream.routing.options import RoutingOptions
from qstream.routing.plan import plan_placement
from qstream.routing.problem import contiguous
from schemas import ExpertTopology
from tests.benchmarks.stick import TRACE, load_stick

Row = tuple[str, float, str, str]
WINDOW = 1024
FIRST = 3  # windows seen before the first score


def rows() -> list[Row]:
    """Balancedness and moves of several options; nothing where the data folder is absent."""
    stick = load_stick()
    if stick is None:
        return []
    traces = stick.load(TRACE)
    streams = [stick.stream(traces, seed) for seed in (0, 1)]
    found: list[Row] = []
    for name, options, known, target in (
        ("default options", RoutingOptions(), "nothing", ">= 0.93"),
        ("default options, labels known", RoutingOptions(), "labels", ">= 0.93"),
        ("default options, labels and queue known", RoutingOptions(), "queue", ">= 0.935"),
        ("move_cost=0", RoutingOptions(move_cost=0.0), "nothing", ">= 0.93"),
        ("placement=fast", RoutingOptions(placement="fast"), "nothing", ">= 0.915"),
    ):
        balancedness, moved, cpu_ms = follow(stick, streams, options, known)
        found += [
            (f"policy, {name}: next-window balancedness of the plan in force", balancedness, "", target),
            (f"policy, {name}: moved experts a window and layer", moved, "", "<= 6" if name == "default options" else ""),
            (f"policy, {name}: CPU a decision, 26 layers", cpu_ms, "ms", ""),
        ]
    return found


def follow(stick: ModuleType, streams: list[Any], options: RoutingOptions, known: str) -> tuple[float, float, float]:
    """Mean balancedness, moved experts and CPU time of the policy over streams and P = 72, 96 slots on 8 GPUs."""
    scores, moves, decisions, cpu_s = [], [], 0, 0.0
    for stream in streams:
        history = stick.window_counts(stream.ids, WINDOW)
        for slots in (72, 96):
            topology = ExpertTopology(num_layers=26, num_logical_experts=64, top_k=6, num_gpus=8, slots_per_gpu=slots // 8)
            plan = contiguous(topology)
            for i in range(len(history) - 1):
                demand = {} if known == "nothing" else _demand(stick, stream, i + 1, known == "queue")
                started = time.process_time()
                past = history[max(0, i + 1 - options.windows) : i + 1]
                decision = plan_placement(past, plan, topology, options, **demand)
                cpu_s += time.process_time() - started
                decisions += 1
                before, plan = plan, decision.physical_to_logical if decision.skip_reason is None else plan
                if i > FIRST:
                    moves.append(stick.moved_experts(before, plan, 8))
                if i >= FIRST:
                    scores.append(stick.balancedness(plan, history[i + 1], 8))
    return float(np.mean(scores)), float(np.mean(moves)), cpu_s / decisions * 1000


def _demand(stick: ModuleType, stream: Any, windows: int, queue: bool) -> dict[str, np.ndarray]:
    """What so many windows brought of each label, and what the next one will bring, if the queue is known."""
    now, label = windows * WINDOW, stream.label
    names = range(label.max() + 1)
    return {
        "labels": np.stack([stick.counts(stream.ids[:now][label[:now] == k]) for k in names]),
        "queued": queue * np.bincount(label[now : now + WINDOW], minlength=len(names)),
    }
