"""The demo as a user runs it: real training, a real agent process, figures, and nothing left behind however it ends."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.stream.demos import needs_torch, streaming_demo

PROCESSES = 2  # the agent and Redis

pytestmark = [pytest.mark.slow, needs_torch]


def figures_of(seconds: int, file: Path) -> dict[str, Any]:
    """The figures of a run that ends by itself."""
    with streaming_demo(seconds, "--json", str(file), "--seed", "1") as demo:
        assert len(demo.children) >= PROCESSES
        steps = demo.output[:-1]
        assert len(steps) == len(set(steps)), "the agent goes from one step of its start to the next, never back"
        assert demo.end() == 0, "".join(demo.output)
    assert demo.left_behind() == []
    figures: dict[str, Any] = json.loads(file.read_text())
    assert figures["seconds"] >= seconds
    return figures


def test_a_run_answers_every_batch_reports_its_figures_and_leaves_no_process(tmp_path: Path) -> None:
    for seconds in (10, 40, 160):  # a busy machine trains so few steps in ten seconds that there is nothing to compare
        figures = figures_of(seconds, tmp_path / "demo.json")
        if figures["balance"]["windows"] and figures["colocate"]["placement_plans"]:
            break
    assert figures["seed"] == 1
    assert figures["tokens"] * 3 == figures["token_batches"] * 1024  # three layers see each token; 8 sequences of 128
    assert figures["routing_plans"] == figures["token_batches"] > 0
    assert (figures["lost"], figures["repeated"], figures["dead_letters"]) == (0, 0, 0)
    assert figures["placement_plans"] > 0
    assert figures["moved_experts"] > 0
    assert 0 < figures["dispatch_shares_recounted"] <= figures["dispatch_shares"]
    assert figures["claim_error"] < 1e-4
    gains = figures["balance"]
    assert gains["windows"] > 0
    for placement in ("contiguous", "plan"):
        assert 0 < gains["next_window_balancedness"][placement] <= 1
        assert 0 <= gains["cross_node_copies_per_token"][placement] <= 1  # there is one other node
    on_their_tokens = gains["shares_on_their_tokens"]
    assert 0 < on_their_tokens["even"] <= on_their_tokens["shares"] <= 1
    assert figures["colocate"]["placement_plans"] > 0  # the agent obeyed the switch in the middle of the run
    assert figures["switch"] == {"colocate": True}
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"]
    assert 0 < figures["loss"]["last"] < figures["loss"]["first"]
    assert {"machine", "versions", "options"} <= figures.keys()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_its_figures_and_leaves_no_process(signum: signal.Signals, tmp_path: Path) -> None:
    file = tmp_path / "demo.json"
    with streaming_demo(600, "--json", str(file)) as demo:
        demo.process.send_signal(signum)
        assert demo.end() == 128 + signum
    assert demo.left_behind() == []
    output = "".join(demo.output)
    assert "Traceback" not in output
    assert "balancedness, next window" in output
    assert json.loads(file.read_text())["lost"] == 0


def test_an_agent_that_ends_fails_the_run_with_the_end_of_its_log() -> None:
    with streaming_demo(600) as demo:
        [agent] = [child for child in demo.children if "routing" in child.cmdline()]
        agent.kill()
        assert demo.end() == 1
    assert demo.left_behind() == []
    output = "".join(demo.output)
    assert "The routing agent ended." in output
    assert "The end of its log:" in output
    assert "Traceback" not in output
