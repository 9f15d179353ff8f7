"""Warming loads all kernels, and one compiled form of each serves every caller."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
from numba.core.dispatcher import Dispatcher

import qstream.routing
from qstream.routing.hashing import assign_bounded, choose_replica
from qstream.routing.migrate import align
from qstream.routing.scenarios import anneal, place_scenarios
from qstream.routing.score import cross_node_copies
from qstream.routing.warm import warm

# The kernels that Python calls; the others are compiled into them.
ENTRIES = {"_assign", "_assign_bounded", "_choose_replica", "_replicate", "_pack", "_swap", "_anneal", "_align", "_copies"}


def forms() -> dict[str, int]:
    """How many compiled forms each kernel of the numeric files has."""
    found: dict[str, int] = {}
    for file in pkgutil.iter_modules(qstream.routing.__path__):
        if file.name in {"hashing", "migrate", "pack", "replicate", "scenarios", "score"}:
            module = importlib.import_module(f"qstream.routing.{file.name}")
            found |= {f"{file.name}.{n}": len(k.signatures) for n, k in vars(module).items() if isinstance(k, Dispatcher)}
    return found


def test_after_warming_no_layout_dtype_or_read_only_view_compiles_anything() -> None:
    warm()
    before = forms()
    entries = {name for name in before if name.split(".")[1] in ENTRIES}
    assert len(entries) == len(ENTRIES)
    assert {name: before[name] for name in entries} == dict.fromkeys(entries, 1)
    history = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
    history.flags.writeable = False
    plan = place_scenarios(history.astype(np.float32), 2, 4, steps=3, seed=9)
    plan.flags.writeable = False
    anneal(align(plan.astype(np.int64), plan[:, ::1], 2), np.asfortranarray(history), 2, steps=3, move_cost=1)
    ids = np.arange(6, dtype=np.uint64)[::2]
    cost: np.ndarray = np.ones(3, np.float64)
    assign_bounded(ids, 3, 1, cost, np.ones(3, np.int64))
    topk: np.ndarray = np.zeros((3, 2), np.uint8)
    choose_replica(ids, topk, np.zeros((1, 1), np.int64), np.ones(1, np.int64))
    cross_node_copies(topk[:, None], np.zeros((1, 1), np.int8), np.zeros(3, np.int8))
    assert forms() == before
