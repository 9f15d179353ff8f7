"""Frames of hyperparameter search: what reports and answers may say, and that answers are small."""

from __future__ import annotations

import re

import pytest

from schemas import JSON, FrameError
from schemas.hpo import Fidelity, TrialReport, TrialSuggestion

BARE = {"study": "s", "worker": "w", "ts_ns": 1}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"ask": False, "trial": 3, "state": "running"},
        {"trial": 3, "attempt": 1, "state": "complete", "metrics": {"loss": 1.0}},
        {"trial": 3, "state": "failed", "reason": "OOM"},
        {"ask": False, "state": "complete", "params": {"lr": 0.1, "on": True}, "metrics": {"loss": 1}},
    ],
)
def test_a_report_is_an_ask_a_heartbeat_or_a_result(fields):
    report = TrialReport.build(**BARE, **fields)
    assert TrialReport.decode(report.encode(JSON), JSON) == report


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trial": 3}, "state must be given where a trial, params or metrics are, got None"),
        ({"state": "failed"}, "a report with a state must be of a trial or of params, got neither"),
        ({"state": "failed", "trial": 1, "params": {"x": 1}}, "a report with a state must be of a trial or of params, got both"),
        ({"state": "running", "trial": 1}, "a heartbeat must be of a trial, without an ask, got with ask"),
        ({"state": "running", "params": {"x": 1}}, "a heartbeat must be of a trial, without an ask, got of params"),
        ({"state": "complete", "trial": 1}, "metrics must be given where state is complete, got None"),
        ({"state": "complete", "trial": 1, "metrics": {"loss": float("nan")}}, "metrics.loss must be a finite number"),
        ({"state": "complete", "trial": 1, "metrics": {f"m{n}": 1.0 for n in range(101)}}, "metrics must be at most 100 entries"),
        ({"state": "failed", "trial": 1, "reason": "BORED"}, "reason must be 'OOM', 'NAN', 'TIMEOUT', 'PREEMPTED' or 'USER'"),
        ({"state": "failed", "trial": 10_000}, "trial must be less than 10000, got 10000"),
    ],
)
def test_a_report_that_contradicts_itself_is_refused_by_field_rule_and_value(fields, message):
    with pytest.raises(FrameError, match=re.escape(message)):
        TrialReport.build(**BARE, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trial": None}, "trial must be given where status is run, and only there, got None"),
        ({"params": {}}, "params must be given where status is run, and only there, got None"),
        ({"reason": "paused"}, "reason must be given where status is wait or done, and only there"),
        ({"status": "done"}, "trial must be given where status is run, and only there, got 12"),
        ({"retry_after_s": 1.0}, "retry_after_s must be given where status is wait, and only there, got 1.0"),
    ],
)
def test_an_answer_is_a_trial_or_a_reason_why_there_is_none(fields, message):
    with pytest.raises(FrameError, match=re.escape(message)):
        TrialSuggestion.build(**(dict(TrialSuggestion.example()) | fields))


def test_a_done_answer_has_a_reason_and_an_answer_is_small():
    example = dict(TrialSuggestion.example())
    none = dict.fromkeys(("trial", "lease_s", "source", "predicted", "p_feasible", "model"), None)
    done = TrialSuggestion.build(**(example | none | {"status": "done", "params": {}, "reason": "space_exhausted"}))
    assert done.outcome == "published"
    assert len(TrialSuggestion.example().encode(JSON)) < 700


def test_a_fidelity_has_its_bounds_in_order():
    with pytest.raises(ValueError, match=r"low of fidelity 'epochs' must be at most high, 3, got 9\.0"):
        Fidelity(name="epochs", low=9.0, high=3.0)
