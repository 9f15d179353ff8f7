"""Placement in full on real routing: next windows with and without labels, few moves, nodes a token touches, EPLB's own call."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType

import numpy as np

from qstream.routing.colocate import coactivation, colocate
from qstream.routing.eplb import rebalance_experts
from qstream.routing.memory import Memory
from qstream.routing.placement import PlaceOptions, place
from qstream.routing.sample import empty_sample, sample_tokens, sampled_coactivation
from qstream.routing.score import nodes_per_token
from qstream.state.fields import pack
from schemas.experts import ExpertTopology
from schemas.placement import PlacementPlan
from schemas.tokens import TokenBatch
from tests.benchmarks.clock import cpu_ms, median_ms
from tests.benchmarks.stick import TRACE, load_stick

Row = tuple[str, float, str, str]
Planner = Callable[[np.ndarray, ExpertTopology, np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]

SEEDS, SLOTS, GPUS, FIRST = (0, 1), (72, 96), 8, 3
WINDOW = 1024
LAYERS = range(0, 26, 5)


def rows() -> list[Row]:
    """Speed of EPLB's call and of the state; the rest where the data folder is present."""
    stick = load_stick()
    speeds = [*speed_rows(), *state_rows(), *sample_rows()]
    if stick is None:
        return speeds
    traces = stick.load(TRACE)
    streams = {seed: stick.stream(traces, seed) for seed in SEEDS}
    return [*speeds, *next_window_rows(stick, streams), *node_rows(stick, traces)]


def speed_rows() -> list[Row]:
    rng = np.random.default_rng(0)
    found: list[Row] = []
    for layers, experts, slots, gpus, limit in ((26, 64, 72, 8, 2), (58, 256, 288, 32, 40)):
        load = rng.lognormal(0, 1, (layers, experts))
        for algorithm in ("default", "eplb"):
            ms = median_ms(partial(rebalance_experts, load, slots, 1, 1, gpus, algorithm))
            found.append((f"rebalance_experts {layers} x {experts} -> {slots} on {gpus}, {algorithm}", ms, "ms", f"<= {limit}"))
    return found


def state_rows() -> list[Row]:
    """The state of a large model with 16 windows and 16 labels, and what a batch of 8,192 labelled tokens costs it."""
    rng = np.random.default_rng(0)
    layers, experts, tokens = 58, 256, 8192
    topology = ExpertTopology(num_layers=layers, num_logical_experts=experts, top_k=8, num_nodes=4, num_gpus=32, slots_per_gpu=9)
    names = tuple(f"tenant-{n}" for n in range(20))
    batch = TokenBatch(
        batch_id="b",
        ts_ns=1,
        model="m",
        layer=7,
        token_id=np.arange(tokens, dtype=np.uint64),
        label_names=names,
        topk_ids=rng.random((tokens, experts)).argpartition(8, 1)[:, :8].astype(np.int32),
        label=rng.integers(0, 20, tokens).astype(np.int32),
    )
    memory = Memory.fresh(topology, windows=16)
    memory.add_batch(batch, 16, 32768)
    memory.set(ring=np.ones((16, layers, experts), np.int32))
    state = memory.state()
    fields = pack(state)

    def update() -> None:
        again = Memory(state)
        again.add(np.bincount(batch.topk_ids.ravel(), minlength=experts), 7, tokens)  # type: ignore[union-attr]
        again.add_batch(batch, 16, 32768)
        pack(again.state())

    return [
        ("state of 58 x 256 experts, 16 windows, 16 labels", sum(map(len, fields.values())) / 2**20, "MiB", "<= 4"),
        ("  largest field", max(map(len, fields.values())) / 2**10, "KiB", "<= 64"),
        ("  read, a batch of 8,192 tokens, written", median_ms(update), "ms", "<= 25"),
    ]


