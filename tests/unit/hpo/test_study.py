"""A study in process: ask and tell, restarts, late results, priors, and what is kept in a file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from qstream.errors import OptionError, ProblemError
from qstream.hpo import HpoOptions, Limit, SearchSpace
from qstream.hpo.study import Study

LR = {"name": "lr", "type": "float", "low": 1e-5, "high": 0.1, "scale": "log"}
SPACE = [LR, {"name": "act", "type": "categorical", "choices": ["relu", "gelu"]}]


def loss(params) -> float:
    return (math.log10(params["lr"]) + 2.5) ** 2 + (0.1 if params["act"] == "relu" else 0.0)


def searched(count: int, **given: object) -> Study:
    study = Study(SPACE, **given)
    for _ in range(count):
        trial = study.ask(now_s=0)
        study.tell(trial.number, loss(trial.params), now_s=1)
    return study


def test_a_search_finds_what_is_good_and_is_the_same_for_a_seed():
    first, second, other = searched(14, seed=3), searched(14, seed=3), searched(14, seed=4)
    assert first.best.value < 0.05
    assert first.best.params["act"] == "gelu"
    assert first.history() == second.history()
    assert first.history() != other.history()


def test_each_ask_without_a_name_is_of_another_worker_and_a_named_one_gets_its_trial_again():
    study = Study(SPACE)
    asked = [study.ask(now_s=0) for _ in range(3)]
    assert [trial.number for trial in asked] == [0, 1, 2]
    mine = study.ask("gpu-0", now_s=1)
    again = study.ask("gpu-0", now_s=2)
    assert (again.number, again.attempt, again.params) == (mine.number, 0, mine.params) == (3, 0, mine.params)
    assert study.tell(3, 0.5, now_s=3) == "complete"
    assert study.ask("gpu-0", now_s=4).number == 4


def test_a_trial_of_a_silent_worker_goes_out_again_and_each_result_counts_once():
    study = Study(SPACE, lease_s=10, retries=1)
    lost = study.ask("a", now_s=0)
    taken = study.ask("b", now_s=11)
    assert (taken.number, taken.attempt, taken.source, taken.params) == (0, 1, "retry", lost.params)
    assert study.tell(0, 0.5, worker="a", attempt=0, now_s=12) == "late"
    assert study.tell(0, 0.6, worker="b", attempt=1, now_s=13) == "superseded"
    assert study.tell(0, 0.5, worker="a", attempt=0, now_s=14) == "duplicate"
    assert [row["value"] for row in study.history()] == [0.5]


def test_a_result_of_an_earlier_attempt_is_late_whether_or_not_it_names_its_worker():
    study = Study(SPACE, lease_s=10)
    first, second = study.ask(now_s=0), study.ask(now_s=100)
    assert (first.number, second.number, second.attempt) == (0, 0, 1)
    assert study.tell(np.int64(0), np.float32(0.5), attempt=np.int64(0), now_s=101) == "late"
    assert study.tell(0, 0.6, attempt=1, now_s=102) == "superseded"
    assert study.tell(0, 0.5, attempt=0, now_s=103) == "duplicate"


def test_a_heartbeat_keeps_a_trial_and_a_preempted_one_goes_out_again_at_once():
    study = Study(SPACE, lease_s=10)
    study.ask("a", now_s=0)
    assert study.tell(0, state="running", worker="a", now_s=9) == "running"
    assert study.ask("b", now_s=15).number == 1
    assert study.tell(0, state="failed", reason="PREEMPTED", worker="a", now_s=16) == "released"
    assert (study.ask("c", now_s=16).number, study.history()) == (0, [])


def test_failures_are_kept_with_their_reason_and_are_no_loss():
    study = Study(SPACE)
    study.ask()
    assert study.tell(0, state="failed", reason="OOM") == "failed"
    (row,) = study.history()
    assert (row["state"], row["value"]) == ("failed", None)
    assert study.best is None


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda study: study.tell(7, 0.5), "trial of study 'study' must be one that was suggested"),
        (lambda study: study.tell(0, math.nan), "finite"),
        (lambda study: study.tell(0, {"acc": 1.0}), "must be with the objective, 'loss'"),
        (lambda study: study.tell(0, "good"), "metric 'loss' must be a finite number, got 'good'"),
        (lambda study: study.tell(0, True), "metric 'loss' must be a finite number, got True"),
        (lambda study: study.tell(0, 0.5, now_s=math.nan), "now_s must be a finite number"),
        (lambda study: study.tell(0, state="failed", reason="BORED"), "reason must be one of OOM"),
        (lambda study: study.add({"lr": 7.0, "act": "relu"}, 0.1), "parameter 'lr' must be"),
        (lambda study: study.add({"lr": 0.01, "act": "relu"}, math.inf), "finite"),
    ],
)
def test_what_cannot_be_told_is_refused_and_changes_nothing(call, rule):
    study = Study(SPACE)
    study.ask("a", now_s=0)
    with pytest.raises(ProblemError, match=rule):
        call(study)
    assert study.history() == []
    assert study.ask("a", now_s=0).number == 0


def test_what_cannot_be_a_study_is_refused():
    with pytest.raises(ProblemError, match="max_trials"):
        Study(SPACE, max_trials=0)
    with pytest.raises(ProblemError, match="limits must be one a metric"):
        Study(SPACE, limits={"loss": 1})
    with pytest.raises(OptionError):
        Study(SPACE, options=HpoOptions(optimizer="best"))


def test_the_best_keeps_all_limits():
    study = Study(SPACE, limits={"ms": 40}, objective="acc", direction="maximize")
    study.add({"lr": 0.01, "act": "relu"}, {"acc": 0.9, "ms": 50})
    study.add({"lr": 0.02, "act": "relu"}, {"acc": 0.8, "ms": 40})
    study.add({"lr": 0.03, "act": "relu"}, {"acc": 0.7, "ms": 10})
    assert [point.value for point in study.recommend()] == [0.8, 0.7]
    least = Study(SPACE, limits=[Limit("acc", ">=", 0.5)])
    least.add({"lr": 0.01, "act": "relu"}, {"loss": 0.1, "acc": 0.4})
    assert least.best is None


def test_a_study_that_was_saved_goes_on_as_if_it_had_not_ended(tmp_path: Path):
    study = searched(11)
    study.ask("a", now_s=2)
    study.save(tmp_path / "study.safetensors")
    loaded = Study.load(tmp_path / "study.safetensors")
    assert loaded.ask("a", now_s=3).number == 11
    for one in (study, loaded):
        one.tell(11, 0.2, worker="a", now_s=4)
    assert loaded.ask("b", now_s=5) == study.ask("b", now_s=5)
    assert [row["value"] for row in loaded.history()] == [row["value"] for row in study.history()]


def test_the_end_of_a_budget_or_of_a_space_is_said():
    study = Study([{"name": "n", "type": "int", "low": 1, "high": 3}])
    numbers = [study.ask() for _ in range(4)]
    assert sorted(trial.params["n"] for trial in numbers[:3]) == [1, 2, 3]
    assert (numbers[3].status, numbers[3].number, numbers[3].reason) == ("wait", None, "last_trials")
    for trial in numbers[:3]:
        study.tell(trial.number, 1.0)
    assert (study.ask().status, study.ask().reason) == ("done", "space_exhausted")
    spent = searched(2, max_trials=2)
    assert (spent.ask().status, spent.ask().reason) == ("done", "budget_spent")


def test_an_older_study_is_a_prior_as_rows_as_csv_and_as_it_was_saved(tmp_path: Path):
    old = searched(12)
    old.save(tmp_path / "old.safetensors")
    old.to_csv(tmp_path / "old.csv")
    rows = [
        ({name.removeprefix("param."): value for name, value in row.items() if name.startswith("param.")}, row["value"])
        for row in old.history()
    ]
    asked = [searched(7, prior=prior).history() for prior in (rows, tmp_path / "old.csv", tmp_path / "old.safetensors", old)]
    assert asked[0] == asked[1] == asked[2] == asked[3]
    assert asked[0] != searched(7).history()


def test_a_saved_study_gives_a_smaller_space_the_rows_that_it_holds(tmp_path: Path):
    searched(12).save(tmp_path / "old.safetensors")
    narrow = Study(SearchSpace.load([{**LR, "low": 1e-3}, SPACE[1]]), prior=tmp_path / "old.safetensors")
    assert narrow.ask().status == "run"
    with pytest.raises(ProblemError, match="direction of the saved study must be that of this one, maximize"):
        Study(SPACE, direction="maximize", prior=tmp_path / "old.safetensors")


@pytest.mark.parametrize("body", [b"", b"{}", b"\x00" * 100])
def test_a_file_that_is_no_study_is_refused(tmp_path: Path, body: bytes):
    (tmp_path / "x.safetensors").write_bytes(body)
    for load in (Study.load, lambda path: Study(SPACE, prior=path)):
        with pytest.raises(ProblemError, match="a saved study must be the state of one"):
            load(tmp_path / "x.safetensors")
        with pytest.raises(ProblemError, match="a saved study must be a file that can be read"):
            load(tmp_path / "absent.safetensors")
