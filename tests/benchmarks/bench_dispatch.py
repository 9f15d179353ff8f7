"""Dispatch: replica shares, capacity-limited tokens, request routing, each beside its rivals in the same run."""

from __future__ import annotations

import gzip
import json
import statistics
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from qstream.routing.capacity import assign_candidates, assign_capacity, even_capacity
from qstream.routing.colocate import coactivation, colocate
from qstream.routing.hashing import assign, assign_bounded
from qstream.routing.pack import place
from qstream.routing.requests import PrefixCache, place_and_route, route_requests
from qstream.routing.shares import dispatch_shares
from schemas.experts import ExpertTopology
from tests.benchmarks.clock import median_s
from tests.benchmarks.stick import DATA, TRACE, load_stick

Row = tuple[str, float, str, str]
Router = Callable[[int, list[int], float, np.ndarray, np.ndarray], int]

MOONCAKE = DATA / "routing" / "mooncake_conversation_6000.jsonl.gz"
WORKERS = 8
CACHE_BLOCKS = 4000
BLOCK_TOKENS = 512
WINDOW_S = 60.0
NODES = 4


def rows() -> list[Row]:
    """What was measured, its value, unit and target; nothing where the data is absent."""
    stick = load_stick()
    found: list[Row] = []
    if stick is not None:
        traces = stick.load(TRACE)
        found += [*share_rows(stick, traces), *capacity_rows(traces), *joint_rows(stick, traces)]
    return found + (request_rows() if MOONCAKE.exists() else [])


def share_rows(stick: ModuleType, traces: dict[str, Any]) -> list[Row]:
    """A plan from all tasks, then one task alone: even replicas, our shares, the linear program."""
    both = stick.counts(np.concatenate([trace["ids"] for trace in traces.values()])).astype(np.float64)
    found: list[Row] = []
    for slots in (72, 80, 96):
        plan = place(both, 8, slots)
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


def capacity_rows(traces: dict[str, Any]) -> list[Row]:
    """10,000 real tokens of layer 10 to 64 experts at 1.05 times the even load: greedy in token order, ours, HiGHS."""
    ids, weights = (np.concatenate([trace[part][:, 10] for trace in traces.values()]) for part in ("ids", "weights"))
    some = np.random.default_rng(0).choice(len(ids), 10_000, replace=False)
    chosen, mass = ids[some].astype(np.int32), weights[some].astype(np.float32)
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


