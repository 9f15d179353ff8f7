"""The rules of trials: one holder a trial, one trial a worker, one answer an ask, one result a trial."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.hpo import memory, trials
from qstream.hpo.examples import spec
from qstream.hpo.memory import Memory
from qstream.hpo.plan import Suggestion
from qstream.hpo.problem import rng
from qstream.state.fields import pack, unpack
from schemas.hpo import MetricLimit, StudySpec, TrialRecord, TrialReport
from schemas.solver import SolverRecord
from schemas.space import Parameter

SECOND = 1_000_000_000
WORKERS = ("a", "b", "c", "d")
RESULTS = ("complete", "failed", "infeasible", "pruned")


def drawn(draft: Memory, trial: int) -> Suggestion:
    """A suggestion that is a function of the state and the number, without a model."""
    space = memory.space(draft.now)
    unit = space.snap(rng(draft.now.spec.seed, len(draft.now.active), trial).random((1, space.size)))[0]
    solver = SolverRecord(solver="sobol")
    return Suggestion(
        params=space.decode(unit),
        unit=unit,
        source="sobol",
        predicted=None,
        p_feasible=None,
        solver=solver,
        fallback_reason=None,
        digest="0" * 16,
    )


@dataclass
class Study:
    """A study at a time, and reports to it."""

    draft: Memory
    at_s: float = 0.0
    answers: list[trials.Answer] = field(default_factory=list)

    @classmethod
    def of(cls, **changes: Any) -> Study:
        return cls(trials.create(spec(**changes)))

    def report(self, worker: str, **fields: Any) -> trials.Outcome:
        sent = TrialReport(study=self.draft.now.spec.study, worker=worker, ts_ns=int(self.at_s * SECOND), **fields)
        outcome = trials.report(self.draft, sent, int(self.at_s * SECOND), drawn)
        if outcome.answer is not None:
            self.answers.append(outcome.answer)
        return outcome

    def ask(self, worker: str) -> trials.Answer:
        answer = self.report(worker).answer
        assert answer is not None
        return answer

    def tell(self, worker: str, trial: int, loss: float = 1.0, **fields: Any) -> TrialRecord:
        told = {"state": "complete", "metrics": {"loss": loss, "step_ms": 1.0}} | fields
        (record,) = self.report(worker, ask=False, trial=trial, **told).records
        return record

    def change(self, **changes: Any) -> bool:
        return trials.change(self.draft, spec(**changes))


def test_a_worker_that_asks_again_gets_the_trial_that_it_holds_and_a_new_lease():
    study = Study.of()
    first = study.ask("a")
    study.at_s = 59.0
    again = study.ask("a")
    study.at_s = 118.0
    other = study.ask("b")

    assert (again.trial, again.params, again.repeated) == (first.trial, first.params, True)
    assert other.trial == 1


def test_an_expired_trial_goes_out_again_under_its_number_until_its_retries_are_used_up():
    study = Study.of(retries=2, max_trials=1)
    first = study.ask("a")
    found = []
    for n, worker in enumerate("bcd"):
        study.at_s = 60.0 * (n + 1)
        found.append(study.report(worker))

    assert [(each.answer.trial, each.answer.attempt, each.answer.source) for each in found[:2]] == [
        (0, 1, "retry"),
        (0, 2, "retry"),
    ]
    assert found[0].answer.params == first.params
    assert [record.outcome for record in found[2].records] == ["lost"]
    assert (found[2].answer.status, found[2].answer.reason) == ("done", "budget_spent")


def test_a_lost_trial_goes_out_again_within_a_second_of_its_lease_where_a_worker_waits():
    study = Study.of(max_trials=1, lease_s=60.0)
    study.ask("a")
    study.at_s = 0.3
    while (answer := study.ask("b")).status == "wait":
        study.at_s += trials.RETRY_S
    assert (answer.trial, answer.attempt) == (0, 1)
    assert 60.0 <= study.at_s <= 61.0


def test_the_lowest_expired_trial_goes_first_and_before_any_new_one():
    study = Study.of()
    for worker in WORKERS:
        study.ask(worker)
    study.at_s = 61.0

    assert [study.ask(f"new-{n}").trial for n in range(5)] == [0, 1, 2, 3, 4]


def test_a_late_result_counts_once_and_what_follows_is_superseded_or_duplicate():
    study = Study.of()
    study.ask("a")
    study.at_s = 61.0
    study.ask("b")
    late = study.tell("a", 0, 3.0)
    superseded = study.tell("b", 0, 1.0, attempt=1)
    duplicate = study.tell("a", 0, 2.0)

    assert (late.outcome, late.late, late.best_so_far) == ("complete", True, 3.0)
    assert (superseded.outcome, superseded.late, superseded.best_so_far) == ("superseded", False, 3.0)
    assert (duplicate.outcome, duplicate.late) == ("duplicate", False)
    assert study.draft.now.value.tolist() == [3.0]
    assert len(study.draft.now.active) == 0


def test_a_result_of_a_lost_trial_counts_too():
    study = Study.of(retries=0)
    study.ask("a")
    study.at_s = 61.0
    assert [record.outcome for record in study.report("b").records] == ["lost"]

    record = study.tell("a", 0, 2.0)
    assert (record.outcome, record.late) == ("complete", True)
    assert memory.best_trials(study.draft.now, 5) == [0]


def test_a_heartbeat_extends_the_lease_of_the_holder_and_of_nobody_else():
    study = Study.of()
    study.ask("a")
    study.at_s = 50.0
    study.report("a", ask=False, trial=0, state="running")
    study.report("b", ask=False, trial=0, state="running")
    study.at_s = 100.0
    assert study.ask("c").trial == 1
    study.at_s = 110.0
    assert study.ask("d").trial == 0


def test_a_preempted_trial_goes_out_again_with_the_next_ask_and_teaches_nothing():
    study = Study.of()
    study.ask("a")
    assert study.report("a", ask=False, trial=0, state="failed", reason="PREEMPTED").records == ()
    answer = study.ask("b")

    assert (answer.trial, answer.attempt, answer.source) == (0, 1, "retry")
    assert len(memory.problem(study.draft.now, 1).failed_number) == 0


def test_no_more_trials_run_than_may_and_the_last_ones_are_waited_for():
    study = Study.of(max_running=2, max_trials=3)
    study.ask("a")
    study.ask("b")
    assert (study.ask("c").status, study.answers[-1].reason) == ("wait", "max_running")
    study.tell("a", 0)
    assert study.ask("c").trial == 2
    study.tell("b", 1)
    assert (study.ask("b").status, study.answers[-1].reason) == ("wait", "last_trials")
    study.tell("c", 2)
    assert (study.ask("b").status, study.answers[-1].reason) == ("done", "budget_spent")
    assert study.draft.now.ended


def test_a_paused_study_waits_and_a_closed_one_is_done_but_a_held_trial_is_repeated():
    study = Study.of()
    study.ask("a")
    study.change(status="paused")
    assert (study.ask("b").status, study.answers[-1].reason) == ("wait", "paused")
    assert study.ask("a").repeated
    study.change(status="closed")
    assert (study.ask("b").status, study.answers[-1].reason) == ("done", "closed")
    assert study.ask("a").repeated


def test_a_result_that_was_never_suggested_is_a_trial_of_its_own_once():
    study = Study.of()
    params = {"lr": 0.01, "batch": 32, "optimizer": "sgd"}
    for _ in range(2):
        study.report("user", ask=False, state="complete", params=params, metrics={"loss": 2.0, "step_ms": 9.0})
    answer = study.ask("a")

    assert study.draft.now.value.tolist() == [2.0, 0.0]
    assert memory.params(study.draft.now, 0) == params
    assert (answer.trial, answer.observations) == (1, 1)
    assert study.draft.now.asked == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"trial": 7, "state": "complete", "metrics": {"loss": 1.0}}, "trial of study 'lm-small' must be .* below 1, got 7"),
        (
            {"trial": 0, "state": "complete", "metrics": {"acc": 1.0}},
            "metrics of trial 0 must be with .* 'loss', got acc",
        ),
        ({"trial": 0, "attempt": 1, "state": "failed"}, "attempt of trial 0 must be .* at most 0, got 1"),
        ({"state": "failed", "params": {"lr": 1.0}}, "parameter 'lr' must be a number from 1e-05 to 0.1, got 1.0"),
    ],
)
def test_a_report_that_cannot_be_names_its_fault_and_changes_nothing(fields, said):
    study = Study.of()
    study.ask("a")
    before = pack(study.draft.state())
    with pytest.raises(ProblemError, match=said):
        study.report("a", ask=False, **fields)
    assert pack(study.draft.state()) == before


def test_the_ask_of_a_result_that_cannot_be_is_answered():
    study = Study.of()
    study.ask("a")
    outcome = study.report("a", trial=5, state="failed")

    assert outcome.fault == "trial of study 'lm-small' must be one that was suggested, below 1, got 5"
    assert (outcome.records, outcome.answer.trial, outcome.answer.repeated) == ((), 0, True)


def test_with_trials_the_space_stays_and_budget_limits_lease_and_options_may_change():
    study = Study.of()
    study.ask("a")
    with pytest.raises(ProblemError, match="parameters of study 'lm-small' must be the same"):
        study.change(parameters=(Parameter(name="lr", type="float", low=0.0, high=1.0),))
    with pytest.raises(ProblemError, match=r"options of study 'lm-small': .* must be"):
        study.change(options={"optimizer": "best"})
    study.change(max_trials=9, lease_s=5.0, options={"optimizer": "sobol"}, limits=())
    assert (study.draft.now.spec.max_trials, study.draft.now.limit_value) == (9, None)


def test_without_trials_everything_may_change():
    study = Study.of()
    study.change(parameters=(Parameter(name="x", type="float", low=0.0, high=1.0),), direction="maximize")
    assert list(study.ask("a").params) == ["x"]


def test_a_limit_that_is_changed_holds_for_results_that_are_there():
    study = Study.of()
    for n, (loss, step_ms) in enumerate([(1.0, 35.0), (2.0, 20.0)]):
        study.ask("a")
        study.tell("a", n, metrics={"loss": loss, "step_ms": step_ms, "gb": 3.0})
    assert memory.best_trials(study.draft.now, 5) == [0, 1]
    assert study.change(limits=(MetricLimit(metric="step_ms", value=30.0),))
    assert memory.best_trials(study.draft.now, 5) == [1]
    study.change(limits=(MetricLimit(metric="gb", value=4.0), MetricLimit(metric="step_ms", value=30.0)))
    assert memory.best_trials(study.draft.now, 5) == []  # of gb nothing is known of them
    study.ask("a")
    study.tell("a", 2, metrics={"loss": 4.0, "step_ms": 20.0, "gb": 3.0})
    assert memory.best_trials(study.draft.now, 5) == [2]


def test_of_a_maximised_study_the_largest_value_is_the_best():
    study = Study.of(direction="maximize", limits=())
    for n, loss in enumerate([1.0, 3.0, 2.0, 3.0]):
        study.ask("a")
        study.tell("a", n, loss)
    assert memory.best_trials(study.draft.now, 3) == [1, 3, 2]
    assert memory.problem(study.draft.now, 4).value.tolist() == [-1.0, -3.0, -2.0, -3.0]


def test_rows_of_a_prior_outside_of_the_bounds_are_dropped_and_counted():
    points = [[0.01, 1, 0], [1.0, 1, 0], [1e-3, 3, 2]]
    study = Study.of(prior_points=points, prior_value=[1.0, 2.0, 3.0])
    problem = memory.problem(study.draft.now, 0)

    assert study.draft.now.prior_dropped == 1
    assert problem.prior_value.tolist() == [1.0, 3.0]
    assert memory.space(study.draft.now).decode(problem.prior_unit[1]) == {"lr": 1e-3, "batch": 128, "optimizer": "lion"}


def test_a_thousand_trials_take_80_kb_and_a_record_rewrites_less_than_64_kib():
    names = tuple(f"p{n}" for n in range(6))
    parameters = tuple(Parameter(name=name, type="float", low=0.0, high=1.0) for name in names)
    study = Study(trials.create(StudySpec(study="large", ts_ns=0, parameters=parameters, max_trials=2000)))
    for worker in range(8):
        study.ask(f"node-{worker}/gpu-0")
    for n in range(1000 - 8):
        worker = f"node-{n % 8}/gpu-0"
        study.report(worker, trial=n, state="complete", metrics={"loss": 1 / (n + 1)})
    before = pack(study.draft.state())
    study.report("node-0/gpu-0", trial=992, state="complete", metrics={"loss": 0.1})
    after = pack(study.draft.state())

    assert study.draft.now.trials == 1001
    assert sum(map(len, after.values())) <= 80_000
    assert sum(len(value) for name, value in after.items() if before.get(name) != value) <= 64 << 10
    assert unpack(memory.HpoState, after) == study.draft.state()


Act = tuple[str, str, int, float]


@st.composite
def acts(draw: st.DrawFn) -> list[Act]:
    """Asks, results, repeated and late ones, deaths (a worker that says nothing more) and steps of the clock, back as well."""
    act = st.tuples(
        st.sampled_from(("ask", "tell", "tell and ask", "beat", "preempted")),
        st.sampled_from(WORKERS),
        st.integers(0, 4),
        st.sampled_from((0.0, 1.0, 20.0, 70.0, -5.0)),
    )
    return draw(st.lists(act, min_size=10, max_size=40))


@given(acts(), st.integers(0, 2), st.sampled_from([1, 3, 64]))
@settings(max_examples=40, deadline=None)
def test_whatever_comes_in_any_order_every_invariant_holds(acts: list[Act], retries: int, max_running: int):
    study = Study.of(retries=retries, max_running=max_running, max_trials=10, limits=())
    handed: dict[tuple[int, int], set[str]] = {}
    counted: dict[int, float] = {}
    for n, (what, worker, trial, step_s) in enumerate(acts):
        study.at_s = max(0.0, study.at_s + step_s)
        if what in ("tell", "tell and ask", "beat", "preempted") and trial >= study.draft.now.trials:
            what = "ask"
        asks = what in ("ask", "tell and ask")
        fields: dict[str, Any] = {"ask": asks}
        if what == "beat":
            fields |= {"trial": trial, "state": "running"}
        elif what == "preempted":
            fields |= {"trial": trial, "state": "failed", "reason": "PREEMPTED"}
        elif what != "ask":
            fields |= {"trial": trial, "state": RESULTS[n % 4], "metrics": {"loss": float(n)}}
        outcome = study.report(worker, **fields)

        assert (outcome.answer is not None) == asks
        if outcome.answer is not None and outcome.answer.status == "run":
            assert outcome.answer.trial is not None
            key = outcome.answer.trial, outcome.answer.attempt
            handed.setdefault(key, set()).add(worker)
            assert len(handed[key]) == 1  # an attempt has one holder, ever
            assert outcome.answer.attempt <= retries
        for record in outcome.records:
            if record.outcome in RESULTS:
                assert record.trial not in counted
                counted[record.trial] = float(n)
        check_invariants(study, counted, max_running)
    assert unpack(memory.HpoState, pack(study.draft.state())) == study.draft.state()


def check_invariants(study: Study, counted: dict[int, float], max_running: int) -> None:
    now = study.draft.now
    held = [worker for worker in now.worker if worker]
    assert len(held) == len(set(held))
    assert len(now.worker) == len(now.active) == len(now.lease_ns) <= max_running
    assert sorted(now.active.tolist()) == [n for n, code in enumerate(now.outcome.tolist()) if code == memory.RUNNING]
    results = {n for n, code in enumerate(now.outcome.tolist()) if code not in (memory.RUNNING, memory.LOST)}
    assert results == counted.keys()
    for trial, value in counted.items():
        if now.outcome[trial] == memory.COMPLETE:
            assert now.value[trial] == value
    complete = {n: v for n, v in counted.items() if now.outcome[n] == memory.COMPLETE}
    assert now.best == (min(complete, key=lambda n: (complete[n], n)) if complete else -1)
