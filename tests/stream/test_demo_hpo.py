"""The hpo scene as a user runs it: real broker, store and agent, workers that train, and one that is killed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
FIGURES = {"trials", "best_loss", "failed", "reissued", "duplicates", "latency_ms", "dead_letters", "lost"}
CIRCUMSTANCES = {"seed", "machine", "versions", "options", "switch"}


def test_the_trial_of_a_killed_worker_goes_out_again_and_none_is_lost_or_counted_twice() -> None:
    command = [sys.executable, "-m", "qstream.cli", "demo", "hpo", "--plain", "--seconds", "2", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "was killed" in done.stderr
    assert "proposed by" in done.stderr
    figures = json.loads(done.stdout)
    assert figures.keys() == FIGURES | CIRCUMSTANCES
    for name in ("duplicates", "dead_letters", "lost"):
        assert figures[name] == 0, name
    assert figures["reissued"] >= 1
    assert figures["trials"] >= 2
    assert figures["best_loss"].keys() == {"default", "sobol"}
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"]
