"""Measures the agent's whole placement policy on real routing: what is in force, scored on the window that follows."""

from __future__ import annotations

import time
from types import ModuleType

import numpy as np

from qstream.routing.memory import contiguous
from qstream.routing.options import RoutingOptions
from qstream.routing.plan import plan_placement
from schemas import ExpertTopology
from tests.benchmarks.stick import TRACE, load_stick

Row = tuple[str, float, str, str]
FIRST = 3  # windows seen before the first score


def rows() -> list[Row]:
    """Balancedness and moves of several options; nothing where the data folder is absent."""
    stick = load_stick()
    if stick is None:
        return []
    traces = stick.load(TRACE)
    windows = {seed: stick.window_counts(stick.stream(traces, seed).ids) for seed in (0, 1)}
    found: list[Row] = []
    for name, options in (
        ("default options", RoutingOptions()),
        ("move_cost=0", RoutingOptions(move_cost=0.0)),
        ("placement=fast", RoutingOptions(placement="fast")),
    ):
        balancedness, moved, cpu_ms = _follow(stick, windows, options)
        found += [
            (f"policy, {name}: next-window balancedness of the plan in force", balancedness, "", ">= 0.915"),
            (f"policy, {name}: moved experts a window and layer", moved, "", ""),
            (f"policy, {name}: CPU a decision, 26 layers", cpu_ms, "ms", ""),
        ]
    return found


def _follow(stick: ModuleType, windows: dict[int, np.ndarray], options: RoutingOptions) -> tuple[float, float, float]:
    scores, moves, decisions, started = [], [], 0, time.process_time()
    for history in windows.values():
        for slots in (72, 96):
            topology = ExpertTopology(num_layers=26, num_logical_experts=64, top_k=6, num_gpus=8, slots_per_gpu=slots // 8)
            plan = contiguous(topology)
            for i in range(len(history) - 1):
                decision = plan_placement(history[max(0, i + 1 - options.windows) : i + 1], plan, topology, options)
                decisions += 1
                before, plan = plan, decision.physical_to_logical if decision.skip_reason is None else plan
                if i > FIRST:
                    moves.append(stick.moved_experts(before, plan, 8))
                if i >= FIRST:
                    scores.append(stick.balancedness(plan, history[i + 1], 8))
    return float(np.mean(scores)), float(np.mean(moves)), (time.process_time() - started) / decisions * 1000


if __name__ == "__main__":
    for what, value, unit, target in rows():
        print(f"{what:80s} {value:10.4f} {unit:4s} {target}")
