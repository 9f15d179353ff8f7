"""Serving counts: the same as `plan_active` in the stream, once a window, at once where another number is needed."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.energy import plan_active
from qstream.energy.memory import fresh
from qstream.energy.serving import served
from schemas.energy import EnergyPlan
from schemas.power import ServingLoad
from tests.unit.energy.loops import START_S, Loop
from tests.unit.energy.racks import rack, topology_of


def load(window, tokens_s, replicas=8, **fields):
    given = {"model": "chat", "window_s": 10.0, "capacity_tokens_s": 100.0}
    return ServingLoad(domain="d", ts_ns=(START_S + 10 * window) * 10**9, tokens_s=tokens_s, replicas=replicas, **given | fields)


def test_counts_in_the_stream_are_those_of_plan_active():
    demand = np.abs(np.random.default_rng(1).normal(400, 150, 200))
    topology, models, counts = fresh(topology_of(rack(), 5600)).now.topology, (), [8]
    for window, tokens_s in enumerate(demand.tolist()):
        models = served(models, load(window, tokens_s), topology)
        counts.append(models[0].active)
    assert counts[:-1] == plan_active(demand, 100.0, 8).tolist()
    assert len(set(counts)) > 3


def test_another_number_makes_a_plan_at_once_and_a_window_counts_once():
    nodes = rack()
    loop = Loop(nodes, topology_of(nodes, 5600), probe=False)
    loop.run(20)
    seen = len(loop.feed.frames(EnergyPlan))
    for window in range(3):
        loop.send(load(window, 150.0))
        loop.send(load(window, 150.0))
    first, plan = loop.feed.frames(EnergyPlan)[seen:]
    assert first.active_replicas.tolist() == [8]
    assert (plan.served, plan.active_replicas.tolist(), plan.active_gpus) == (("chat",), [7], 7)
    loop.send(load(3, 900.0, model="code", gpus_per_replica=2, replicas=1))
    plan = loop.feed.frames(EnergyPlan)[-1]
    assert (plan.served, plan.active_replicas.tolist(), plan.active_gpus) == (("chat", "code"), [7, 4], 7)
    assert loop.run(20)[-1].active_replicas.tolist() == [7, 4]


def test_demand_beyond_all_measure_asks_for_all_replicas():
    topology, models = topology_of(rack(), 5600), ()
    for window, tokens_s in enumerate([1e-320, 1e308, 1e-320, *[1e308] * 6]):
        models = served(models, load(window, tokens_s, capacity_tokens_s=1e-10), topology)
    assert models[0].active == 8
    assert np.isfinite(models[0].errors).all()


def test_one_more_replica_than_were_active_is_needed_where_the_objective_is_missed():
    topology = topology_of(rack(), 5600)
    models = served((), load(0, 50.0, 3, itl_p95_ms=70.0, slo_itl_ms=50.0), topology)
    assert models[0].active == 4
    assert served((), load(0, 50.0, 3, itl_p95_ms=40.0, slo_itl_ms=50.0), topology)[0].active == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"replicas": 9}, "replicas must be at most 8 of 1 GPUs, as d has 8, got 9"),
        (
            {"replicas": 2, "gpus_per_replica": 4, "most_replicas": 3},
            "most_replicas must be at most 2 of 4 GPUs, as d has 8, got 3",
        ),
    ],
)
def test_replicas_that_contradict_the_topology_are_a_dead_letter(fields, message):
    nodes = rack()
    loop = Loop(nodes, topology_of(nodes, 5600))
    (letter,) = loop.feed.send(load(0, 50.0, **fields), at_ms=START_S * 1000).dead
    assert message in letter.error_message
