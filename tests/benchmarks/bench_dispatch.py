"""Dispatch: replica shares and capacity-limited tokens, each next to its rivals in the same run."""

from __future__ import annotations

import statistics
import time
from types import ModuleType
from typing import Any

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from qstream.routing.capacity import assign_candidates, assign_capacity, even_capacity
from qstream.routing.options import RoutingOptions
from qstream.routing.pack import place_window
from qstream.routing.problem import contiguous
from qstream.routing.shares import dispatch_shares
from qstream.routing.tokens import route_tokens
from schemas.experts import ExpertTopology
from schemas.tokens import TokenBatch
from tests.benchmarks.clock import median_ms, median_s
from tests.benchmarks.stick import TRACE, load_stick

Row = tuple[str, float, str, str]


def rows() -> list[Row]:
    """What was measured, its value, unit and target; nothing where the data is absent."""
    stick = load_stick()
    if stick is None:
        return []
    traces = stick.load(TRACE)
    return [*share_rows(stick, traces), *capacity_rows(traces), *token_rows(traces)]


def share_rows(stick: ModuleType, traces: dict[str, Any]) -> list[Row]:
    """A plan from all tasks, then one task alone: even replicas, our shares, the linear program."""
    both = stick.counts(np.concatenate([trace["ids"] for trace in traces.values()])).astype(np.float64)
    found: list[Row] = []
    for slots in (72, 80, 96):
        plan = place_window(both, 8, slots)
        topology = ExpertTopology(num_layers=26, num_logical_experts=64, num_gpus=8, slots_per_gpu=slots // 8)
        even, ours, gaps, ours_us, lp_us = [], [], [], [], []
        for trace in traces.values():
            live = stick.counts(trace["ids"]).astype(np.float64)
            shares = dispatch_shares(live, plan, topology)
            ours_us.append(1e6 * median_s(lambda live=live, plan=plan, top=topology: dispatch_shares(live, plan, top)) / 26)
            even.append(stick.balancedness(plan, live, 8))
            ours.append(stick.balancedness(plan, live, 8, shares))
            fullest = stick.gpu_loads(plan, live, 8, shares).max(1)
            for layer in range(0, 26, 5):
                start = time.perf_counter()
                best = fullest_gpu(live[layer], plan[layer], 8)
                lp_us.append(1e6 * (time.perf_counter() - start))
                gaps.append(100 * (fullest[layer] / best - 1))
        found += [
            (f"task switch, P={slots}, even replicas: balancedness, worse task", min(even), "", "-"),
            (f"task switch, P={slots}, shares: balancedness, worse task", min(ours), "", ">= 0.98" if slots == 80 else "-"),
            ("  fullest GPU above the linear program", max(gaps), "%", "<= 1"),
            ("  shares", statistics.median(ours_us), "us/layer", "<= 100"),
            ("  HiGHS on the linear program", statistics.median(lp_us), "us/layer", "-"),
        ]
    return found


def fullest_gpu(load: np.ndarray, row: np.ndarray, gpus: int) -> float:
    """Least possible load of the fullest GPU for the plan of one layer, by HiGHS."""
    slots = len(row)
    on_gpu = np.zeros((gpus, slots + 1))
    on_gpu[np.arange(slots) * gpus // slots, np.arange(slots)] = 1
    on_gpu[:, -1] = -1
    of_expert = np.zeros((len(load), slots + 1))
    of_expert[row, np.arange(slots)] = 1
    cost = np.r_[np.zeros(slots), 1.0]
    return float(linprog(cost, A_ub=on_gpu, b_ub=np.zeros(gpus), A_eq=of_expert, b_eq=load, method="highs").fun)


def some_tokens(traces: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Top-6 experts and gate weights of 10,000 real tokens in layer 10."""
    ids, weights = (np.concatenate([trace[part][:, 10] for trace in traces.values()]) for part in ("ids", "weights"))
    some = np.random.default_rng(0).choice(len(ids), 10_000, replace=False)
    return ids[some].astype(np.int32), weights[some].astype(np.float32)


def token_rows(traces: dict[str, Any]) -> list[Row]:
    """One batch from frame to plan in the process, 64 experts in 72 slots on 8 GPUs and 2 nodes."""
    ids, weights = some_tokens(traces)
    topology = ExpertTopology(num_layers=26, num_logical_experts=64, num_gpus=8, num_nodes=2, slots_per_gpu=9)
    placement = contiguous(topology)
    found: list[Row] = []
    for tokens in (256, 10_000):
        batch = TokenBatch(
            batch_id="b",
            ts_ns=0,
            model="m",
            layer=10,
            token_id=np.arange(tokens, dtype=np.uint64),
            topk_ids=ids[:tokens],
            topk_weights=weights[:tokens],
        )
        for what, options in (
            ("", RoutingOptions()),
            (" with queues", RoutingOptions(queues=True)),
            (" with capacity 1.05 and queues", RoutingOptions(capacity_factor=1.05, queues=True)),
        ):
            ms = median_ms(lambda batch=batch, to=options: route_tokens(batch, topology, to, placement=placement))
            limit = "<= 5" if tokens == 10_000 and options.capacity_factor is None else "-"
            found.append((f"route {tokens:,} tokens of top-6{what}", ms, "ms", limit))
    return found


def capacity_rows(traces: dict[str, Any]) -> list[Row]:
    """10,000 real tokens to 64 experts at 1.05 times the even load: greedy in token order, ours, HiGHS."""
    chosen, mass = some_tokens(traces)
    gate: np.ndarray = np.zeros((10_000, 64), np.float32)
    gate[np.arange(10_000)[:, None], chosen] = mass
    one, six = even_capacity(10_000, 64, 1.05), even_capacity(10_000, 64, 1.05, 6)
    start = time.perf_counter()
    best = most_gate_mass(gate, one)
    lp_ms = 1e3 * (time.perf_counter() - start)
    plan, all_six = assign_candidates(chosen, mass, one), assign_candidates(chosen, mass, six, k=6)
    cost = np.random.default_rng(1).uniform(0.5, 2, len(gate)).astype(np.float32)
    costly_room = np.full(64, 1.05 * cost.sum() / 64)
    costly = assign_candidates(chosen, mass, costly_room, cost=cost)
    costly_best = most_gate_mass(gate, costly_room, cost)
    return [
        ("capacity 1.05, greedy in token order: gate mass of the LP", 100 * greedy_mass(gate, one) / best, "%", "-"),
        ("capacity 1.05, ours: gate mass of the LP", 100 * plan.gate_mass / best, "%", ">= 99.5"),
        ("  ours", 1e3 * median_s(lambda: assign_candidates(chosen, mass, one)), "ms", "<= 20"),
        ("  ours, from a dense gate", 1e3 * median_s(lambda: assign_capacity(gate, one)), "ms", "<= 20"),
        ("  HiGHS on the linear program", lp_ms, "ms", "-"),
        ("  proven bound over the LP", 100 * plan.bound / best, "%", "-"),
        ("  tokens off their candidates", 100 * plan.off_candidate, "%", "-"),
        ("  fullest expert over mean", plan.max_over_mean, "", "<= 1.06"),
        ("capacity 1.05, six experts a token: gate mass of the bound", 100 * all_six.gate_mass / all_six.bound, "%", ">= 99.5"),
        ("  ours", 1e3 * median_s(lambda: assign_candidates(chosen, mass, six, k=6)), "ms", "-"),
        ("capacity 1.05, token costs .5 to 2: gate mass of the LP", 100 * costly.gate_mass / costly_best, "%", ">= 99.5"),
    ]


def most_gate_mass(gate: np.ndarray, room: np.ndarray, cost: np.ndarray | None = None) -> float:
    """The linear program's optimum by HiGHS; pairs without mass are left out, which only raises it."""
    token, expert = np.nonzero(gate)
    pairs, tokens = np.arange(len(token)), len(gate)
    used = np.ones(len(token)) if cost is None else cost[token]
    rules = coo_array((np.r_[np.ones(len(token)), used], (np.r_[token, tokens + expert], np.r_[pairs, pairs])))
    limits = np.r_[np.ones(tokens), room]
    return -float(linprog(-gate[token, expert], A_ub=rules.tocsr(), b_ub=limits, bounds=(0, 1), method="highs").fun)


def greedy_mass(gate: np.ndarray, room: np.ndarray) -> float:
    """Gate mass when each token in turn takes its best expert with room."""
    left, mass = room.copy(), 0.0
    for row in gate:
        e = int(np.where(left >= 1, row, -1).argmax())
        left[e] -= 1
        mass += float(row[e])
    return mass