def joint_rows(stick: ModuleType, traces: dict[str, Any]) -> list[Row]:
    """Sequences of even number to plan, of odd number to score; 4 nodes of 16 experts, requests of up to 512 tokens."""
    ids, request, label = requests_of(traces, 0)
    held_ids, held_request, held_label = requests_of(traces, 1)
    work = np.bincount(held_request).astype(np.float64)
    hashed = assign_bounded(np.arange(len(work), dtype=np.uint64), NODES, 0.05, work.astype(np.float32))
    contiguous = np.tile(np.arange(64) // 16, (26, 1))
    sizes = np.full(NODES, 16)
    node = colocate(coactivation(ids, 64), sizes)
    joint = place_and_route(ids, request, label, 64, NODES, lambda tokens, _: colocate(coactivation(tokens, 64), sizes))
    copies = joint.copies_per_token[held_label] * work[:, None]
    worker = route_requests(work, np.zeros_like(copies), copies=copies, copy_cost=1.0, slack=0.05)
    load = np.bincount(worker, work, minlength=NODES)

    def remote(node_of_expert: np.ndarray, on: np.ndarray) -> float:
        return float(stick.remote_copies(held_ids, node_of_expert, on[held_request]))

    return [
        ("remote copies, contiguous placement, bounded hash", remote(contiguous, hashed), "a token+layer", "-"),
        ("remote copies, co-activation placement, bounded hash", remote(node, hashed), "a token+layer", "-"),
        ("remote copies, joint placement and routing by label", remote(joint.node_of_expert, worker), "a token+layer", "<= 1.83"),
        ("  tokens of the fullest node over mean", load.max() / load.mean(), "", "<= 1.06"),
    ]


def requests_of(traces: dict[str, Any], parity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens [T, L, K], request [T] and label [R] of the sequences of one parity, cut into requests of about 512 tokens."""
    ids, request, label = [], [], []
    for task, trace in enumerate(traces.values()):
        sequence = trace["sequence"]
        for number in range(parity, int(sequence.max()) + 1, 2):
            tokens = np.flatnonzero(sequence == number)
            for part in np.array_split(tokens, max(1, len(tokens) // 512)):
                ids.append(trace["ids"][part].astype(np.int32))
                request.append(np.full(len(part), len(label), np.int32))
                label.append(task)
    return np.concatenate(ids), np.concatenate(request), np.array(label, np.int32)


def request_rows() -> list[Row]:
    """6,000 requests of a conversation service on 8 workers, each with an LRU cache of 4,000 blocks."""
    found: list[Row] = []
    for name, router, hit_target, balance_target in (
        ("round robin", lambda number, *_: number % WORKERS, "-", "-"),
        ("prefix hash", _prefix_hash, "-", "-"),
        ("cost router, overlap weight 4", _cost_router, "-", "-"),
        ("ours", ours, "- (the cost router's)", "<= 1.20"),
    ):
        hit, ratio, us = replay(router)
        found += [
            (f"requests, {name}: block hit rate", hit, "", hit_target),
            ("  work of 60 s, fullest worker over mean", ratio, "", balance_target),
            ("  a decision", us, "us", "-"),
        ]
    return found


def replay(router: Router) -> tuple[float, float, float]:
    """Hit rate, mean over 60 s windows of max / mean work, and microseconds a decision, of one router on the trace.

    A router gets the number of the request, its blocks, the blocks that it will write, the leading blocks that each worker
    holds, and each worker's work of about the last 60 s. Work is blocks that no cache had, plus blocks written.
    """
    with gzip.open(MOONCAKE, "rt") as lines:
        requests = [json.loads(line) for line in lines]
    caches = [PrefixCache(CACHE_BLOCKS) for _ in range(WORKERS)]
    windows: dict[int, np.ndarray] = {}
    recent, last_s, hits, blocks, spent = np.zeros(WORKERS), 0.0, 0, 0, 0.0
    for number, request in enumerate(requests):
        now_s, hashes = request["timestamp"] / 1000, request["hash_ids"]
        written = request["output_length"] / BLOCK_TOKENS
        overlap = np.array([cache.overlap(hashes) for cache in caches], np.float64)
        recent *= np.exp((last_s - now_s) / WINDOW_S)
        last_s = now_s
        start = time.perf_counter()
        worker = router(number, hashes, written, overlap, recent)
        spent += time.perf_counter() - start
        work = len(hashes) - overlap[worker] + written
        recent[worker] += work
        windows.setdefault(int(now_s // WINDOW_S), np.zeros(WORKERS))[worker] += work
        hits += int(overlap[worker])
        blocks += len(hashes)
        caches[worker].use(hashes)
    ratio = float(np.mean([window.max() / window.mean() for window in windows.values()]))
    return hits / blocks, ratio, 1e6 * spent / len(requests)


def _prefix_hash(number: int, hashes: list[int], written: float, overlap: np.ndarray, recent: np.ndarray) -> int:
    """By the second block: the first is a system prompt that most requests share."""
    return int(assign(np.array(hashes[:2][-1:], np.uint64), WORKERS)[0])


def _cost_router(number: int, hashes: list[int], written: float, overlap: np.ndarray, recent: np.ndarray) -> int:
    """Overlap weight times the blocks to prefill, plus the blocks that are busy: NVIDIA Dynamo's KV router, no temperature."""
    return int((4.0 * (len(hashes) - overlap) + recent).argmin())


def ours(number: int, hashes: list[int], written: float, overlap: np.ndarray, recent: np.ndarray) -> int:
    """`route_requests` for a window of one request."""
    return int(route_requests(np.array([len(hashes) + written]), overlap[None], queue=recent)[0])
