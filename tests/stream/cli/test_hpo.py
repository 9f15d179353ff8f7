"""A study on a real broker and a real Redis: workers that are killed and started again, a lost state, and what topics tell."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from typer.testing import Result

from qstream.embedded.redis import EmbeddedRedis
from qstream.testing.rig import wait_until

TRAIN = Path(__file__).parents[2] / "unit/cli/hpo/train.py"
STUDY = """
max_trials: {trials}
lease_s: 600
options: {{initial: 3, candidates: 64, starts: 2}}
parameters:
  - {{name: lr, type: float, low: 1e-5, high: 0.1, scale: log}}
"""
Started = Callable[..., "subprocess.Popen[str]"]
Invoke = Callable[..., Result]


@pytest.fixture
def agent(cluster: str, started: Started, redis_server: EmbeddedRedis) -> Callable[[], subprocess.Popen[str]]:
    """Start an agent."""
    return lambda: started("run", "hpo", "-b", cluster, "--redis", redis_server.url, "--port", "0")


@pytest.fixture
def study(cluster: str, invoke: Invoke, tmp_path: Path, topic_prefix: str) -> str:
    """A study of six trials; its name."""
    (tmp_path / "study.yaml").write_text(STUDY.format(trials=6))
    created = invoke("hpo", "create", tmp_path / "study.yaml", "--name", topic_prefix, "-b", cluster)
    assert created.exit_code == 0, created.output
    return topic_prefix


def test_workers_that_are_killed_or_stopped_lose_nothing_and_the_topics_tell_all_of_it(
    agent: Callable[[], object],
    cluster: str,
    started: Started,
    invoke: Invoke,
    answer_of: Callable[..., dict],
    study: str,
    tmp_path: Path,
):
    mode = tmp_path / "mode"
    mode.write_text("hang")
    command = f"sh -c 'exec {sys.executable} {TRAIN} --lr {{lr}} --mode $(cat {mode}) --ready {tmp_path}/ready{{trial}}'"
    words = ("hpo", "worker", study, "--name", "w", "-b", cluster, "--command", command)

    agent()
    killed = started(*words)
    wait_until((tmp_path / "ready0").exists)
    killed.kill()
    killed.wait()
    (held,) = answer_of("hpo", "show", study, "-b", cluster)["running"]
    assert (held["trial"], held["worker"], held["expired"]) == (0, "w/0", False)

    (tmp_path / "ready0").unlink()
    stopped = started(*words)  # under its name it gets trial 0 again, long before the lease is over
    wait_until((tmp_path / "ready0").exists)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait() == 143

    mode.write_text("train")
    both = [started(*words[:3], "--name", name, *words[5:], "--slots", "2") for name in ("w", "x")]
    assert [process.wait() for process in both] == [0, 0]

    shown = answer_of("hpo", "show", study, "-b", cluster)
    assert shown["ended"]
    assert (shown["trials"]["complete"], shown["repeated"], shown["running"]) == (6, {"duplicate": 0, "superseded": 0}, [])
    invoke("hpo", "history", study, "--csv", tmp_path / "h.csv", "-b", cluster)
    with (tmp_path / "h.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["trial"]))
    assert [(row["trial"], row["attempt"]) for row in rows] == [("0", "1"), *((str(trial), "0") for trial in range(1, 6))]
    (tmp_path / "other.yaml").write_text(STUDY.format(trials=6).replace("1e-5", "1e-6"))
    other = invoke("hpo", "create", tmp_path / "other.yaml", "--name", study, "-b", cluster)
    assert other.exit_code == 2
    assert "parameters must be as in the study" in other.stderr
    changed = answer_of("hpo", "change", study, "--trials", "7", "--limit", "ms<=5", "-b", cluster)
    assert (changed["max_trials"], changed["limits"][0]["value"], changed["options"]["initial"]) == (7, 5.0, 3)
    replayed = answer_of("hpo", "replay", study, "-b", cluster)
    assert (replayed["suggestions"], replayed["same"]) == (6, 6)


def test_options_that_were_set_while_the_agent_ran_are_known_to_replay(
    agent: Callable[[], object],
    cluster: str,
    invoke: Invoke,
    answer_of: Callable[..., dict],
    study: str,
    monkeypatch: pytest.MonkeyPatch,
):
    words = ("hpo", "worker", study, "-b", cluster, "--command", f"{sys.executable} {TRAIN} --lr {{lr}}")

    def sources() -> list[str]:
        return [json.loads(line)["source"] for line in invoke("hpo", "history", study, "-b", cluster).stdout.splitlines()]

    agent()
    first = invoke(*words, "--count", "4")
    assert first.exit_code == 0, first.output
    assert sources()[3] == "vqc"
    for option in ("explore=0", "candidates=32"):
        assert invoke("control", "hpo", "--set", option, "-b", cluster).exit_code == 0
        trials = len(sources())
        changed = invoke("hpo", "change", study, "--trials", str(trials + 3), "-b", cluster)
        assert changed.exit_code == 0, changed.output
        assert invoke(*words).exit_code == 0
    assert sources()[-1] == "gp"

    replayed = answer_of("hpo", "replay", study, "-b", cluster)
    assert replayed["different"] == []
    assert replayed["same"] == len(sources())
    monkeypatch.setattr("qstream.cli.hpo.replay.MOST_SHOWN", 2)
    for option in ("explore", "candidates"):  # for the tests after this one
        assert invoke("control", "hpo", "--unset", option, "-b", cluster).exit_code == 0
    other = invoke("hpo", "replay", study, "--set", "explore=7", "-b", cluster)
    assert other.exit_code == 1
    shown = other.stdout.splitlines()
    assert sum("it was computed from something else" in line for line in shown) == 2
    assert shown[-2:] == [
        "and 2 more that differ: --json names all",
        f"{len(sources()) - 4} of {len(sources())} suggestions are the same",
    ]


def test_trials_become_runs_of_a_store_of_mlflow_once(
    agent: Callable[[], object],
    cluster: str,
    invoke: Invoke,
    answer_of: Callable[..., dict],
    study: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    tracking = pytest.importorskip("mlflow.tracking", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = (tmp_path / "runs").as_uri()
    words = ("hpo", "mlflow", study, "--tracking-uri", store, "--experiment", "tuned", "-b", cluster)
    agent()
    for mode, number in (("train", 2), ("fail", 1), ("train", 3)):
        invoke(
            *("hpo", "worker", study, "-b", cluster, "--count", number),
            *("--command", f"{sys.executable} {TRAIN} --lr {{lr}} --mode {mode}"),
        )
        if mode == "fail":
            assert answer_of(*words) == {"created": 3, "changed": 0, "unchanged": 0}
    assert answer_of(*words) == {"created": 3, "changed": 0, "unchanged": 3}
    again = invoke(*words)
    assert f"{study}: 0 runs made, 0 changed, 6 as they were, in experiment 'tuned' at {store}" in again.stdout

    client = tracking.MlflowClient(tracking_uri=store)
    runs = client.search_runs([client.get_experiment_by_name("tuned").experiment_id], max_results=100)
    (parent,) = [run for run in runs if "qstream.trial" not in run.data.tags]
    children = {int(run.data.tags["qstream.trial"]): run for run in runs if run is not parent}
    assert sorted(children) == list(range(6))
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    assert [children[trial].info.status for trial in range(6)] == ["FINISHED"] * 2 + ["FAILED"] + ["FINISHED"] * 3
    told = {row["trial"]: row for row in map(json.loads, invoke("hpo", "history", study, "-b", cluster).stdout.splitlines())}
    for trial, run in children.items():
        assert run.data.params == {"lr": str(told[trial]["param.lr"])}
        assert run.data.metrics.get("loss") == told[trial]["value"]
        assert len(client.get_metric_history(run.info.run_id, "loss")) == (trial != 2)
    best = client.get_metric_history(parent.info.run_id, "best loss")
    assert min(point.value for point in best) == min(row["value"] for row in told.values() if row["value"] is not None)


def test_a_study_whose_state_was_lost_has_its_results_again_once(
    agent: Callable[[], subprocess.Popen[str]],
    cluster: str,
    invoke: Invoke,
    answer_of: Callable[..., dict],
    study: str,
    redis_server: EmbeddedRedis,
):
    command = f"{sys.executable} {TRAIN} --lr {{lr}}"

    def show() -> dict:
        return answer_of("hpo", "show", study, "-b", cluster)

    def rows() -> list[str]:
        return invoke("hpo", "history", study, "-b", cluster).stdout.splitlines()

    first = agent()
    done = invoke("hpo", "worker", study, "-b", cluster, "--slots", "2", "--command", command)
    assert done.exit_code == 0, done.output
    before = show()
    first.terminate()
    first.wait()
    with Redis.from_url(redis_server.url) as store:
        store.flushall()
    agent()
    for repeated in (0, 6):  # the second time all of them are there
        assert answer_of("hpo", "restore", study, "-b", cluster)["published"] == 6
        wait_until(lambda repeated=repeated: len(rows()) == 12 and show()["repeated"]["duplicate"] == repeated)
    after = show()
    assert after["trials"]["complete"] == 6
    assert [point["params"] for point in after["best"]] == [point["params"] for point in before["best"]]
