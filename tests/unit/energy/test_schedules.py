"""Schedules of task graphs in the stream: a simple one at once, a better one later; always feasible, once, and the same again."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given as draw
from hypothesis import settings
from hypothesis import strategies as st

from qstream.ahead import Ahead
from qstream.energy import scheduler
from qstream.energy.graphs import alone, plan_graph, schedule_frame, simple_graph, window_of
from qstream.energy.memory import fresh
from qstream.energy.options import EnergyOptions
from qstream.energy.processor import EnergyProcessor
from qstream.energy.surroundings import problem_of
from qstream.errors import OptionError
from qstream.testing import Feed
from schemas.tasks import EnergySchedule
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


def test_schedules_are_the_same_computed_ahead_or_not_and_however_batched_and_across_a_restart():
    nodes, given = rack(), [graph(seed, 5, begin_s=1_000_010) for seed in range(3)]
    telemetry, found = [nodes[at % 2].telemetry("d") for at in range(9)], []
    for ahead, split, restart in ((None, False, False), (Ahead(), True, False), (Ahead(), False, True)):
        feed = started(ahead, seed=3)
        records = [feed.record(each, START_MS + 10 * at) for at, each in enumerate(given)]
        records += [feed.record(frame, START_MS + 300 * at) for at, frame in enumerate(telemetry, 1)]
        parts = [[record] for record in records] if split else [records[:5], records[5:]]
        for part in parts:
            feed.send_batch(part)
            if restart:
                feed.restart(EnergyProcessor(EnergyOptions(seed=3), None, Ahead()))
        found.append([(event.id, event.frame.encode()) for event in feed.events])
    assert len(found[0]) == 6
    assert found[0] == found[1] == found[2]


def test_a_graph_that_comes_twice_is_scheduled_once_and_a_changed_one_replaces_it(feed):
    given = graph(begin_s=1_000_010)
    (first,) = feed.send(given, at_ms=START_MS).events
    assert feed.send(given, at_ms=START_MS + 1).events == []
    (second,) = feed.send(graph(begin_s=1_000_010, slots=30), at_ms=START_MS + 2).events
    assert second.frame.base_version == first.frame.version < second.frame.version
    feed.tick(LATER_MS)
    (event,) = feed.tick(LATER_MS + 1000).events
    assert event.frame.base_version == second.frame.version
    assert feed.send(graph(begin_s=1_000_010, slots=30), at_ms=LATER_MS + 2000).events == []


def test_many_graphs_at_once_have_their_time_in_turn_and_share_watts_and_gpus(feed):
    given = [graph(seed, 5, begin_s=1_000_010, base_w=np.zeros(20, np.float32)) for seed in range(4)]
    for each in given:
        feed.send(each, at_ms=START_MS)
    node = rack()[0]
    counts = [len(feed.send(node.telemetry("d"), at_ms=START_MS + ms).events) for ms in (500, 999, 1000, 1500, 2000)]
    assert counts == [1, 0, 1, 1, 1]
    solved = feed.frames(EnergySchedule)[4:]
    load, taken = np.zeros(20), np.zeros((2, 20), int)
    for each, plan in zip(given, solved, strict=True):
        runs = zip(plan.start, plan.mode, plan.node_of_task, each.gpus, each.duration, each.power_w, strict=True)
        for start, mode, node, gpus, long, watts in runs:
            load[start : start + long[mode]] += watts[mode]
            taken[int(plan.node[node][-1]), start : start + long[mode]] += gpus
        assert plan.status != "infeasible"
    assert solved[-1].peak_w == pytest.approx(load.max())
    assert taken.max() <= 4


def test_a_large_graph_has_more_time(feed):
    feed.send(graph(1, 401, 30, begin_s=1_000_010, gpus=np.full(401, 6, np.int32)), at_ms=START_MS)
    node = rack()[0]
    assert [len(feed.send(node.telemetry("d"), at_ms=START_MS + ms).events) for ms in (500, 1499, 1500)] == [0, 0, 1]


def test_tasks_start_only_in_slots_that_are_still_to_come(feed):
    (event,) = feed.send(graph(begin_s=1_000_000 - 25), at_ms=START_MS).events
    assert event.frame.start.min() == 3
    (event,) = feed.send(graph(1, begin_s=1_000_000 - 300), at_ms=START_MS).events
    assert event.frame.status == "infeasible"
    assert len(event.frame.at_fault) == 12


def test_a_deadline_that_cannot_be_met_names_its_tasks_and_no_better_schedule_follows(feed):
    deadline = np.full(12, -1, np.int32)
    deadline[4] = 1
    (event,) = feed.send(graph(begin_s=1_000_010, deadline=deadline), at_ms=START_MS).events
    assert (event.frame.status, event.frame.at_fault) == ("infeasible", ("task-4",))
    feed.tick(LATER_MS)
    assert feed.tick(LATER_MS + 1000).events == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gpus": np.full(12, 9, np.int32)}, "gpus of task task-0 must be at most 8, the GPUs of d, got 9"),
        ({"ts_ns": 2**63 - 1}, "ts_ns must be before the year 2255, got 9223372036854775807"),
        (
            {"together": np.array([[0, 1]], np.int32)},
            r"edges must be without a cycle, got a cycle of the tasks \['task-0', 'task-1'\]",
        ),
    ],
)
def test_a_graph_that_contradicts_the_topology_or_itself_is_a_dead_letter(feed, fields, message):
    (letter,) = feed.send(graph(begin_s=1_000_010, **fields), at_ms=START_MS).dead
    assert re.search(message, letter.error_message)


def test_a_domain_has_no_more_graphs_at_a_time_than_its_state_can_hold(feed, monkeypatch):
    monkeypatch.setattr(scheduler, "MOST_HELD", 2)
    for seed in range(2):
        feed.send(graph(seed, 1, begin_s=1_000_010), at_ms=START_MS)
    (letter,) = feed.send(graph(2, 1, begin_s=1_000_010), at_ms=START_MS).dead
    assert (
        "graphs of a domain must be at most 2 at a time, of 32768 tasks in all, got 3 graphs with 3 tasks" in letter.error_message
    )
    assert feed.send(graph(1, 1, begin_s=1_000_020), at_ms=START_MS).dead == []


def test_a_task_with_more_gpus_than_a_node_leaves_open_where_tasks_run(feed):
    gpus = np.ones(12, np.int32)
    gpus[0] = 6
    (event,) = feed.send(graph(begin_s=1_000_010, gpus=gpus), at_ms=START_MS).events
    assert event.frame.node_of_task is None


def test_the_peak_stands_against_the_budget_with_what_the_domain_draws():
    nodes = rack()
    feed = Feed(EnergyProcessor(EnergyOptions()))
    feed.send(topology_of(nodes, 3000), at_ms=START_MS)
    for node in nodes:
        node.advance(10)
        feed.send(node.telemetry("d"), at_ms=START_MS)
    drawn = float(feed.state("d").power_w.sum())
    (event,) = feed.send(graph(begin_s=1_000_010), at_ms=START_MS).events
    plan = event.frame
    assert plan.budget_w == 3000
    assert plan.missing_w == pytest.approx(max(0.0, plan.peak_w - 3000))
    begin_ns = (1_000_010 + 10 * np.arange(20)) * 10**9
    (held,) = feed.state("d").graphs
    assert plan.peak_w == pytest.approx(drawn + held.load_w(begin_ns, 10**10).max())
    given = graph(1, begin_s=1_000_010, base_w=np.full(20, 100, np.float32))
    (event,) = feed.send(given, at_ms=START_MS).events
    both = sum(held.load_w(begin_ns, 10**10) for held in feed.state("d").graphs)
    assert event.frame.peak_w == pytest.approx(100 + both.max())


def test_a_schedule_that_comes_with_a_plan_and_a_demand_has_an_id_of_its_own():
    nodes = rack()
    feed = Feed(EnergyProcessor(EnergyOptions()))
    feed.send(topology_of(nodes, 5600, parent="site"), at_ms=START_MS)
    for at_ms in (START_MS, START_MS + 9900):
        for node in nodes:
            feed.send(node.telemetry("d"), at_ms=at_ms)
    feed.send(graph(begin_s=1_000_020), at_ms=START_MS + 9950)
    sent = [event for at in (0, 1) for event in feed.send(nodes[at].telemetry("d"), at_ms=START_MS + 10_500).events]
    assert {event.topic.name.split(".")[1] for event in sent} == {"energy", "power", "tasks"}
    assert len({event.id for event in feed.events}) == len(feed.events)


def test_a_graph_that_finds_no_room_next_to_one_that_is_not_solved_yet_has_its_turn(feed):
    def wide(seed, tasks, **fields):
        shape = {"duration": np.full((tasks, 1), 2, np.int32), "power_w": np.full((tasks, 1), 300, np.float32)}
        return graph(seed, tasks, 4, begin_s=1_000_010, gpus=np.full(tasks, 4, np.int32), edges=None, **shape | fields)

    feed.send(wide(1, 2), at_ms=START_MS)
    (simple,) = feed.send(wide(2, 1, deadline=np.full(1, 2, np.int32)), at_ms=START_MS).events
    assert simple.frame.status == "infeasible"
    node = rack()[0]
    first, second = (feed.send(node.telemetry("d"), at_ms=START_MS + ms).events[0].frame for ms in (500, 1000))
    assert (first.node, second.node, second.status) == (("node-0",), ("node-1",), "optimal")


@pytest.mark.parametrize(("options", "solver"), [({"qaoa": True}, "qaoa"), ({"hqc": True}, "hqc")])
def test_circuits_refine_the_simple_schedule_and_say_what_they_are(options, solver):
    feed = started(deterministic=False, shots=256, **options)
    feed.send(graph(begin_s=1_000_010, tasks=8), at_ms=START_MS)
    feed.tick(START_MS)
    (event,) = feed.tick(LATER_MS).events
    plan = event.frame
    said = plan.solver
    assert (said.solver, said.execution, said.n, said.depth, said.shots) == (solver, "simulated-subspace", 8, 2, 256)
    assert plan.peak_w == said.objective < said.twin
    assert said.control is not None
    assert plan.fallback_reason is None


def test_a_device_that_is_not_there_is_named_and_the_classical_schedule_answers():
    feed = started(qaoa=True, device="absent")
    feed.send(graph(2, 10, 12, begin_s=1_000_010), at_ms=START_MS)
    feed.tick(START_MS)
    (event,) = feed.tick(LATER_MS).events
    assert (event.frame.fallback_reason, event.frame.solver.solver) == ("unavailable", "list")
    with pytest.raises(OptionError, match="option device must be none while qaoa and hqc are off, got 'absent'"):
        EnergyOptions().changed({"device": "absent"})


def test_with_nothing_on_the_simple_schedule_is_the_answer():
    feed = started(deterministic=False)
    (event,) = feed.send(graph(begin_s=1_000_010), at_ms=START_MS).events
    assert event.frame.solver.solver == "soonest"
    feed.tick(LATER_MS)
    assert feed.tick(LATER_MS + 1000).events == []


def test_where_planning_fails_the_simple_schedule_stays(feed, monkeypatch):
    monkeypatch.setattr(scheduler, "plan_foreseen", lambda *_, **__: 1 / 0)
    (simple,) = feed.send(graph(begin_s=1_000_010), at_ms=START_MS).events
    (event,) = feed.send(rack()[0].telemetry("d"), at_ms=LATER_MS).events
    assert (event.frame.skip_reason, event.frame.version) == ("planning_failed", simple.frame.version)
    assert event.frame.start.tobytes() == simple.frame.start.tobytes()
    assert feed.send(rack()[0].telemetry("d"), at_ms=LATER_MS + 1).events == []


@settings(max_examples=12)
@draw(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(4, 24), st.booleans())
def test_every_schedule_keeps_all_limits(seed, tasks, slots, spent):
    given = graph(seed, tasks, slots, together=np.array([[0, tasks - 1]], np.int32) if tasks > 4 else None)
    topology = topology_of(rack(), 5600)
    now = fresh(topology).now
    problem = problem_of(given, now, (), lost_s=30.0, free_ns=0)
    options = EnergyOptions(deadline_ms=1e-3 if spent else None, qaoa=not spent, shots=16)
    for found in (simple_graph(problem), plan_graph(problem, options)):
        frame = schedule_frame(problem, found, plan_id="p", ts_ns=given.ts_ns, version=1, base_version=0)
        assert frame.bound_w <= frame.peak_w + 1e-6 <= frame.simple_peak_w + 2e-6
        assert frame.at_fault if frame.status == "infeasible" else is_kept(given, frame)
