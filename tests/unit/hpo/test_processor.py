"""The processor of studies: the same records give the same bytes, and what cannot be is a dead letter that changes nothing."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from qstream.ahead import Ahead
from qstream.contract import Batch, Record
from qstream.errors import OptionError, Transient
from qstream.hpo import memory
from qstream.hpo.examples import STUDY, records, spec
from qstream.hpo.options import HpoOptions
from qstream.hpo.problem import Observation, gather
from qstream.hpo.processor import HpoProcessor
from qstream.module.inforce import InForce
from qstream.state.fields import pack
from qstream.testing.checks import check_processor
from qstream.testing.feed import Feed
from schemas.hpo import StudyBest, TrialRecord, TrialReport, TrialSuggestion

SMALL = HpoOptions(initial=3, explore=4, candidates=64, starts=2)


def report(worker: str, at_s: float = 0.0, **fields: Any) -> TrialReport:
    return TrialReport(study=STUDY, worker=worker, ts_ns=int(at_s * 1e9), **fields)


def started() -> Feed[memory.HpoState]:
    feed = Feed(HpoProcessor(SMALL))
    feed.send(spec(), at_ms=0)
    return feed


def trace(feed: Feed[memory.HpoState]) -> tuple[list[tuple[str, bytes]], dict[str, bytes]]:
    state = feed.state(STUDY)
    assert state is not None
    return [(event.id, event.frame.encode()) for event in feed.events], pack(state)


def lively(seed: int, asks: int) -> tuple[Feed[memory.HpoState], list[Record]]:
    """A study whose workers ask, report, repeat themselves, fail, are late and die, at random; and its records."""
    rng, feed, held, at_ms = random.Random(seed), Feed(HpoProcessor(SMALL)), {}, 0
    records = [feed.record(spec(), 0)]
    feed.send_batch(records)
    for _ in range(asks):
        worker = rng.choice("abcd")
        at_ms += rng.choice([100, 1000, 70_000 if rng.random() < 0.2 else 10])
        fields: dict[str, Any] = {}
        if worker in held and rng.random() < 0.8:
            trial, attempt = held[worker]
            fields = {"trial": trial, "attempt": attempt, "state": rng.choice(["complete", "complete", "failed", "pruned"])}
            fields |= {"metrics": {"loss": rng.random(), "step_ms": 60 * rng.random()}}
        records.append(feed.record(report(worker, at_ms / 1000, **fields), at_ms))
        sent = feed.send_batch(records[-1:])
        assert sent.dead == []
        for event in sent.events:
            if isinstance(event.frame, TrialSuggestion) and event.frame.status == "run":
                held[worker] = event.frame.trial, event.frame.attempt
    return feed, records


def test_the_examples_try_all_that_reports_can_come_to():
    feed = Feed(HpoProcessor(SMALL))
    feed.send_batch(records())
    outcomes = Counter(record.outcome for record in feed.frames(TrialRecord))
    answers = Counter((answer.status, answer.repeated) for answer in feed.frames(TrialSuggestion))

    assert outcomes.keys() == {"complete", "failed", "lost", "duplicate", "superseded"}
    assert answers.keys() == {("run", False), ("run", True), ("wait", False), ("done", False)}
    assert {answer.source for answer in feed.frames(TrialSuggestion)} >= {"sobol", "gp", "retry"}
    assert {answer.solver.variant for answer in feed.frames(TrialSuggestion) if answer.source == "gp" and answer.model} == {
        "matern"
    }
    assert any(record.late for record in feed.frames(TrialRecord))
    assert [best.ended for best in feed.frames(StudyBest)][-1]
    assert len(feed.dead) == 4


@pytest.mark.parametrize("seed", range(2))
def test_any_split_into_batches_gives_the_same_bytes(seed):
    _, records = lively(seed, 30)
    check_processor(HpoProcessor(SMALL), records, splits=4, seed=seed)


def test_results_in_a_hundred_orders_leave_the_same_state_and_the_same_next_suggestion():
    first = Feed(HpoProcessor(SMALL))
    first.send(spec(lease_s=1e6), at_ms=0)
    workers = [f"w{n}" for n in range(10)]
    for worker in workers:
        first.send(report(worker), at_ms=1)
    state, found = first.state(STUDY), set()
    results = [
        first.record(report(w, ask=False, trial=n, state=["complete", "failed"][n % 4 == 3], metrics={"loss": n * 7 % 10}), 2)
        for n, w in enumerate(workers)
    ]
    ask = first.record(report("w0"), 2)
    rng = random.Random(0)
    for _ in range(100):
        result = first.processor.process(Batch(STUDY, [*rng.sample(results, len(results)), ask]), state, 0)
        (answer,) = [event.frame for event in result.events if isinstance(event.frame, TrialSuggestion)]
        assert result.state is not None
        assert answer.source == "gp"
        left = result.state.model_copy(update={"in_force": InForce()})  # how often the best changed is a matter of order
        found.add((answer.encode(), *pack(left).items()))
    assert len(found) == 1


def test_with_ahead_the_same_suggestions_come_and_the_same_state_is_left():
    plain, ahead = Feed(HpoProcessor(SMALL)), Feed(HpoProcessor(SMALL, ahead=Ahead()))
    for feed in (plain, ahead):
        for record in records():
            feed.send_batch([record])
    assert trace(plain) == trace(ahead)


def test_an_agent_that_lost_its_state_after_publishing_publishes_the_same_again():
    (feed, records), again = lively(3, 20), Feed(HpoProcessor(SMALL))
    again.send_batch(records)
    assert trace(again) == trace(feed)


def test_the_state_poses_the_problem_that_its_trials_pose():
    feed, _ = lively(5, 40)
    state = feed.state(STUDY)
    assert state is not None
    metrics = {record.trial: record for record in feed.frames(TrialRecord) if record.outcome not in ("duplicate", "superseded")}
    seen = [
        Observation(
            trial,
            memory.params(state, trial),
            record.metrics.get("loss") if record.outcome == "complete" else None,
            record.outcome,
            record.metrics,
        )
        for trial, record in metrics.items()
        if record.outcome != "lost"
    ]
    pending = {trial: memory.params(state, trial) for trial in state.active.tolist()}
    found = memory.problem(state, state.trials)
    lost = {trial for trial, record in metrics.items() if record.outcome == "lost"}
    assert set(found.tried_number.tolist()) >= lost
    wanted = gather(memory.space(state), seen, pending, state.trials, state.spec.seed, limits=memory.limits(state))
    for name in ("number", "unit", "value", "limit_value", "failed_number", "failed_unit", "pending_number", "pending_unit"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), name)


def test_an_ask_of_a_study_that_is_not_known_waits_at_once_and_leaves_nothing():
    feed = Feed(HpoProcessor(SMALL))
    (event,) = feed.send(report("a"), at_ms=0).events
    assert (event.frame.status, event.frame.reason, event.frame.retry_after_s) == ("wait", "unknown_study", 1.0)
    assert feed.state(STUDY) is None


def test_a_result_waits_for_its_study():
    feed = Feed(HpoProcessor(SMALL))
    params = {"lr": 0.01, "batch": 32, "optimizer": "sgd"}
    feed.send(report("a", ask=False, state="complete", params=params, metrics={"loss": 1.0}), at_ms=0)
    assert isinstance(feed.waiting(STUDY), Transient)
    sent = feed.send(spec(), at_ms=1)
    assert [event.frame.outcome for event in sent.events if isinstance(event.frame, TrialRecord)] == ["complete"]


def test_a_study_that_is_spent_is_done_and_goes_on_with_a_larger_budget():
    feed = Feed(HpoProcessor(SMALL))
    feed.send(spec(max_trials=1), at_ms=0)
    feed.send(report("a"), at_ms=1)
    sent = feed.send(report("a", trial=0, state="failed", reason="OOM"), at_ms=2)
    assert [type(event.frame).__name__ for event in sent.events] == ["TrialRecord", "StudyBest", "TrialSuggestion"]
    assert sent.events[1].frame.ended
    assert sent.events[2].frame.status == "done"
    (event,) = feed.send(spec(max_trials=2), at_ms=3).events
    assert not event.frame.ended
    assert feed.send(report("a"), at_ms=4).events[-1].frame.trial == 1


def test_a_report_that_cannot_be_is_a_dead_letter_and_the_trial_keeps_its_lease():
    feed = started()
    feed.send(report("a"), at_ms=0)
    before = feed.state(STUDY)
    for fields in (
        {"trial": 5, "state": "complete", "metrics": {"loss": 1.0}},
        {"trial": 0, "state": "complete", "metrics": {"accuracy": 1.0}},
        {"trial": 0, "attempt": 3, "state": "failed"},
        {"state": "complete", "params": {"lr": "much"}, "metrics": {"loss": 1.0}},
    ):
        sent = feed.send(report("a", ask=False, **fields), at_ms=1)
        assert (len(sent.dead), sent.events) == (1, [])
        assert feed.state(STUDY) == before
        sent = feed.send(report("a", **fields), at_ms=0)
        assert (len(sent.dead), sent.events[0].frame.trial, sent.events[0].frame.repeated) == (1, 0, True)
    assert feed.send(report("a"), at_ms=2).events[0].frame.repeated


def test_options_of_the_study_hold_before_those_of_the_agent_and_unknown_ones_are_refused():
    feed = Feed(HpoProcessor(SMALL))
    feed.configure(optimizer="gp")
    feed.send(spec(options={"optimizer": "sobol"}), at_ms=0)
    for n in range(8):
        feed.send(report("a", **({"trial": n - 1, "state": "complete", "metrics": {"loss": 1.0 / n}} if n else {})), at_ms=n)
    assert {answer.source for answer in feed.frames(TrialSuggestion)} == {"sobol"}
    assert "optimizer" in feed.send(spec(options={"optimizer": "best"}), at_ms=99).dead[0].error_message
    with pytest.raises(OptionError, match="kernel"):
        feed.configure(kernel="cubic")
