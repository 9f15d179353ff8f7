"""Graphs of tasks for the tests of schedules."""

from __future__ import annotations

import numpy as np

from schemas.tasks import TaskGraph


def graph(seed=0, tasks=12, slots=20, begin_s=1_000_000, **fields):
    """Tasks with two modes and edges from lower to higher numbers, in slots of 10 s."""
    rng = np.random.default_rng(seed)
    duration = rng.integers(1, 4, (tasks, 2)).astype(np.int32)
    power = rng.integers(50, 600, (tasks, 2)).astype(np.float32)
    lacks = rng.random(tasks) < 0.5
    duration[lacks, 1], power[lacks, 1] = -1, -1
    edges = [(i, i + 1) for i in range(0, tasks - 1, 3)]
    given = {
        "domain": "d",
        "ts_ns": begin_s * 10**9,
        "graph_id": f"graph-{seed}",
        "slot_s": 10.0,
        "slots": slots,
        "task": tuple(f"task-{i}" for i in range(tasks)),
        "duration": duration,
        "power_w": power,
        "gpus": rng.integers(1, 4, tasks).astype(np.int32),
        "edges": np.array(edges, np.int32) if edges else None,
    }
    return TaskGraph(**given | fields)
