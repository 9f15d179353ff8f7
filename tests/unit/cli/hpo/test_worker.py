"""The worker on one machine as a command, with real programs: what it prints, keeps, goes on with and refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qstream.cli.main import app
from qstream.hpo import Study
from qstream.testing.rig import wait_until

TRAIN = f"{sys.executable} {Path(__file__).parent / 'train.py'}"
SPACE = """
study: small
max_trials: 3
limits: {ms: 40}
parameters:
  - {name: lr, type: float, low: 1e-5, high: 0.1, scale: log}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a space."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path


def worker(*words: str) -> Result:
    return CliRunner().invoke(app, ["hpo", "worker", "space.yaml", *words])


def test_a_machine_alone_tunes_prints_the_best_and_goes_on_where_it_was(folder: Path):
    words = ("--local", "--slots", "2", "--command", f"{TRAIN} {{args}}", "--save", "kept.safetensors", "--json")
    first = worker(*words)
    assert first.exit_code == 0, first.output
    *trials, end = [json.loads(line) for line in first.stdout.splitlines()]
    assert sorted(trial["trial"] for trial in trials) == [0, 1, 2]
    assert all(trial["metrics"]["ms"] == 3 for trial in trials)
    assert end["best"]["value"] == min(trial["metrics"]["loss"] for trial in trials)
    assert "3 complete; the study is done: budget spent" in first.stderr
    second = worker(*words, "--trials", "4")
    assert [json.loads(line)["trial"] for line in second.stdout.splitlines()[:-1]] == [3]
    assert "going on with kept.safetensors: 3 trials so far" in second.stderr


def test_what_commands_wrote_is_kept_where_the_user_says(folder: Path):
    shown = worker("--local", "--trials", "1", "--command", f"{TRAIN} --lr {{lr}}", "--logs", "logs")
    assert shown.exit_code == 0, shown.output
    assert (folder / "logs/00000.0/output").read_text().startswith("step 1\n")
    assert "trial 0  loss " in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith("best: trial 0  loss ")


def test_what_a_killed_worker_left_in_more_slots_is_run_by_fewer(folder: Path):
    study = Study(str(folder / "space.yaml"), name="small", limits={"ms": 40}, max_trials=3)
    for slot in range(3):
        study.ask(f"slot/{slot}")
    study.save(folder / "kept.safetensors")
    shown = worker("--local", "--save", "kept.safetensors", "--command", f"{TRAIN} {{args}}", "--json")
    assert shown.exit_code == 0, shown.output
    *trials, end = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [(trial["trial"], trial["attempt"]) for trial in trials] == [(0, 0), (1, 1), (2, 1)]
    assert end["ended"]


def test_a_search_that_goes_on_calls_nothing_best_that_is_not(folder: Path):
    study = Study(str(folder / "space.yaml"), name="small", limits={"ms": 40}, max_trials=1)
    study.tell(study.ask().number or 0, {"loss": -100.0, "ms": 3.0})
    study.save(folder / "kept.safetensors")
    shown = worker("--local", "--trials", "2", "--save", "kept.safetensors", "--command", f"{TRAIN} {{args}}")
    assert shown.exit_code == 0, shown.output
    assert "trial 1  loss " in shown.stdout
    assert "(best)" not in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith("best: trial 0  loss -100")


def test_a_search_of_which_every_trial_failed_is_no_success(folder: Path):
    words = ("--local", "--save", "kept.safetensors", "--command")
    failed = worker(*words, f"{TRAIN} {{args}} --mode fail", "--trials", "2")
    assert failed.exit_code == 1
    assert "Error: none of 2 trials was complete; the last one: exit code 1: no data" in failed.stderr
    assert worker(*words, f"{TRAIN} {{args}}", "--trials", "3").exit_code == 0
    again = worker(*words, f"{TRAIN} {{args}} --mode fail", "--trials", "4")  # the search has a result
    assert again.exit_code == 0, again.output


def test_a_search_that_keeps_no_limit_says_so(folder: Path):
    shown = worker("--local", "--limit", "ms<=1", "--command", f"{TRAIN} {{args}}")
    assert shown.exit_code == 0, shown.output
    assert "no trial keeps all limits" in shown.stderr
    assert "best:" not in shown.stdout


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ("limits: 5", "limits must be a mapping {metric: largest value}, or a list, got 5"),
        ("limits: fast", "limits must be a mapping {metric: largest value}, or a list, got 'fast'"),
        ("options: 3", "options must be a mapping {name: value}, got 3"),
        ("options:", "options must be a mapping {name: value}, got None"),
    ],
)
def test_a_field_of_a_study_that_is_of_another_kind_is_named(folder: Path, fields: str, rule: str):
    (folder / "space.yaml").write_text(f"{fields}\nparameters: [{{name: lr, type: int, low: 1, high: 3}}]")
    shown = worker("--local", "--command", "true")
    assert shown.exit_code == 2
    assert f"space.yaml: {rule}" in shown.output


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("--local", "--command", "train --lr {lrr}"), "a placeholder of --command must be a parameter (lr)"),
        (("--local", "--command", "no-such-program {lr}"), "the program of --command must be one that is on the PATH"),
        (("--local", "--command", "a | b"), "--command must be one program and its arguments"),
        (("--local", "--command", "true", "--timeout", "soon"), "--timeout must be a time above 0"),
        (("--local", "--command", "true", "--limit", "ms=3"), "--limit must be METRIC<=VALUE or METRIC>=VALUE, got 'ms=3'"),
        (("--local", "--command", "true", "--objective", "ms"), "limits must be one a metric, none of the objective"),
        (("--local", "--command", "true", "--set", "optimizer=best"), "option optimizer must be"),
        (("--local", "--command", "true", "--prior", "absent.csv"), "a file of past metrics must be readable CSV"),
        (("--local", "--command", "true", "--save", "kept.txt"), "--save must be a .safetensors file in a folder that is there"),
        (("--local", "--command", "true", "--save", "none/a.safetensors"), "--save must be a .safetensors file in a folder"),
        (("--command", "true", "--trials", "3"), "--trials must be absent without --local"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_runs(words: tuple[str, ...], rule: str):
    shown = worker(*words)
    assert shown.exit_code == 2
    assert rule in shown.stderr
    assert shown.stdout == ""


def test_a_worker_that_is_stopped_says_so_and_its_trial_is_there_again(folder: Path):
    mode = folder / "mode"
    mode.write_text("hang")
    command = f"sh -c '{TRAIN} --lr {{lr}} --mode $(cat {mode}) --ready {folder / 'ready'}'"
    words = [sys.executable, "-m", "qstream.cli", "hpo", "worker", "space.yaml", "--local", "--save", "kept.safetensors"]
    with subprocess.Popen([*words, "--command", command], stdout=subprocess.PIPE, text=True) as process:
        wait_until((folder / "ready").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
        assert process.stdout is not None
        assert "trial 0  failed PREEMPTED  stopped with the worker" in process.stdout.read()
    mode.write_text("train")
    again = worker("--local", "--trials", "1", "--save", "kept.safetensors", "--command", command, "--json")
    trial, end = [json.loads(line) for line in again.stdout.splitlines()]
    assert (trial["trial"], trial["attempt"], trial["state"]) == (0, 1, "complete")
    assert end["trials"] == 1
