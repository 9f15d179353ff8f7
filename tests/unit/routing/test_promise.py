"""Promises: what plans say of the next window, judged once, by that window; options and commands decide whether it is said."""

from __future__ import annotations

import numpy as np

from qstream.learn import calibration
from qstream.routing import promise, smoothing
from qstream.routing.memory import RoutingState
from qstream.routing.options import RoutingOptions
from qstream.routing.processor import RoutingProcessor
from qstream.testing.feed import Feed
from schemas.experts import ExpertLoad, ExpertTopology
from schemas.placement import PlacementPlan, PlacementScore
from schemas.shares import DispatchShares

TOPOLOGY = ExpertTopology(model="m", num_layers=2, num_logical_experts=8, num_gpus=4, slots_per_gpu=3)
OPTIONS = RoutingOptions(window_tokens=256, windows=4, steps=50, min_gain=0.0, plan_ms=0, plan_every_s=0, shares_tokens=256)


def test_a_promise_is_a_balancedness_however_far_plans_were_off() -> None:
    state = calibration.start()
    for came in (0.1, 0.2, 0.1):
        state = promise.judge(state, promise.promise(state, 0.2, version=1, window=0), came)
    for planned in (0.0, 1.0):
        said = promise.promise(state.model_copy(update={"bias": -0.3}), planned, version=1, window=1)
        assert 0 <= said.low <= said.corrected <= 1


def load(n: int) -> ExpertLoad:
    count = np.random.default_rng(n).poisson(np.array([90, 50, 40, 30, 20, 10, 10, 6]), (2, 8))
    return ExpertLoad(model="m", window_id=str(n), t0_ns=0, t1_ns=1, num_tokens=256, logical_count=count)


def run(options: RoutingOptions) -> tuple[list[PlacementPlan | DispatchShares], RoutingState]:
    feed = Feed(RoutingProcessor(options))
    feed.send(TOPOLOGY, 1000)
    events = [event for n in range(8) for event in feed.send(load(n), 2000 + n).events]
    return [event.frame for event in events if isinstance(event.frame, PlacementPlan | DispatchShares)], feed.state("m")


def expected(plans: list[PlacementPlan | DispatchShares]) -> list[PlacementScore]:
    return [plan.expected for plan in plans if isinstance(plan, PlacementPlan) and plan.expected is not None]


def test_plans_say_what_to_expect_of_the_next_window_and_learn_from_it() -> None:
    plans, state = run(OPTIONS)
    assert (state.calibration.miss.steps, state.shares.steps) == (7, 7)
    scores = expected(plans)
    assert len(scores) == 8
    for score in scores:
        assert score.next_window is not None
        assert score.next_window_low is not None
        assert score.next_window_low <= score.next_window
    assert scores[-1].next_window is not None
    assert scores[-1].next_window < max(scores[-1].balancedness, scores[-1].balancedness_before), "plans expect too much"


def test_in_shadow_it_is_learnt_and_answered_as_without_and_off_stands_still() -> None:
    on, shadow, off = (run(OPTIONS.changed({"learn": learn})) for learn in ("on", "shadow", "off"))
    assert [plan.encode() for plan in shadow[0]] == [plan.encode() for plan in off[0]]
    assert [score.next_window for score in expected(shadow[0])] == [None] * 8
    for name in ("shares", "smoothed", "calibration", "promised"):
        assert getattr(shadow[1], name) == getattr(on[1], name)
    assert (off[1].shares, off[1].calibration) == (smoothing.start(), calibration.start())
    assert (off[1].smoothed, off[1].promised) == (None, None)
    no_shares = run(OPTIONS.changed({"smooth_shares": False}))[1]
    assert (no_shares.shares, no_shares.smoothed) == (smoothing.start(), None)
    assert no_shares.calibration == on[1].calibration


def test_a_promise_of_a_window_that_was_not_learnt_from_is_not_held_against_a_later_one() -> None:
    feed = Feed(RoutingProcessor(OPTIONS))
    feed.send(TOPOLOGY, 1000)
    for n in range(3):
        feed.send(load(n), 2000 + n)
    frozen = feed.state("m").calibration
    feed.configure(learn="off")
    feed.send(load(3), 2003)
    assert feed.state("m").calibration == frozen
    feed.configure(learn="on")
    feed.send(load(4), 2004)
    now = feed.state("m")
    assert now.calibration == frozen
    assert now.promised is not None
    assert now.promised.window == 5
