"""The hpo scene as a user runs it: real broker, store and agent, workers that train, and one that is killed."""

from __future__ import annotations

import pytest

from tests.stream.demos import CIRCUMSTANCES, figures_of

pytestmark = pytest.mark.slow
FIGURES = {"trials", "best_loss", "failed", "reissued", "duplicates", "latency_ms", "dead_letters", "lost"}


def test_the_trial_of_a_killed_worker_goes_out_again_and_none_is_lost_or_counted_twice() -> None:
    figures, said = figures_of("hpo", 2)
    assert "was killed" in said
    assert "proposed by" in said
    assert figures.keys() == FIGURES | CIRCUMSTANCES
    for name in ("duplicates", "dead_letters", "lost"):
        assert figures[name] == 0, name
    assert figures["reissued"] >= 1
    assert figures["trials"] >= 2
    assert figures["best_loss"].keys() == {"default", "sobol"}
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"]
