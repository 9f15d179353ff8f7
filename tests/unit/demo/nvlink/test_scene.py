"""The nvlink scene without an agent: what it publishes, and that nothing is scored as planned; and with one in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest
from rich.console import Console

from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.processor import NvlinkProcessor
from qstream.stream.client import time_of
from qstream.testing.feed import Feed
from schemas.fabric import LinkTelemetry

pytest.importorskip("torch", reason="the demo extra is not installed")

from qstream.demo.model import LayerRouting, TrainStep
from qstream.demo.nvlink import scene as module
from qstream.demo.nvlink.scene import LEAST_WINDOWS, OPTIONS, NvlinkScene
from qstream.demo.nvlink.traffic import RANKS, TOKEN_BYTES, TOKENS_A_TOKEN, bytes_between

TOKENS = 64 * RANKS


def drawn(seed: int, steps: int) -> Iterator[TrainStep]:
    """Steps of a model that was never trained: experts of unequal popularity."""
    rng, none = np.random.default_rng(seed), np.zeros(0, np.uint64)
    weight = rng.dirichlet(np.ones(RANKS), RANKS)
    for step in range(steps):
        ids = np.stack([rng.choice(RANKS, 2, replace=False, p=weight[at * RANKS // TOKENS]) for at in range(TOKENS)])
        layer = LayerRouting(0, ids.astype(np.int32), np.full(ids.shape, 0.5, np.float32))
        tokens = np.arange(TOKENS, dtype=np.uint64)
        yield TrainStep(step, 5.0 - step / 10, tokens, none, none, none, (), (layer,) * 60, 0.0)


def test_bytes_are_what_tokens_and_their_answers_take() -> None:
    (step,) = drawn(0, 1)
    found = bytes_between(step)
    assert (found == found.T).all()
    ids, home = step.routing[0].topk_ids, np.arange(TOKENS) * RANKS // TOKENS
    away = np.count_nonzero(ids != home[:, None]) * len(step.routing)
    assert found.sum() == 2 * away * TOKENS_A_TOKEN * TOKEN_BYTES
    assert (
        found[3, 7]
        == found[7, 3]
        == 60 * TOKENS_A_TOKEN * TOKEN_BYTES * (np.count_nonzero(ids[home == 3] == 7) + np.count_nonzero(ids[home == 7] == 3))
    )


def test_what_is_published_and_that_nothing_counts_as_planned_where_no_plan_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "trained", drawn)
    scene, sent, newest = NvlinkScene(0), Counter[str](), 0
    digests = set()
    for frames in chain([scene.first()], scene.steps(0.0)):
        for topic, frame in frames:
            scene.published(frame, 0.0)
            sent[topic.name] += 1
            if isinstance(frame, LinkTelemetry):
                assert frame.t0_ns >= newest  # windows follow each other
                newest = frame.t1_ns
                digests.add(frame.topology_digest)
    gone = LEAST_WINDOWS * 3 // 4  # without a plan the job stands still from then on
    assert sent == {
        "qstream.fabric.topology.v1": 3,
        "qstream.fabric.telemetry.v1": 2 * LEAST_WINDOWS,
        "qstream.fabric.report.v1": gone,
        "qstream.fabric.job.v1": 2 * 3,
    }
    assert len(digests) == 2
    assert scene.score.stood_still == LEAST_WINDOWS - gone
    assert scene.figures(1.0, 0) == {}
    assert "no plan yet" in scene.line("ready")


def test_with_an_agent_plans_come_the_uplink_is_found_and_the_job_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "trained", drawn)
    scene = NvlinkScene(0)
    agents = {key: Feed(NvlinkProcessor(NvlinkOptions().changed(OPTIONS))) for key in scene.step_keys}
    for frames in chain([scene.first()], scene.steps(0.0)):
        for _, frame in frames:
            scene.published(frame, 0.0)
            result = agents[frame.model_dump(include={"fabric"})["fabric"]].send(frame, time_of(frame))
            assert not result.dead
            for event in result.events:
                scene.received(event.frame, 0.001)
    figures = scene.figures(1.0, 0)
    assert (figures["lost"], figures["dead_letters"]) == (0, 0)
    assert figures["shares"] == LEAST_WINDOWS + 1
    assert figures["single_tier"] == {"gain": 0.0, "reason": "single tier, nothing blocks"}
    assert figures["windows_until_recovered"]["uplink"] is not None
    assert figures["windows_until_recovered"]["server"] == scene.score.stood_still > 0
    link = figures["link_over_optimum"]
    assert link["server gone"]["plan"] < link["server gone"]["wcmp"]
    console = Console(width=400, record=True, force_terminal=False)
    console.print(scene.line("ready"), scene.panel("ready"), *scene.report())
    text = console.export_text()
    assert "gain 0%" in text
    assert "modelled" in text
