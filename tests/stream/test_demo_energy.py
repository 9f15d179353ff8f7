"""The energy scene as a user runs it: real broker, store and agent, modelled GPUs, and no budget passed nor write unsafe."""

from __future__ import annotations

import pytest

from tests.stream.demos import CIRCUMSTANCES, figures_of

pytestmark = pytest.mark.slow
FIGURES = {
    *("saved_ratio", "slowdown_worst", "probes", "budget_violations", "unsafe_writes", "stale_gpus", "plans", "schedules"),
    *("latency_ms", "dead_letters", "lost"),
}


def test_the_hour_saves_energy_within_the_slowdown_and_keeps_every_budget() -> None:
    figures, said = figures_of("energy", 1, "--json")  # without a file, stdout is the figures and nothing else
    assert "16 h100 GPUs (modelled)" in said
    assert figures.keys() == FIGURES | CIRCUMSTANCES
    assert 0.05 < figures["saved_ratio"] < 1
    assert 0 < figures["slowdown_worst"] <= 0.05
    assert figures["probes"] > 15
    assert figures["stale_gpus"] == 8
    assert figures["plans"] >= 340
    assert figures["schedules"] == 2  # the simple one at once, then the solved one
    assert "simulated-subspace" in said
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"]
    for name in ("budget_violations", "unsafe_writes", "dead_letters", "lost"):
        assert figures[name] == 0, name
