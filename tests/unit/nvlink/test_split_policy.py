"""The policy of shares: it trains on recorded telemetry, answers in numpy as in torch, joins the mix and leaves it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qstream.errors import LearnError
from qstream.learn.model import Model, parts
from qstream.nvlink import NvlinkOptions, plan_splits
from qstream.nvlink.examples import FABRIC, LEAVES, NS, SPINES, demands, telemetry, topology
from qstream.nvlink.links import wcmp
from qstream.nvlink.memory import FabricState
from qstream.nvlink.processor import NvlinkProcessor
from qstream.nvlink.split_policy import FEATURES, NAME, policy_share
from qstream.nvlink.splits import FIRST_WEIGHTS
from qstream.nvlink.train_splits import LEAST, lessons_of, train_splits
from qstream.state.fields import pack, unpack
from qstream.testing.feed import Feed
from schemas.fabric import RouteShares

UP, DOWN = np.full((LEAVES, SPINES), 400.0), np.full((SPINES, LEAVES), 400.0)
RL = NvlinkOptions(rl=True)


def model(gain: float = -1.0, version: int = 1) -> Model:
    """A network that takes shares off paths that are fuller than the others of their pair."""
    first = np.zeros((2, len(FEATURES)))
    first[:, FEATURES.index("larger_less_mean")] = 1
    arrays = {"0.weight": first, "0.bias": np.zeros(2), "1.weight": np.full((1, 2), gain), "1.bias": np.zeros(1)}
    return Model("nvlink", NAME, version, "mlp", arrays, FEATURES, {"activation": "tanh"})


def recorded(windows: int, **changes: Any) -> list[Any]:
    return [topology(), *(telemetry(at, offered, **changes) for at, offered in enumerate(demands(windows)))]


def test_shares_sum_to_1_leave_full_paths_and_never_take_one_that_is_down() -> None:
    up = UP.copy()
    up[0, 0], up[1, 1] = 0.0, 100.0
    base = wcmp(up, DOWN)
    even = np.where(base > 0, 1.0, 0.0)
    even /= even.sum(axis=2, keepdims=True)
    demand = 1.0 - np.eye(LEAVES)
    share = policy_share(model(), even, base, demand, up, DOWN)
    assert share is not None
    assert share.sum(axis=2) == pytest.approx(np.ones((LEAVES, LEAVES)))
    assert share[0, 1:, 0] == pytest.approx(np.zeros(LEAVES - 1))
    assert (share[1, [0, 2, 3], 1] < even[1, [0, 2, 3], 1]).all()


def test_a_network_without_finite_answers_is_not_heard() -> None:
    loud = replace(model(), arrays={**model().arrays, "0.bias": np.full(2, 10.0), "1.weight": np.full((1, 2), 1.7e308)})
    assert policy_share(loud, wcmp(UP, DOWN), wcmp(UP, DOWN), 1.0 - np.eye(LEAVES), UP, DOWN) is None


def test_the_policy_joins_with_a_small_weight_and_leaves_as_if_it_had_not_been() -> None:
    offered = [each / NS for each in demands(6)]
    state = None
    for demand in offered[:3]:
        _, state = plan_splits(demand, UP, DOWN, state=state)
    assert state is not None
    share, joined = plan_splits(offered[3], UP, DOWN, state=state, options=RL, model=model())
    assert len(joined.expert_weight) == len(joined.expert_share) == len(FIRST_WEIGHTS) + 1
    assert joined.policy_version == 1
    assert share.sum(axis=2) == pytest.approx(np.ones((LEAVES, LEAVES)))
    share, left = plan_splits(offered[4], UP, DOWN, state=joined)
    assert len(left.expert_weight) == len(FIRST_WEIGHTS)
    assert left.expert_weight.sum() == pytest.approx(1)


def test_frozen_the_policy_neither_answers_nor_learns() -> None:
    offered = demands(3)[0] / NS
    share, state = plan_splits(offered, UP, DOWN, options=NvlinkOptions(rl=True, freeze=True), model=model())
    assert share == pytest.approx(wcmp(UP, DOWN))
    assert (state.steps, state.policy_version) == (0, -1)


def test_the_agent_says_that_a_policy_is_missing_takes_the_published_one_and_keeps_it_in_its_state() -> None:
    feed: Feed[FabricState] = Feed(NvlinkProcessor(RL))
    feed.send(topology(), at_ms=0)
    offered = demands(8)
    for window in range(3):
        feed.send(telemetry(window, offered[window]), at_ms=window * 250)
    assert feed.frames(RouteShares)[-1].fallback_reason == "model_missing"
    for part in parts(model()):
        feed.send(part, at_ms=800)
    for window in range(3, 6):
        feed.send(telemetry(window, offered[window]), at_ms=window * 250)
    assert feed.frames(RouteShares)[-1].fallback_reason is None
    state = feed.state(FABRIC)
    assert state is not None
    assert state.splits is not None
    assert state.splits.policy_version == 1
    again = unpack(FabricState, pack(state))
    assert pack(again) == pack(state)
    feed.restart(NvlinkProcessor(RL))
    feed.send(telemetry(6, offered[6]), at_ms=1500)
    assert feed.frames(RouteShares)[-1].fallback_reason is None


def test_recorded_telemetry_trains_and_the_same_frames_give_the_same_network() -> None:
    frames = recorded(60)
    made, compared = train_splits(frames, seed=0, deadline_s=600, episodes=5)
    again, _ = train_splits(frames, seed=0, deadline_s=600, episodes=5)
    assert json.dumps(dict(made.metrics)) == json.dumps(dict(again.metrics))
    assert all(np.array_equal(made.arrays[name], again.arrays[name]) for name in made.arrays)
    assert (made.kind, made.feature_names, compared.held_out) == ("mlp", FEATURES, 15)
    assert [made.arrays[f"{at}.weight"].shape for at in range(3)] == [(32, 9), (32, 32), (1, 32)]


def test_windows_add_up_by_source_and_too_few_are_refused() -> None:
    both = [*recorded(LEAST), *recorded(LEAST, source="other")[1:]]
    (lesson,) = lessons_of(both)
    assert lesson.demands[0] == pytest.approx(2 * demands(LEAST)[0] / NS)
    with pytest.raises(LearnError, match="40 or more windows"):
        train_splits(recorded(10), seed=0, deadline_s=600)
