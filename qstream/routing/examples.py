"""Example records for the conformance checks: one model's whole life in small, with faults."""

from __future__ import annotations

from typing import Any

import numpy as np

from qstream.contract import Record
from schemas.experts import ExpertLoad, ExpertTopology
from schemas.frame import Frame
from schemas.learning import LearnCommand
from schemas.placement import PlacementAck
from schemas.tokens import TokenBatch
from schemas.topics import EXPERTS_LOAD, EXPERTS_TOPOLOGY, LEARN_COMMAND, PLACEMENT_ACK, TOKENS_BATCH, Topic

MODEL = "m"
BATCHES = 60
LOSES_GPU = 50  # the frame before which a GPU dies
COMMANDS = {4: "freeze", 20: "thaw", 30: "reset", 40: "melt"}  # after these batches; nobody knows the last
_SHAPE = {"num_layers": 2, "num_logical_experts": 8, "top_k": 2, "num_nodes": 2, "num_gpus": 4, "slots_per_gpu": 3}


def records() -> list[Record]:
    """A model, a GPU of which dies; batches of two layers with and without gate and labels, loads, some repeated, poison, and
    commands to its learners."""
    rng = np.random.default_rng(5)
    frames: list[tuple[Topic, Frame]] = [(EXPERTS_TOPOLOGY, _topology())]
    for n in range(BATCHES):
        frames.append((TOKENS_BATCH, _batch(n, rng)))
        if n % 9 == 0:
            frames.append((EXPERTS_LOAD, _load(n, rng)))
        if n in COMMANDS:
            frames.append((LEARN_COMMAND, LearnCommand.build(module="routing", key=MODEL, command=COMMANDS[n])))
    frames.append((PLACEMENT_ACK, PlacementAck.build(model=MODEL, applied_version=1, ts_ns=BATCHES)))
    frames.insert(LOSES_GPU, (EXPERTS_TOPOLOGY, _topology(gpu_capacity=np.array([1, 1, 0, 1], np.float32))))
    offsets = dict.fromkeys((topic.name for topic, _ in frames), -1)
    found = []
    for n, (topic, frame) in enumerate(frames):
        offsets[topic.name] += 1
        found.append(Record(topic.name, 0, offsets[topic.name], MODEL, frame, 1000 + n))
    return found


def _topology(**more: Any) -> ExpertTopology:
    return ExpertTopology.build(model=MODEL, **_SHAPE, **more)


def _batch(n: int, rng: np.random.Generator) -> TokenBatch:
    """The n-th batch: now and then of a layer or an expert that the model lacks, without gate, or without labels."""
    layer = int(rng.integers(0, 3)) if n % 13 == 0 else n % 2
    tokens = int(rng.integers(100, 900))
    topk_ids = np.minimum(rng.geometric(0.4, (tokens, 2)) - 1, 7 + (n % 17 == 5))
    more: dict[str, Any] = {} if n % 11 == 3 else {"layer": layer, "topk_ids": topk_ids}
    if n % 3:
        names = tuple(f"tenant-{k}" for k in rng.permutation(9)[:4])
        more |= {"label_names": names, "label": rng.integers(-1, 4, tokens).astype(np.int32)}
    token_id = np.arange(tokens, dtype=np.uint64) + 10_000 * n
    return TokenBatch.build(batch_id=f"b{n}", ts_ns=n, model=MODEL, token_id=token_id, **more)


def _load(n: int, rng: np.random.Generator) -> ExpertLoad:
    """Counts of a window, each window twice; one has an expert too many."""
    count = rng.integers(0, 900, (2, 8 if n != 27 else 9))
    queued = {f"tenant-{k}": int(rng.integers(0, 5000)) for k in range(12)} if n % 2 else None
    window = {"window_id": str(n // 18), "t0_ns": 0, "t1_ns": 1, "num_tokens": 3000}
    return ExpertLoad.build(model=MODEL, logical_count=count, queued_by_label=queued, **window)
