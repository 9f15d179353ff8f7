"""Learners in the stream: a model answers once measured tasks have proved it, arms are never worse, and replays give the same."""

import dataclasses

import numpy as np
import pytest

from qstream.energy import features, unseen
from qstream.energy.foresight import FORESEEN, plan_foreseen
from qstream.energy.graph_offline import schedule_graph
from qstream.energy.graphs import alone, simple_graph, window_of
from qstream.energy.options import EnergyOptions
from qstream.energy.processor import EnergyProcessor
from qstream.energy.train_gnn import train_gnn
from qstream.learn.model import parts
from qstream.testing import Feed
from schemas.learning import Decisions, LearnCommand
from schemas.tasks import EnergySchedule
from tests.unit.energy import pipelines
from tests.unit.energy.graphs import graph
from tests.unit.energy.racks import rack, topology_of

START_MS = 1_000_000_000
HOUR_MS = 3_600_000
SMALL = {"shots": 32, "circuit_slots": 4, "circuit_layers": 1}


def started(**options):
    found = Feed(EnergyProcessor(EnergyOptions(**options)))
    found.send(topology_of(rack(), 5600), at_ms=START_MS)
    return found


def pair(seed, at_ms):
    """What is declared of a graph that begins then, and what its tasks came to."""
    return [one.model_copy(update={"domain": "d", "ts_ns": at_ms * 10**6}) for one in pipelines.pair(seed)]


def report(came):
    return came.model_copy(update={"measured": features.measured(came).astype("uint8")})


@pytest.fixture(scope="module")
def model():
    made, _ = train_gnn([pipelines.graph(seed) for seed in range(40)], seed=0, deadline_s=600, rounds=60)
    return dataclasses.replace(made, version=7)


def published(feed, model):
    for part in parts(model):
        feed.send(part, 0)
    return feed


def test_without_a_model_what_is_declared_holds_and_the_schedule_says_why():
    feed, (declared, _) = started(deterministic=False, gnn=True), pair(500, START_MS)
    plain = started(deterministic=False).send(declared, START_MS).events[0].frame
    frame = feed.send(declared, START_MS).events[0].frame
    assert frame.fallback_reason == "model_missing"
    assert frame.peak_w == plain.peak_w
    assert plain.fallback_reason is None
    measured = (
        feed.send(pipelines.graph(7).model_copy(update={"domain": "d", "ts_ns": START_MS * 10**6}), START_MS).events[0].frame
    )
    assert measured.fallback_reason is None
    feed.processor = feed.processor.configure({"learn": "off"})
    assert feed.send(pair(501, START_MS)[0], START_MS).events[0].frame.fallback_reason == "disabled"


def test_a_model_answers_once_measured_tasks_have_shown_that_it_is_nearer_than_what_is_declared(model):
    feed, reasons = published(started(deterministic=False, gnn=True), model), []
    for n in range(40):
        at_ms = START_MS + 2 * n * HOUR_MS
        declared, came = pair(600 + n, at_ms)
        reasons.append(feed.send(declared, at_ms).events[0].frame.fallback_reason)
        after = feed.send(report(came), at_ms + HOUR_MS).events
        assert all(event.frame.graph_id == declared.graph_id for event in after)
    first = reasons.index("not_ready")
    later = next(n for n in range(first, 40) if reasons[n] != "not_ready")
    assert 8 < later < 40
    answers = "twin_is_better" if model.config["answers"] == "twin" else None
    assert set(reasons[later:]) <= {answers, None}
    state = feed.state("d")
    assert (state.unseen.pinned.version, state.unseen.pinned.guard.promotions) == (7, 1)

    feed.send(LearnCommand.build(module="energy", key="d", command="freeze", learner="unseen.pinned"), START_MS)
    frozen = feed.send(pair(701, START_MS + 102 * HOUR_MS)[0], START_MS + 102 * HOUR_MS).events[0].frame
    assert frozen.fallback_reason == "disabled"


