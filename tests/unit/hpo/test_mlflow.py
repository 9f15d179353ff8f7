"""Export to a real MLflow store: parent and children by tags, and nothing twice, however often it runs."""

from __future__ import annotations

import pytest

from qstream.errors import ConfigError
from qstream.hpo.formats.mlflow import OUTCOME, PARENT, TRIAL, decisive, export
from schemas.hpo import TrialRecord

tracking = pytest.importorskip("mlflow.tracking", reason="the extra mlflow is not installed")


def record(trial: int, outcome: str = "complete", loss: float = 1.0, **fields) -> TrialRecord:
    metrics = {"loss": loss, "p99 ms/step": 3.0} if outcome == "complete" else {}
    return TrialRecord.build(
        **(dict(TrialRecord.example()) | {"trial": trial, "outcome": outcome, "metrics": metrics, "best_so_far": None} | fields)
    )


HISTORY = [
    record(0, loss=3.0),
    record(1, "failed", reason="OOM"),
    record(2, loss=2.0),
    record(2, "duplicate"),
    record(3, loss=2.5),
]


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "runs").as_uri()


def runs(store):
    client = tracking.MlflowClient(tracking_uri=store)
    place = client.get_experiment_by_name("qstream").experiment_id
    found = client.search_runs([place], max_results=100)
    return client, {run.data.tags.get(TRIAL, "parent"): run for run in found}


def test_a_history_becomes_a_parent_and_children_once(store):
    assert export(HISTORY, store, study="lm") == (4, 0, 0)
    assert export(HISTORY, store, study="lm") == (0, 0, 4)
    client, found = runs(store)
    assert set(found) == {"parent", "0", "1", "2", "3"}
    assert {run.data.tags[PARENT] for name, run in found.items() if name != "parent"} == {found["parent"].info.run_id}
    assert [found[str(n)].info.status for n in range(4)] == ["FINISHED", "FAILED", "FINISHED", "FINISHED"]
    assert found["2"].data.params == {"lr": "0.0021", "batch_size": "64", "optimizer": "sgd", "momentum": "0.87"}
    assert found["2"].data.metrics == {"loss": 2.0, "p99 ms/step": 3.0}
    assert found["1"].data.tags["qstream.reason"] == "OOM"
    best = client.get_metric_history(found["parent"].info.run_id, "best loss")
    assert [(point.step, point.value) for point in best] == [(0, 3.0), (2, 2.0)]


def test_what_was_cut_short_is_completed_and_nothing_is_appended(store):
    export(HISTORY[:1], store, study="lm")
    client, found = runs(store)
    run_id = found["0"].info.run_id
    client.delete_tag(run_id, OUTCOME)  # as if the export had died before it
    client.update_run(run_id, status="RUNNING")
    assert export([*HISTORY, record(4, "lost")], store, study="lm") == (4, 1, 0)
    assert export([*HISTORY, record(4, "lost"), record(4, loss=1.0)], store, study="lm") == (0, 1, 4)
    _, found = runs(store)
    assert len(client.get_metric_history(run_id, "loss")) == 1
    assert found["4"].info.status == "FINISHED"
    assert found["0"].info.status == "FINISHED"


def test_studies_of_one_experiment_are_kept_apart_whatever_their_names(store):
    for study in ("lm", 'it\'s "lm"', "lm' or '"):
        assert export(HISTORY[:1], store, study=study) == (1, 0, 0)
        assert export(HISTORY[:1], store, study=study) == (0, 0, 1)


def test_the_result_of_a_trial_counts_over_all_else_that_was_said_of_it():
    records = [record(1, "failed"), record(0, "lost"), record(0), record(0, "superseded"), record(1, "lost")]
    assert {number: found.outcome for number, found in decisive(records).items()} == {0: "complete", 1: "lost"}


def test_a_store_that_does_not_answer_is_named(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "false")
    with pytest.raises(ConfigError, match=r"tracking URI must be of a server or store that takes runs \(.*\), got 'file:"):
        export(HISTORY, store, study="lm")
