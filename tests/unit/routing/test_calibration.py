"""Calibration: a steady error is found out, the bound holds as often as asked, and a promise is judged once, by its window."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.routing import calibration
from qstream.routing.memory import RoutingState
from qstream.routing.options import RoutingOptions
from qstream.routing.processor import RoutingProcessor
from qstream.state.fields import pack, unpack
from qstream.testing.feed import Feed
from schemas.experts import ExpertLoad, ExpertTopology
from schemas.placement import PlacementPlan, PlacementScore
from schemas.shares import DispatchShares

TOPOLOGY = ExpertTopology(model="m", num_layers=2, num_logical_experts=8, num_gpus=4, slots_per_gpu=3)
OPTIONS = RoutingOptions(window_tokens=256, windows=4, steps=50, min_gain=0.0, plan_ms=0, plan_every_s=0, shares_tokens=256)


def test_a_steady_error_is_corrected_and_the_bound_holds_as_often_as_asked() -> None:
    rng = np.random.default_rng(0)
    state, errors, held = calibration.start(), [], []
    for n in range(600):
        state, said = calibration.promise(state, 0.97, version=1, window=n)
        came = 0.97 - 0.04 - 0.01 * rng.random()
        errors.append(abs(said.corrected - came))
        held.append(came >= said.low)
        state = calibration.judge(state, came)
    assert errors[0] >= 0.04
    assert np.mean(errors[50:]) < 0.005
    assert 0.88 <= np.mean(held[100:]) <= 0.95
    assert state.bias == pytest.approx(0.045, abs=0.005)


def test_a_promise_is_judged_once_and_the_state_is_stored_as_it_is() -> None:
    state, _ = calibration.promise(calibration.start(), 0.9, version=1, window=3)
    state = calibration.judge(state, 0.8)
    assert calibration.judge(state, 0.1) is state
    assert unpack(calibration.Calibration, pack(state)) == state


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
    assert state.calibration is not None
    assert state.smoothing is not None
    assert state.calibration.miss.steps == 7
    assert state.smoothing.hedge.steps == 7
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
    assert shadow[1].smoothing == on[1].smoothing
    assert shadow[1].calibration == on[1].calibration
    assert off[1].smoothing is None
    assert off[1].calibration is None
    no_shares = run(OPTIONS.changed({"smooth_shares": False}))[1]
    assert no_shares.smoothing is None
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
    now = feed.state("m").calibration
    assert frozen is not None
    assert now is not None
    assert now.miss == frozen.miss
    assert now.promise is not None
    assert now.promise.window == 5
