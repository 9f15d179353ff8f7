"""Frames of hpo as one line: what a person watching a study wants to see."""

from __future__ import annotations

import pytest

from qstream.cli.hpo.lines import line
from schemas.hpo import StudyBest, StudySpec, TrialRecord, TrialReport, TrialSuggestion
from schemas.solver import SolverRecord
from schemas.tasks import TaskGraph

WAIT = TrialSuggestion(
    plan_id="a",
    ts_ns=0,
    solver=SolverRecord(solver="kept"),
    study="lm-small",
    worker="w",
    status="wait",
    reason="max_running",
    retry_after_s=1.0,
)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (
            TrialSuggestion.example(),
            "lm-small  node-3/gpu-0  trial 12  lr=0.000812 batch_size=32 optimizer=adam  expected 2.29 +- 0.06  gp",
        ),
        (WAIT, "lm-small  w  wait  max_running  asks again in 1 s"),
        (
            StudyBest.example(),
            "lm-small  v3  best 2.27 of trial 12  lr=0.000812 batch_size=32 optimizer=adam  17 ended, 4 running, 1 failed",
        ),
        (TrialRecord.example(), "lm-small  node-3/gpu-0  trial 7  complete  loss=2.41 step_ms=31.5  best so far 2.38"),
        (TrialReport.example(), "lm-small  node-3/gpu-0  trial 7  complete  loss=2.41 step_ms=31.5  asks"),
        (
            StudySpec.example(),
            "lm-small  open  minimize loss  4 parameters  step_ms <= 40  at most 200 trials, 64 at one time"
            "  2 rows of an older study",
        ),
        (TaskGraph.example(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_frame_is_one_line(frame, said):
    assert line(frame) == said
