"""Request routing: conversations over prefix caches, and requests over the nodes of a placement, next to rivals."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from qstream.routing.colocate import coactivation, colocate
from qstream.routing.hashing import assign, assign_bounded
from qstream.routing.joint import label_histograms, place_and_route
from qstream.routing.pack import place_window
from qstream.routing.prefix import PrefixCache, PrefixRouter
from qstream.routing.requests import assign_requests, route_requests
from schemas.experts import ExpertTopology
from schemas.tokens import TokenBatch
from tests.benchmarks.clock import median_ms
from tests.benchmarks.stick import DATA, TRACE, load_stick

Row = tuple[str, float, str, str]

MOONCAKE = DATA / "routing" / "mooncake_conversation_6000.jsonl.gz"
WORKERS = 8
CACHE_BLOCKS = 4000
BLOCK_TOKENS = 512
WINDOW_S = 60.0
PHASES = 4  # windows start every 15 s
HALF = 3000  # settings were chosen on the requests before
STARTS = (0, 50, 100, 150, 200)  # requests left out at first: as many runs, since one is as much luck as rule
NODES = 4


def rows() -> list[Row]:
    """What was measured, its value, unit and target; nothing where the data is absent."""
    stick = load_stick()
    found = assign_rows()
    if stick is not None:
        found += joint_rows(stick, stick.load(TRACE))
    return found + (prefix_rows() if MOONCAKE.exists() else [])


def assign_rows() -> list[Row]:
    """A window of requests at once, half of them with a prefix on some worker."""
    rng = np.random.default_rng(0)
    found: list[Row] = []
    for requests, workers in ((100, 8), (1000, 8), (1000, 64)):
        work = rng.lognormal(0, 1, requests)
        overlap = rng.random((requests, workers)) * work[:, None] * (rng.random((requests, workers)) < 1 / workers)
        spent = median_ms(lambda work=work, overlap=overlap: assign_requests(work, overlap))
        found.append((f"assign {requests} requests to {workers} workers", spent, "ms", "-"))
    graph = ExpertTopology(num_layers=58, num_logical_experts=256, top_k=8, num_nodes=8, num_gpus=32, slots_per_gpu=9)
    placement = place_window(rng.lognormal(0, 1, (58, 256)), 32, 288)
    batch = TokenBatch(
        batch_id="b",
        ts_ns=1,
        model="m",
        layer=0,
        label_names=tuple("abcdefgh"),
        token_id=np.arange(8192, dtype=np.uint64),
        request_id=rng.integers(0, 1000, 8192).astype(np.uint64),
        label=rng.integers(0, 8, 8192).astype(np.int32),
        topk_ids=rng.integers(0, 256, (8192, 8)).astype(np.int32),
    )
    counts = {name: rng.integers(0, 1000, (58, 256)) for name in batch.label_names}
    spent = median_ms(lambda: route_requests(batch, graph, placement, label_counts=counts))
    return [*found, ("route a batch of 8,192 tokens, 1,000 requests; 58 x 256 experts, 8 nodes", spent, "ms", "-")]


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
    worker = assign_requests(work, np.zeros_like(copies), copies=copies, copy_cost=1.0, slack=0.05)
    load = np.bincount(worker, work, minlength=NODES)

    batch, graph, placement, counts = as_batch(traces, joint.node_of_expert)
    routed = route_requests(batch, graph, placement, label_counts=counts, slack=0.05)
    on_node = dict(zip(routed.request_id.tolist(), routed.node.tolist(), strict=True))
    by_batch = np.array([on_node[number] for number in range(len(work))])

    def remote(node_of_expert: np.ndarray, on: np.ndarray) -> float:
        return float(stick.remote_copies(held_ids, node_of_expert, on[held_request]))

    return [
        ("remote copies, contiguous placement, bounded hash", remote(contiguous, hashed), "a token+layer", "-"),
        ("remote copies, co-activation placement, bounded hash", remote(node, hashed), "a token+layer", "-"),
        ("remote copies, joint placement and routing by label", remote(joint.node_of_expert, worker), "a token+layer", "<= 1.83"),
        ("  tokens of the fullest node over mean", load.max() / load.mean(), "", "<= 1.06"),
        (
            "  the same by `route_requests` of a batch with labels",
            remote(joint.node_of_expert, by_batch),
            "a token+layer",
            "<= 1.83",
        ),
        ("  tokens of the fullest node over mean", routed.max_over_mean, "", "<= 1.06"),
    ]


def as_batch(
    traces: dict[str, Any], node_of_expert: np.ndarray
) -> tuple[TokenBatch, ExpertTopology, np.ndarray, dict[str, np.ndarray]]:
    """The sequences of odd number as a batch, a placement of equal nodes, and the label counts of those of even number."""
    ids, request, label = requests_of(traces, 0)
    _, held_request, held_label = requests_of(traces, 1)
    layers, experts = node_of_expert.shape
    counts = label_histograms(ids, label[request], experts)
    graph = ExpertTopology(
        num_layers=layers, num_logical_experts=experts, top_k=6, num_nodes=NODES, num_gpus=NODES, slots_per_gpu=experts // NODES
    )
    batch = TokenBatch(
        batch_id="b",
        ts_ns=1,
        model="m",
        label_names=tuple(traces),
        token_id=np.arange(len(held_request), dtype=np.uint64),
        request_id=held_request.astype(np.uint64),
        label=held_label[held_request],
    )
    placement = np.argsort(node_of_expert, axis=1, kind="stable").astype(np.int32)
    return batch, graph, placement, dict(zip(traces, counts, strict=True))


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


@dataclass(frozen=True, slots=True)
class Request:
    """A request as a router sees it: what it asks, the leading blocks that workers hold, their work of about the last 60 s."""

    number: int
    now_s: float
    hashes: list[int]
    prompt_tokens: int
    output_tokens: int
    overlap: np.ndarray
    recent: np.ndarray


Choose = Callable[[Request], int]


@dataclass(frozen=True, slots=True)
class Replay:
    """What became of each request of the trace: work is blocks that the worker's cache lacked, plus blocks written."""

    workers: int
    start: int = 0
    now_s: list[float] = field(default_factory=list)
    worker: list[int] = field(default_factory=list)
    hits: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    spent_s: list[float] = field(default_factory=list)

    def hit_rate(self, first: int = 0) -> float:
        """Part of all prompt blocks that were held, of the requests from number `first` on."""
        return sum(self.hits[self._at(first) :]) / sum(self.blocks[self._at(first) :])

    def max_over_mean(self, first: int = 0) -> float:
        """Work of the fullest worker over the mean worker, mean over whole windows of 60 s."""
        return float(np.mean([window.max() / window.mean() for window in self._windows(first)]))

    def fullest(self, first: int = 0) -> float:
        """Work of the fullest worker in 60 s, blocks."""
        return float(np.mean([window.max() for window in self._windows(first)]))

    def decision_us(self) -> float:
        """Mean CPU time of a decision."""
        return 1e6 * float(np.mean(self.spent_s))

    def _at(self, first: int) -> int:
        return max(first - self.start, 0)

    def _windows(self, first: int) -> Iterator[np.ndarray]:
        at, worker, work = (np.array(column[self._at(first) :]) for column in (self.now_s, self.worker, self.work))
        step = WINDOW_S / PHASES
        for start in np.arange(at[0], at[-1] - WINDOW_S, step):
            inside = (at >= start) & (at < start + WINDOW_S)
            yield np.bincount(worker[inside], work[inside], self.workers)


