"""Graphs of tasks as a cluster runs them: pipelines that share a data set, of whose size each task has only an estimate."""

from __future__ import annotations

import numpy as np

from schemas.tasks import TaskGraph

STAGES = ("tokenise", "train", "evaluate", "infer")
TDP_W = np.array([300.0, 400.0, 700.0])
SPEED = np.array([1.0, 2.2, 4.0])
CAPS = np.array([1.0, 0.8, 0.6])
SLOT_S = 60.0


def graph(seed: int, *, measured: float = 1.0, linked: bool = True, slots: int = 60, scale: float = 1.0) -> TaskGraph:
    """Two to four pipelines of four tasks in three power modes. `measured` is the part of tasks that were, the others declare
    upper bounds: what their users asked for and what the GPUs can draw. Without `linked`, tasks share nothing."""
    return pair(seed, measured=measured, linked=linked, slots=slots, scale=scale)[0]


def pair(
    seed: int, *, measured: float = 0.5, linked: bool = True, slots: int = 60, scale: float = 1.0
) -> tuple[TaskGraph, TaskGraph]:
    """What is declared, and the same graph once all tasks have run."""
    rng = np.random.default_rng([seed, 12])
    pipelines = int(rng.integers(2, 5))
    stage = np.tile(np.arange(4), pipelines)
    tasks = len(stage)
    size = np.repeat(rng.normal(0, 0.8, pipelines), 4) if linked else rng.normal(0, 0.8, tasks)
    width = np.repeat(rng.normal(0, 0.5, pipelines), 4) if linked else rng.normal(0, 0.5, tasks)
    model = np.repeat(rng.integers(0, 3, pipelines), 4) if linked else rng.integers(0, 3, tasks)
    gpus = np.where(stage == 1, rng.choice([2, 4], tasks), 1)
    base = np.array([120.0, 420.0, 150.0, 240.0])[stage] * scale
    time_s = base * np.exp(size + 0.6 * width) / SPEED[model] / gpus**0.9 * np.exp(rng.normal(0, 0.08, tasks))
    activity = np.array([0.35, 0.9, 0.6, 0.5])[stage] * np.exp(0.15 * np.tanh(width)) * np.exp(rng.normal(0, 0.04, tasks))
    bound = np.array([0.2, 0.85, 0.6, 0.3])[stage][:, None]
    clock = np.cbrt(CAPS)
    seconds = time_s[:, None] * (bound / clock + 1 - bound)
    watts = gpus[:, None] * TDP_W[model][:, None] * np.minimum(activity, 1.0)[:, None] * CAPS
    guess = np.exp(rng.uniform(0.4, 1.4, tasks))
    seen = rng.random(tasks) < measured
    feature = np.c_[size + rng.normal(0, 0.8, tasks), width + rng.normal(0, 0.4, tasks), np.eye(3)[model]]
    duration = np.clip(np.ceil(seconds / SLOT_S), 1, slots // 4)
    asked = np.clip(np.ceil(seconds * guess[:, None] / SLOT_S), duration, slots // 4)
    nameplate = np.broadcast_to((gpus * TDP_W[model])[:, None] * CAPS, watts.shape)
    edges = [[4 * p + s, 4 * p + s + 1] for p in range(pipelines) for s in range(3)] if linked else []
    same = {
        "domain": "rack-1",
        "ts_ns": 1_700_000_000_000_000_000 + seed * 3_600_000_000_000,
        "graph_id": f"night-{seed}",
        "slot_s": SLOT_S,
        "slots": slots,
        "task": tuple(f"{seed}/{p}/{STAGES[s]}" for p in range(pipelines) for s in range(4)),
        "category": tuple(STAGES[s] for s in stage),
        "gpus": gpus.astype(np.int32),
        "feature": feature.astype(np.float32),
        **({"edges": np.array(edges, np.int32)} if edges else {}),
    }
    known = seen[:, None]
    declared = TaskGraph.build(
        duration=np.where(known, duration, asked).astype(np.int32),
        power_w=np.where(known, watts, nameplate).astype(np.float32),
        measured=seen.astype(np.uint8),
        **same,
    )
    came = TaskGraph.build(duration=duration.astype(np.int32), power_w=watts.astype(np.float32), **same)
    return declared, came
