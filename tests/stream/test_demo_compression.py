"""The compression scene as a user runs it: real broker, store and both agents, a model that trains, and every block compared."""

from __future__ import annotations

import pytest

from tests.stream.demos import CIRCUMSTANCES, figures_of, needs_torch

pytestmark = [pytest.mark.slow, needs_torch]
FIGURES = {
    *("seconds", "steps", "tensors", "blocks", "bits", "ratio", "rel_l2", "peers", "mismatches", "bound_violations"),
    *("loss", "loss_uncompressed", "latency_ms", "dead_letters", "lost"),
}


def test_every_block_returns_as_promised_and_the_model_learns_from_restored_gradients() -> None:
    figures, said = figures_of("compression", 1)
    assert "identical" in said
    assert figures.keys() == FIGURES | CIRCUMSTANCES
    for name in ("mismatches", "bound_violations", "dead_letters", "lost"):
        assert figures[name] == 0, name
    assert figures["steps"] >= 3
    assert figures["tensors"] == 22 + 2 * 22 + 2  # weights, gradients of two workers, activations of two blocks
    assert figures["rel_l2"]["weight"] == 0
    assert 0 < figures["rel_l2"]["activation"] <= 0.05
    assert figures["ratio"]["gradient"] > 12
    assert figures["bits"]["activation"] < figures["peers"]["activation"]["int8_bits"]
    assert 0 < figures["loss"] < 5.6
    assert abs(figures["loss"] - figures["loss_uncompressed"]) < 0.2
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"]
