"""Routing's learners under commands: freeze, thaw, reset and restore, in the middle of a batch, and what stops no stream."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.learn import calibration, hedge
from qstream.routing import smoothing
from qstream.routing.memory import RoutingState
from qstream.routing.options import RoutingOptions
from qstream.routing.processor import RoutingProcessor
from qstream.state.fields import pack
from qstream.testing.feed import Feed
from schemas.experts import ExpertLoad, ExpertTopology
from schemas.frame import Frame
from schemas.learning import LearnCommand
from schemas.placement import PlacementPlan
from schemas.shares import DispatchShares

TOPOLOGY = ExpertTopology(model="m", num_layers=2, num_logical_experts=8, num_gpus=4, slots_per_gpu=3)
OPTIONS = RoutingOptions(window_tokens=256, windows=4, steps=50, min_gain=0.0, plan_ms=0, plan_every_s=0, shares_tokens=256)


def load(n: int, model: str = "m", experts: int = 8) -> ExpertLoad:
    count = np.random.default_rng(n).poisson(np.linspace(90, 6, experts), (2, experts))
    return ExpertLoad(model=model, window_id=str(n), t0_ns=0, t1_ns=1, num_tokens=256, logical_count=count)


def command(name: str, learner: str = "", key: str = "m", state: Frame | None = None) -> LearnCommand:
    body = None if state is None else np.frombuffer(state.encode(), np.uint8)
    return LearnCommand(module="routing", key=key, command=name, learner=learner, state=body)


@pytest.fixture
def feed() -> Feed[RoutingState]:
    """A model that has learnt from five windows."""
    fed = Feed(RoutingProcessor(OPTIONS))
    fed.send(TOPOLOGY, 1000)
    for n in range(5):
        fed.send(load(n), 2000 + n)
    assert (fed.state("m").shares.steps, fed.state("m").calibration.miss.steps) == (4, 4)
    return fed


def learnt(feed: Feed[RoutingState], *names: str) -> list[dict[str, bytes]]:
    return [pack(getattr(feed.state("m"), name)) for name in names]


def variants(feed: Feed[RoutingState]) -> list[str]:
    return [frame.solver.variant for frame in feed.frames(DispatchShares)]


def test_frozen_shares_hold_their_bytes_and_those_of_the_newest_tokens_are_published(feed: Feed[RoutingState]) -> None:
    before = learnt(feed, "shares", "smoothed")
    feed.send(command("freeze", "shares"), 3000)
    for n in range(5, 8):
        feed.send(load(n), 3000 + n)
    assert learnt(feed, "shares", "smoothed") == before
    assert feed.state("m").calibration.miss.steps == 7, "the other learner goes on"
    assert [variant == "smoothed" for variant in variants(feed)] == [True] * 5 + [False] * 3
    feed.send(command("thaw"), 4000)
    feed.send(load(8), 4001)
    assert feed.state("m").shares.steps == 5
    assert variants(feed)[-1] == "smoothed"


def test_a_frozen_calibration_holds_its_bytes_and_plans_promise_nothing(feed: Feed[RoutingState]) -> None:
    before = learnt(feed, "calibration")
    feed.send(command("freeze", "calibration"), 3000)
    for n in range(5, 8):
        feed.send(load(n), 3000 + n)
    assert learnt(feed, "calibration") == before
    said = [plan.expected.next_window is not None for plan in feed.frames(PlacementPlan)]
    assert said == [True] * 5 + [False] * 3


def test_what_is_frozen_stays_so_when_a_model_gets_another_topology(feed: Feed[RoutingState]) -> None:
    feed.send(command("freeze", "shares"), 3000)
    before = learnt(feed, "shares")
    feed.send(TOPOLOGY.model_copy(update={"slots_per_gpu": 4}), 3001)
    state = feed.state("m")
    assert (state.frozen, state.commands) == (("shares",), 1)
    assert learnt(feed, "shares") == before
    assert state.calibration == calibration.start()


def test_a_command_amid_a_batch_counts_from_its_place_on(feed: Feed[RoutingState]) -> None:
    """All at once or one by one: the same bytes, the same plans."""
    frames: list[Frame] = [load(5), command("freeze"), load(6), command("reset", "shares"), command("thaw"), load(7), load(8)]
    twin = Feed(RoutingProcessor(OPTIONS))
    twin.send(TOPOLOGY, 1000)
    for n in range(5):
        twin.send(load(n), 2000 + n)
    for n, frame in enumerate(frames):
        twin.send(frame, 3000 + n)
    feed.send_batch([feed.record(frame, 3000 + n) for n, frame in enumerate(frames)])
    assert pack(feed.state("m")) == pack(twin.state("m"))
    assert [(event.id, event.frame.encode()) for event in feed.events] == [
        (event.id, event.frame.encode()) for event in twin.events
    ]
    assert feed.state("m").shares.steps == 2, "judged after the reset: one step for each window that followed"


def test_a_learner_begins_again_and_comes_back_by_restore(feed: Feed[RoutingState]) -> None:
    kept = feed.state("m")
    feed.send(command("reset"), 3000)
    assert (feed.state("m").shares, feed.state("m").calibration) == (smoothing.start(), calibration.start())
    feed.send(command("restore", "shares", state=kept.shares), 3001)
    feed.send(command("restore", "calibration", state=kept.calibration), 3002)
    assert pack(feed.state("m")) == pack(kept.model_copy(update={"commands": 3}))


def test_what_was_learnt_of_a_model_serves_another_with_other_experts(feed: Feed[RoutingState]) -> None:
    other = TOPOLOGY.model_copy(update={"model": "n", "num_logical_experts": 4, "slots_per_gpu": 2})
    feed.send(other, 3000)
    feed.send(command("restore", "shares", "n", feed.state("m").shares), 3001)
    for n in range(3):
        feed.send(load(n, "n", experts=4), 3002 + n)
    assert feed.dead == []
    assert feed.state("n").shares.steps == 4 + 2


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (command("restore", "shares", state=hedge.start(2)), "shares.arms must be even, live"),
        (command("restore", "calibration", state=calibration.start(window=9)), "shape of calibration.miss.score must be"),
        (command("restore", "shares", state=calibration.start()), "must be HedgeState.v1"),
        (command("reset", "smoothed"), "learner must be one of shares, calibration, got 'smoothed'"),
        (command("reset", key="new"), "key must be one that routing has a state of, got 'new'"),
    ],
    ids=["arms", "shape", "class", "learner", "key"],
)
def test_a_command_that_does_not_fit_is_a_dead_letter_and_stops_nothing(
    feed: Feed[RoutingState], asked: LearnCommand, said: str
) -> None:
    before = pack(feed.state("m"))
    (letter,) = feed.send(asked, 3000).dead
    assert said in letter.error_message
    assert pack(feed.state("m")) == before
    assert feed.send(load(5), 3001).events
