"""Warming loads all kernels, and one compiled form of each serves every caller."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
from numba.core.dispatcher import Dispatcher

import qstream.learn
import qstream.routing
from qstream.routing.colocate import colocate
from qstream.routing.hashing import assign_bounded, choose_replica
from qstream.routing.migrate import align
from qstream.routing.options import RoutingOptions
from qstream.routing.processor import RoutingProcessor
from qstream.routing.scenarios import anneal, place_scenarios
from qstream.routing.score import cross_node_copies
from qstream.routing.warm import warm
from qstream.testing.feed import Feed
from schemas import ExpertLoad, ExpertTopology, TokenBatch

# The kernels that Python calls; the others are compiled into them.
ENTRIES = {
    "hashing._assign",
    "hashing._assign_bounded",
    "hashing._choose_replica",
    "replicate._replicate",
    "pack._pack",
    "pack._swap",
    "scenarios._anneal",
    "migrate._align",
    "score._copies",
    "shares._share_layers",
    "colocate._colocate",
    "sample._sample",
    "sample._count",
    "window.count_labels",
    "capacity._drop_repeats",
    "auction.surplus",
    "auction.auction",
    "capacity._fill",
    "capacity._sort",
    "adjacency._group",
    "requests._assign",
    "requests._add_choices",
}
FILES = {name.split(".")[0] for name in ENTRIES}


def forms() -> dict[str, int]:
    """How many compiled forms each kernel of the numeric files has."""
    found: dict[str, int] = {}
    for package in (qstream.routing, qstream.learn):
        for file in pkgutil.iter_modules(package.__path__):
            if file.name not in FILES:
                continue
            module = importlib.import_module(f"{package.__name__}.{file.name}")
            found |= {f"{file.name}.{n}": len(k.signatures) for n, k in vars(module).items() if isinstance(k, Dispatcher)}
    return found


def test_after_warming_no_layout_dtype_or_read_only_view_compiles_anything() -> None:
    warm()
    before = forms()
    assert {name: before[name] for name in ENTRIES} == dict.fromkeys(ENTRIES, 1)
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
    together = np.zeros((1, 4, 4), np.uint8)
    colocate(together[:, ::-1, ::-1], np.array([2, 2], np.int32), steps=3)
    assert forms() == before


def test_after_warming_the_agent_s_records_compile_nothing() -> None:
    warm()
    before = forms()
    topology = ExpertTopology(
        model="m",
        num_layers=2,
        num_logical_experts=6,
        top_k=2,
        num_nodes=2,
        num_gpus=4,
        slots_per_gpu=2,
        gpu_capacity=np.array([1, 1, 0.5, 1], np.float32),
    )
    tokens = TokenBatch(
        batch_id="b",
        ts_ns=1,
        model="m",
        layer=1,
        token_id=np.arange(8, dtype=np.uint64),
        topk_ids=np.array([[0, 1], [2, 3]] * 4, np.int32),
        label=np.array([0, 1] * 4, np.int32),
        label_names=("a", "b"),
        src_rank=np.zeros(8, np.int32),
    )
    gateless = TokenBatch(batch_id="c", ts_ns=1, model="m", token_id=np.arange(8, dtype=np.uint64))
    load = ExpertLoad(
        model="m",
        window_id="1",
        t0_ns=0,
        t1_ns=1,
        num_tokens=9,
        logical_count=np.arange(12).reshape(2, 6),
        queued_by_label={"a": 5},
    )
    for nodes in (True, False):
        options = RoutingOptions(
            window_tokens=4,
            shares_tokens=1,
            steps=5,
            colocate=nodes,
            min_gain=0,
            capacity_factor=1.5 if nodes else None,
            queues=nodes,
        )
        feed = Feed(RoutingProcessor(options))
        records = [feed.record(frame, 1000 + n) for n, frame in enumerate((topology, tokens, gateless, load))]
        assert feed.send_batch(records).dead == []
        assert feed.waiting("m") is None
    assert forms() == before