def sample_rows() -> list[Row]:
    """Colocation of a large model, from a sample of its tokens: each of 58 layers has 16 topics, which prefer other experts."""
    rng = np.random.default_rng(0)
    layers, experts, tokens, horizon = 58, 256, 8192, 32768
    topic = rng.integers(0, 16, (tokens, 1))
    sample, seen = empty_sample(layers, experts, 8), np.zeros(layers, np.int64)
    counts, unseen = np.zeros((16, layers, experts), np.int64), []
    for layer in range(layers):
        score = rng.gumbel(size=(tokens, experts)) + rng.normal(0, 1.5, (16, experts))[topic[:, 0]]
        ids = score.argpartition(-8, 1)[:, -8:].astype(np.int32)
        sample_tokens(ids[: tokens // 2], layer, horizon, sample, seen, experts)
        counts[:, layer] = [np.bincount(part.ravel(), minlength=experts) for part in np.split(ids[: tokens // 2], 16)]
        unseen.append(ids[tokens // 2 :])
    topology = ExpertTopology(num_layers=layers, num_logical_experts=experts, top_k=8, num_nodes=4, num_gpus=32, slots_per_gpu=9)
    found: list[Row] = [
        ("sample of 58 x 256 experts", sample.nbytes / 2**20, "MiB", "<= 0.41"),
        ("  a batch of 8,192 tokens", cpu_ms(lambda: sample_tokens(ids, 7, horizon, sample, seen, experts)), "ms", "<= 0.1"),
        ("  co-activations", cpu_ms(lambda: sampled_coactivation(sample, seen, experts, horizon)), "ms", "<= 40"),
    ]
    together = sampled_coactivation(sample, seen, experts, horizon)
    for name, pairs, target in (("any node", None, "-"), ("colocated by the sample", together, "<= 300")):
        plan = place(counts, topology, coactivation=pairs).physical_to_logical_map
        assert plan is not None
        node = np.zeros((layers, experts), np.int32)
        np.put_along_axis(node, plan.astype(np.int64), np.repeat(topology.nodes(), topology.slots_per_gpu)[None], 1)
        touched = np.mean([nodes_per_token(ids, row) for ids, row in zip(unseen, node, strict=True)])
        ms = cpu_ms(partial(place, counts, topology, coactivation=pairs))
        found += [
            (f"place 58 x 256 on 4 nodes, {name}: nodes a token touches", float(touched), "", "-"),
            ("  CPU time", ms, "ms", target),
        ]
    return found


def next_window_rows(stick: ModuleType, streams: dict[int, object]) -> list[Row]:
    """Plan from every window seen, score on the next: means over seeds and slots."""

    def frame(plan: PlacementPlan) -> np.ndarray:
        assert plan.physical_to_logical_map is not None
        return plan.physical_to_logical_map

    def published(history: np.ndarray, topology: ExpertTopology, *_: object) -> np.ndarray:
        found: np.ndarray = rebalance_experts(history[-1], topology.num_slots, 1, 1, GPUS, "eplb")[0]
        return found

    tiers: tuple[tuple[str, Planner, str, str], ...] = (
        ("EPLB, published", published, "-", "-"),
        ("place", lambda h, t, *_: frame(place(h, t)), ">= 0.935", "-"),
        ("place, labels", lambda h, t, seen, queued, _: frame(place(h, t, labels=seen, queued=queued)), ">= 0.942", "-"),
        ("place, move cost .001", lambda h, t, _, __, p: frame(place(h, t, previous=p, move_cost=0.001)), ">= 0.914", "<= 6"),
        (
            "place, labels, move cost .002",
            lambda h, t, seen, queued, p: frame(place(h, t, labels=seen, queued=queued, previous=p, move_cost=0.002)),
            ">= 0.914",
            "-",
        ),
    )
    return [row for tier in tiers for row in _next_window(stick, streams, *tier)]


def _next_window(
    stick: ModuleType, streams: dict[int, object], name: str, planner: Planner, target: str, most_moved: str
) -> list[Row]:
    scores, moved, spent_ms, bad = [], [], [], 0
    for trace in streams.values():
        for slots in SLOTS:
            in_force = None
            for history, seen, queued, following in _windows(stick, trace):
                topology = ExpertTopology(
                    num_layers=26, num_logical_experts=64, top_k=6, num_gpus=GPUS, slots_per_gpu=slots // GPUS
                )
                start = time.process_time()
                plan = planner(history, topology, seen, queued, in_force)
                spent_ms.append(1e3 * (time.process_time() - start))
                scores.append(stick.balancedness(plan, following, GPUS))
                bad += stick.violations(plan, GPUS)
                if in_force is not None:
                    moved.append(stick.moved_experts(in_force, plan, GPUS))
                in_force = plan.astype(np.int32)
    return [
        (f"{name}: next-window balancedness", statistics.mean(scores), "", target),
        ("  experts without slot, and duplicates on a GPU", float(bad), "", "-" if "EPLB" in name else "0"),
        ("  moved experts", statistics.mean(moved), "a layer", most_moved),
        ("  CPU time, 26 layers", statistics.median(spent_ms), "ms", "<= 150"),
    ]


def _windows(stick: ModuleType, trace: object) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """History, counts by label so far, queued tokens by label, and the window that follows."""
    ids, label = trace.ids, trace.label  # type: ignore[attr-defined]
    windows = stick.window_counts(ids, WINDOW)
    found = []
    for i in range(FIRST, len(windows) - 1):
        now, then = (i + 1) * WINDOW, (i + 2) * WINDOW
        seen = np.stack([stick.counts(ids[:now][label[:now] == k]) for k in range(label.max() + 1)])
        queued = np.bincount(label[now:then], minlength=len(seen))
        found.append((windows[: i + 1], seen, queued, windows[i + 1]))
    return found


def node_rows(stick: ModuleType, traces: dict[str, dict[str, np.ndarray]]) -> list[Row]:
    """Four nodes of 16 experts: assigned from the first half of each task, scored on the second."""
    first, second = (np.concatenate([np.array_split(t["ids"], 2)[half] for t in traces.values()]) for half in (0, 1))
    mixed = np.random.default_rng(0).permutation(len(first))
    ids, unseen = first[mixed][:, LAYERS].astype(np.int32), second[:, LAYERS]
    together = coactivation(ids, 64)
    load = stick.counts(unseen)
    found: list[Row] = [
        ("count co-activations, tokens of 6 layers", len(ids) / median_ms(lambda: coactivation(ids, 64)), "k/s", "-")
    ]
    sample, seen = empty_sample(26, 64, 6), np.zeros(len(LAYERS), np.int64)
    sample = sample[: len(LAYERS)]
    for layer in range(len(LAYERS)):
        sample_tokens(np.ascontiguousarray(ids[:, layer]), layer, 8 * WINDOW, sample, seen, 64)
    some = sampled_coactivation(sample, seen, 64, 8 * WINDOW)
    for name, pairs, steps, target in (
        ("even load", together, 0, "-"),
        ("colocate", together, 40_000, "<= 2.51"),
        (f"colocate, {sample.shape[1]} sampled tokens", some, 40_000, "<= 2.52"),
    ):
        touched, fullest = [], []
        for seed in range(3):
            node = colocate(pairs, np.full(4, 16), steps=steps, seed=seed)
            touched.append(np.mean([stick.nodes_per_token(unseen[:, i], node[i]) for i in range(len(node))]))
            carried = np.stack([np.bincount(row, weights, minlength=4) for row, weights in zip(node, load, strict=True)])
            fullest.append((carried.max(1) / carried.mean(1)).mean())
        ms = median_ms(partial(colocate, pairs, np.full(4, 16), steps=steps)) / len(LAYERS)
        found += [
            (f"{name}: nodes a token touches, of 4", float(np.mean(touched)), "", target),
            ("  fullest node over mean", float(np.mean(fullest)), "", "<= 1.06"),
            ("  time", ms, "ms a layer", "<= 2"),
        ]
    topology = ExpertTopology(num_layers=len(LAYERS), num_logical_experts=64, top_k=6, num_nodes=4, num_gpus=8, slots_per_gpu=9)
    history = stick.window_counts(ids, WINDOW)
    for name, bonds, slack in (
        ("any node", None, 0.0),
        ("co-activation", together, 0.05),
        ("co-activation, slack .01", together, 0.01),
    ):
        plan = place(history, topology, coactivation=bonds, options=PlaceOptions(node_slack=slack)).physical_to_logical_map
        assert plan is not None
        found.append(
            (f"place on 4 nodes of 2 GPUs, {name}: balancedness, unseen half", stick.balancedness(plan, load, 8), "", "-")
        )
    return found