@lru_cache(2)
def conversations(trace: Path) -> list[dict[str, Any]]:
    with gzip.open(trace, "rt") as lines:
        return [json.loads(line) for line in lines]


def replay(
    make: Callable[[int, int], Choose],
    workers: int = WORKERS,
    cache_blocks: int = CACHE_BLOCKS,
    begin: int = 0,
    trace: Path = MOONCAKE,
) -> Replay:
    """Route the requests of a conversation service, one by one from number `begin`, to workers with an LRU cache each.

    `make` gets the number of workers and the blocks of a cache. The time to look prefixes up counts only for a router that
    does it itself.
    """
    choose, out = make(workers, cache_blocks), Replay(workers, begin)
    caches = [PrefixCache(cache_blocks * (workers if make is one_cache else 1)) for _ in range(workers)]
    recent, last_s = np.zeros(workers), 0.0
    for number, line in enumerate(conversations(trace)[begin:], begin):
        now_s, hashes, written = line["timestamp"] / 1000, line["hash_ids"], line["output_length"] / BLOCK_TOKENS
        overlap = np.array([cache.overlap(hashes) for cache in caches], np.float64)
        recent *= np.exp((last_s - now_s) / WINDOW_S)
        last_s = now_s
        request = Request(number, now_s, hashes, line["input_length"], line["output_length"], overlap, recent)
        start = time.process_time()
        worker = choose(request)
        out.spent_s.append(time.process_time() - start)
        work = len(hashes) - overlap[worker] + written
        recent[worker] += work
        caches[worker].use(hashes)
        out.now_s.append(now_s)
        out.worker.append(worker)
        out.hits.append(int(overlap[worker]))
        out.blocks.append(len(hashes))
        out.work.append(float(work))
    return out


