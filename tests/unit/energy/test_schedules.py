"""Schedules of task graphs in the stream: a simple one at once, a better one later; always feasible, once, and the same again."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.energy.graphs import alone, window_of
from qstream.energy.options import EnergyOptions
from qstream.energy.processor import EnergyProcessor
from qstream.testing import Feed
from tests.unit.energy.graphs import graph
from tests.unit.energy.racks import rack, topology_of

START_MS = 1_000_000_000
LATER_MS = START_MS + 2000


@pytest.fixture
def feed():
    return started()


def started(ahead=None, **options):
    found = Feed(EnergyProcessor(EnergyOptions(**options), None, ahead))
    found.send(topology_of(rack(), 5600), at_ms=START_MS)
    return found


def is_kept(given, plan, gpus=4):
    """Whether a schedule keeps all that its graph asks, and the GPUs of each node."""
    window = window_of(alone(given))
    start, mode, node = plan.start.astype(int), plan.mode.astype(int), plan.node_of_task
    long = window.duration[np.arange(len(start)), mode]
    for slot in range(given.slots):
        on = (start <= slot) & (slot < start + long) & (node >= 0)
        if (np.bincount(node[on], given.gpus[on], minlength=2) > gpus).any():
            return False
    return window.fits(start, mode)


def test_a_graph_has_a_simple_schedule_at_once_and_a_better_one_plan_ms_later(feed):
    given = graph(begin_s=1_000_010)
    (event,) = feed.send(given, at_ms=START_MS).events
    simple = event.frame
    assert (simple.solver.solver, simple.status, simple.version, simple.base_version) == ("soonest", "feasible", START_MS, 0)
    nodes = rack()
    assert feed.send(nodes[0].telemetry("d"), at_ms=START_MS + 499).events == []
    (event,) = feed.send(nodes[1].telemetry("d"), at_ms=START_MS + 500).events
    better = event.frame
    assert better.peak_w < simple.peak_w == better.simple_peak_w
    assert better.version > simple.version == better.base_version
    assert (better.graph_id, better.solver.solver) == ("graph-0", "list")
    assert is_kept(given, simple)
    assert is_kept(given, better)
    assert feed.send(nodes[0].telemetry("d"), at_ms=LATER_MS).events == []
