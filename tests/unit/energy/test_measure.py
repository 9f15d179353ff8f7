"""Measurements: what is not significant is not accepted, what varies is measured for longer, and accepted caps are verified."""

from __future__ import annotations

import numpy as np

from qstream.energy.measure import saves
from qstream.energy.memory import LEVELS
from tests.unit.energy.loops import Loop
from tests.unit.energy.racks import rack, topology_of


def unsteady(node, spread, seed):
    """Let the work of a node's GPUs vary from ten seconds to ten seconds."""
    rng, telemetry = np.random.default_rng(seed), node.telemetry
    told, last = np.zeros(len(node.uuids)), np.zeros(len(node.uuids))
    calls, factor = [0], [np.ones(len(node.uuids))]

    def varied(domain):
        frame = telemetry(domain)
        row = frame.counter.index("progress")
        if calls[0] % 10 == 0:
            factor[0] = np.exp(spread * rng.standard_normal(len(told)))
        calls[0] += 1
        now = frame.count[row].astype(float)
        told[:] += (now - last) * factor[0]
        last[:] = now
        count = frame.count.copy()
        count[row] = told.astype(np.uint64)
        return frame.model_copy(update={"count": count})

    node.telemetry = varied


def training(spread):
    """A node of one GPU that trains, measured for 30 s at a time."""
    (node,) = nodes = rack(1, 1)
    node.load(node.uuids[0], 0.8, 0.9)
    unsteady(node, spread, 1)
    return Loop(nodes, topology_of(nodes, 700), measure_s=30.0, probe_fraction=1.0)


def test_a_cap_counts_only_if_it_saves_by_more_than_measurements_vary():
    times, draws = np.array([[-1.0, 1.02, 1.0]]), np.array([[-1.0, 285.0, 300.0]])
    for error, counts in ((0.0, True), (0.01, True), (0.012, False)):
        errors = np.full((1, 3), error, np.float32)
        assert saves(times, draws, errors).tolist() == [[False, counts, True]]
    assert saves(times, draws[:, ::-1] * 1.1, np.zeros((1, 3), np.float32)).tolist() == [[False, False, True]]


def test_a_measurement_that_varies_goes_on_for_longer_but_not_for_ever():
    loop, longest = training(0.2), 0.0
    begun = []
    for _ in range(240):
        loop.run(1)
        state = loop.feed.state("d")
        begun.append(int(state.begin_ns[0]))
        if begun[-1]:
            longest = max(longest, (state.seen_ns[0] - begun[-1]) / 1e9)
    assert 60 <= longest <= 100
    assert len(set(begun) - {0}) >= 2


def test_an_accepted_cap_is_compared_with_the_default_again():
    nodes = rack()
    loop = Loop(nodes, topology_of(nodes, 5600), verify_s=60.0)
    loop.run(120)
    before = loop.feed.state("d")
    capped = (before.accepted >= 0) & (before.accepted < LEVELS - 1)
    assert capped.any()
    seen = np.zeros(len(capped), bool)
    for _ in range(90):
        loop.run(1)
        seen |= loop.feed.state("d").level == LEVELS - 1
    after = loop.feed.state("d")
    assert seen[capped].all()
    assert (after.verified_ns > before.verified_ns)[capped].all()
    assert (after.accepted == before.accepted)[capped].all()


def test_a_gpu_that_reads_no_watts_or_whose_limit_is_fixed_is_never_probed_and_spoils_no_plan():
    nodes = rack(1, 4)
    least = np.array([200, 200, 700, 200], np.float32)  # the third has one limit alone
    loop, telemetry = Loop(nodes, topology_of(nodes, 2800, limit_min_w=least, sm_clock_mhz=None)), nodes[0].telemetry

    def without_watts(domain):
        frame = telemetry(domain)
        value, count = frame.value.copy(), frame.count.copy()
        value[[name.startswith("power_") and "limit" not in name for name in frame.metric], 0] = 0
        count[frame.counter.index("energy_mj"), 0] = 0
        return frame.model_copy(update={"value": value, "count": count})

    nodes[0].telemetry = without_watts
    plans = loop.run(60)
    assert {plan.skip_reason for plan in plans} == {None}
    state = loop.feed.state("d")
    assert state.probing.tolist() == [0, 1, 0, 1]
    assert (state.time_s[:, -1] > 0).tolist() == [False, True, True, True]