def round_robin(workers: int, cache_blocks: int) -> Choose:
    return lambda request: request.number % workers


def prefix_hash(workers: int, cache_blocks: int) -> Choose:
    """By the second block: the first is a system prompt that most requests share."""
    return lambda request: int(assign(np.array(request.hashes[:2][-1:], np.uint64), workers)[0])


def cost_router(weight: float) -> Callable[[int, int], Choose]:
    """Weight times the blocks to prefill, plus the blocks that are busy: NVIDIA Dynamo's KV router, no temperature."""
    return lambda workers, cache_blocks: (
        lambda request: int((weight * (len(request.hashes) - request.overlap) + request.recent).argmin())
    )


def least_work(workers: int, cache_blocks: int) -> Choose:
    return lambda request: int(request.recent.argmin())


def bounded_loads(workers: int, cache_blocks: int) -> Choose:
    """`assign_requests` for a window of one request."""

    def choose(request: Request) -> int:
        work = len(request.hashes) + request.output_tokens / BLOCK_TOKENS
        return int(assign_requests(np.array([work]), request.overlap[None], queue=request.recent)[0])

    return choose


def one_cache(workers: int, cache_blocks: int) -> Choose:
    """All requests to one worker, which gets the caches of all: what can be hit without copies of blocks."""
    return lambda request: 0


def ours(workers: int, cache_blocks: int) -> Choose:
    router = PrefixRouter(workers, cache_blocks, block_tokens=BLOCK_TOKENS)
    return lambda asked: router.choose(asked.hashes, asked.prompt_tokens, asked.output_tokens, asked.now_s)


def ours_blind(workers: int, cache_blocks: int) -> Choose:
    """Ours where it is not known how long an answer will be."""
    router = PrefixRouter(workers, cache_blocks, block_tokens=BLOCK_TOKENS)
    return lambda asked: router.choose(asked.hashes, asked.prompt_tokens, 350, asked.now_s)


ROUTERS: dict[str, Callable[[int, int], Choose]] = {
    "round robin": round_robin,
    "least work": least_work,
    "prefix hash": prefix_hash,
    "cost router, weight 4": cost_router(4.0),
    "cost router, weight 16": cost_router(16.0),
    "bounded loads, slack .2": bounded_loads,
    "ours": ours,
    "ours, answers of unknown length": ours_blind,
    "one cache for all": one_cache,
}


def prefix_rows() -> list[Row]:
    """8 workers of 4,000 blocks, settings chosen on the first half; then other numbers and sizes, second half only."""
    found: list[Row] = []
    runs = {name: [replay(make, begin=begin) for begin in STARTS] for name, make in ROUTERS.items()}
    least_hit = f">= {mean_of(runs['cost router, weight 4'], Replay.hit_rate):.3f}"
    for name, made in runs.items():
        mine = name == "ours"
        found.append((f"8 workers, {name}: hit rate", mean_of(made, Replay.hit_rate), "", least_hit if mine else "-"))
        found.append(("  of the second half", mean_of(made, lambda run: run.hit_rate(HALF)), "", "-"))
        if name != "one cache for all":
            balance = mean_of(made, Replay.max_over_mean)
            found += [
                ("  work of 60 s, fullest worker over mean", balance, "", "<= 1.20" if mine else "-"),
                ("  of the second half", mean_of(made, lambda run: run.max_over_mean(HALF)), "", "-"),
                (
                    "  work of the fullest worker in 60 s, second half",
                    mean_of(made, lambda run: run.fullest(HALF)),
                    "blocks",
                    "-",
                ),
                ("  a decision", mean_of(made, Replay.decision_us), "us", "<= 50" if mine else "-"),
            ]
    for workers, blocks in ((4, 4000), (16, 4000), (8, 2000), (8, 8000)):
        for name in ("cost router, weight 4", "cost router, weight 16", "ours", "one cache for all"):
            made = [replay(ROUTERS[name], workers, blocks, begin) for begin in STARTS]
            hits = mean_of(made, lambda run: run.hit_rate(HALF))
            found.append((f"{workers} workers of {blocks}, {name}: hit rate, second half", hits, "", "-"))
            if name != "one cache for all":
                balance = mean_of(made, lambda run: run.max_over_mean(HALF))
                found.append(("  work of 60 s, fullest worker over mean", balance, "", "-"))
                found.append(
                    ("  work of the fullest worker in 60 s", mean_of(made, lambda run: run.fullest(HALF)), "blocks", "-")
                )
    return found


def mean_of(runs: list[Replay], figure: Callable[[Replay], float]) -> float:
    return float(np.mean([figure(run) for run in runs]))