def test_a_schedule_on_predictions_counts_only_where_what_is_certain_does_not_get_worse(model):
    taken = 0
    for seed in range(700, 740):
        declared, _ = pipelines.pair(seed, slots=16)
        plain = plan_foreseen(alone(declared), None, EnergyOptions())
        found = plan_foreseen(alone(declared), unseen.with_predictions(declared, model), EnergyOptions())
        assert found.plan.bound_w <= found.plan.peak_w <= plain.plan.peak_w * (1 + 1e-9)
        assert window_of(alone(declared)).fits(found.plan.start, found.plan.mode)
        taken += found.plan.solver.variant == FORESEEN
    assert 0 < taken < 40


def ends(given):
    """The slot before which all tasks can be over."""
    plan = simple_graph(alone(given)).plan
    return int((plan.start + given.duration[np.arange(len(plan.start)), plan.mode]).max())


def test_where_only_what_is_foreseen_keeps_a_deadline_it_answers_and_circuits_may_refine_it(model):
    given = [pipelines.pair(seed)[0] for seed in range(700, 710)]
    declared = next(one for one in given if ends(unseen.with_predictions(one, model)) < ends(one))
    tight = np.full(len(declared.task), ends(declared) - 1, np.int32)
    declared = declared.model_copy(update={"deadline": tight})
    options = EnergyOptions(gnn=True, qaoa=True, **SMALL)
    assert schedule_graph(declared, options=options).status == "infeasible"
    found = schedule_graph(declared, options=options, model=model)
    assert found.status != "infeasible"
    assert found.solver.variant == FORESEEN


def chosen(batched, **options):
    """Twelve graphs one after another, each with a schedule, and what learning logs."""
    feed = started(**{"meta": True, "explore": 1.0, "plan_ms": 1000, **SMALL, **options})
    records = []
    for n in range(12):
        at_ms = START_MS + 300_000 * n
        records.append(feed.record(graph(n, begin_s=at_ms // 1000 + 10), at_ms))
        records.append(feed.record(LearnCommand.build(module="energy", key="d", command="thaw"), at_ms + 2000))
        records.append(feed.record(rack()[0].telemetry("d"), at_ms + 2000))
    for batch in [records] if batched else [[record] for record in records]:
        feed.send_batch(batch)
    return feed


def test_the_arm_is_chosen_and_logged_no_schedule_is_worse_than_the_classical_one_and_batches_do_not_matter():
    feed = chosen(batched=False)
    schedules = [event.frame for event in feed.events if isinstance(event.frame, EnergySchedule)]
    logs = [event.frame for event in feed.events if isinstance(event.frame, Decisions)]
    solved = [frame for frame in schedules if frame.solver.solver != "soonest"]
    assert len(logs) == len(solved) == 12
    assert {log.learner for log in logs} == {"meta.choice"}
    assert len({int(log.arm[0]) for log in logs}) == 3
    plain = [event.frame for event in chosen(batched=False, meta=False).events if isinstance(event.frame, EnergySchedule)]
    classical = {frame.graph_id: frame.peak_w for frame in plain if frame.solver.solver == "list"}
    assert len(classical) == 12
    assert all(frame.peak_w <= classical[frame.graph_id] for frame in solved)
    again = chosen(batched=True)
    assert again.state("d").encode() == feed.state("d").encode()
    assert [(event.id, event.frame.encode()) for event in again.events] == [
        (event.id, event.frame.encode()) for event in feed.events
    ]
    assert feed.state("d").meta.choice.bandit.decisions == 12


def test_with_learning_switched_off_the_classical_arm_answers_and_nothing_is_learnt():
    feed = chosen(batched=True, learn="off")
    assert {event.frame.solver.solver for event in feed.events if isinstance(event.frame, EnergySchedule)} <= {"soonest", "list"}
    assert not [event for event in feed.events if isinstance(event.frame, Decisions)]
