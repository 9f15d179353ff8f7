"""A study on a real broker and a real Redis: workers that are killed and started again, a lost state, and what topics tell."""

from __future__ import annotations

import csv
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
