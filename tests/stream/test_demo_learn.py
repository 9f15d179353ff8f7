"""The learning scene as a user runs it: real readings, a worker that is killed, and no learning step lost or done twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_no_learning_step_is_lost_or_done_twice_when_the_worker_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "demo.json"
    command = [sys.executable, "-m", "qstream.cli", "demo", "learn", "--plain", "--seconds", "18", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is killed (SIGKILL)" in done.stdout
    figures = json.loads(file.read_text())
    assert figures["updates"] == figures["readings"] == figures["forecasts"] > 18
    assert (figures["promotions"], figures["rollbacks"]) == (0, 0)
    assert len(figures["model_versions"]["published"]) == 1
    assert figures["model_versions"]["answered"] == [], "a model that says nonsense never answers"
    assert (figures["updates_lost"], figures["updates_twice"], figures["lost"], figures["dead_letters"]) == (0, 0, 0, 0)
    assert 0 < figures["coverage"] <= 1
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"] <= figures["latency_ms"]["worst"]
    assert figures["gap_ms"] > 0
    assert [model["what"] for model in figures["models"]] == ["nonsense"]
