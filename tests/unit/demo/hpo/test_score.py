"""The hpo scene's score: losses by trial of both studies, what is counted, and what is said of them."""

from __future__ import annotations

import time
from typing import Any

from qstream.demo.hpo.score import Score
from qstream.demo.hpo.screen import findings, line
from schemas.deadletter import DeadLetter
from schemas.hpo import StudyBest, TrialRecord, TrialSuggestion
from schemas.solver import SolverRecord


def suggested(score: Score, study: str, trial: int, worker: str, **more: Any) -> None:
    fields = {"attempt": 0, "source": "sobol", **more}
    score.received(
        TrialSuggestion(
            plan_id=f"{study}/{trial}/{worker}/{more}",
            ts_ns=time.time_ns() - 10_000_000,
            solver=SolverRecord(solver="sobol", n=1),
            study=study,
            worker=worker,
            status="run",
            trial=trial,
            params={"x": 1.0},
            lease_s=4.0,
            **fields,
        )
    )


def ended(score: Score, study: str, trial: int, loss: float | None, outcome: Any = None) -> None:
    score.received(
        TrialRecord(
            study=study,
            trial=trial,
            worker="w",
            outcome=outcome or ("failed" if loss is None else "complete"),
            params={"x": 1.0},
            metrics={} if loss is None else {"loss": loss},
            asked_ns=1,
            done_ns=2,
        )
    )


def played(default: list[float | None], sobol: list[float | None]) -> Score:
    score = Score()
    for study, losses in (("default", default), ("sobol", sobol)):
        for trial, loss in enumerate(losses):
            suggested(score, study, trial, f"{study}-0/0")
            ended(score, study, trial, loss)
    return score


def test_losses_are_compared_after_as_many_trials_of_either_study() -> None:
    score = played([4.0, None, 3.0, 2.5], [3.5, 3.2, 3.4])
    figures = score.figures()
    assert figures["trials"] == 7
    assert figures["failed"] == 1
    assert figures["best_loss"] == {"default": 3.0, "sobol": 3.2}
    assert figures["latency_ms"]["p99"] >= figures["latency_ms"]["p50"] >= 10
    said = " ".join(findings(figures, score))
    assert "0.200 nats a byte better" in said
    assert "with trial 3" in said


def test_it_is_said_where_the_defaults_lose() -> None:
    score = played([4.0], [3.5])
    assert "The defaults lose here" in " ".join(findings(score.figures(), score))


def test_equal_losses_are_explained_by_the_points_that_both_begin_with() -> None:
    score = played([4.0, 3.5], [4.0, 3.5])
    assert "the first 10 trials of the defaults are the same Sobol points" in " ".join(findings(score.figures(), score))


def test_a_lost_trial_counts_as_out_again_and_a_second_result_as_a_duplicate() -> None:
    score = played([4.0], [3.5])
    suggested(score, "default", 1, "default-0/0")
    suggested(score, "default", 1, "default-0/0", repeated=True)
    assert score.studies["default"].held == {"default-0/0": 1}
    suggested(score, "default", 1, "default-1/0", attempt=1, source="retry")
    ended(score, "default", 1, 3.0)
    ended(score, "default", 1, 3.0, "duplicate")
    ended(score, "default", 2, None, "lost")
    assert score.studies["default"].held == {}
    assert score.studies["default"].sources == {"sobol": 2}
    figures = score.figures()
    assert (figures["reissued"], figures["duplicates"], figures["lost"], figures["failed"]) == (1, 1, 1, 0)
    assert "1 out again" in line(figures, score, "default-0", "ready")


def test_before_the_first_trial_there_are_no_figures_and_both_studies_wait() -> None:
    score = Score()
    assert score.figures() == {}
    assert score.waiting == 2
    assert "no trial" in line({}, score, "", "ready")
    suggested(score, "sobol", 0, "sobol-0/0")
    assert score.waiting == 1


def test_all_failed_is_no_loss_and_a_dead_letter_is_counted() -> None:
    score = played([None], [None])
    score.received(DeadLetter.example())
    score.received(StudyBest.example().model_copy(update={"study": "default"}))
    figures = score.figures()
    assert figures["best_loss"] == {"default": None, "sobol": None}
    assert figures["dead_letters"] == 1
    assert "no loss to compare" in " ".join(findings(figures, score))
    assert score.studies["default"].best
