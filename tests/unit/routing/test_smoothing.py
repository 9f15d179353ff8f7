"""Smoothed shares: what they are made of, that they learn which look at the past suits, and that options hold."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.learn import hedge
from qstream.learn.hedge import HedgeState
from qstream.routing import smoothing
from qstream.routing.pack import place_window
from qstream.routing.score import balancedness
from qstream.routing.shares import dispatch_shares, shares_of_each
from qstream.state.fields import pack, unpack
from schemas.experts import ExpertTopology

TOPOLOGY = ExpertTopology(num_layers=3, num_logical_experts=8, num_gpus=4, slots_per_gpu=4)


def counts(rng: np.random.Generator, mean: np.ndarray) -> np.ndarray:
    return rng.poisson(mean).astype(np.float64)


def placed(load: np.ndarray) -> np.ndarray:
    return place_window(load, 4, 16)


def test_shares_of_several_loads_are_those_of_each_alone() -> None:
    rng = np.random.default_rng(0)
    loads = rng.lognormal(0, 1, (4, 3, 8))
    plan = placed(loads[0])
    each = shares_of_each(loads, plan, TOPOLOGY)
    for load, found in zip(loads, each, strict=True):
        assert found.tobytes() == dispatch_shares(load, plan, TOPOLOGY).tobytes()


def test_shares_are_a_mixture_whose_parts_of_an_expert_sum_to_one() -> None:
    rng = np.random.default_rng(0)
    mean = rng.lognormal(3, 1, (3, 8))
    plan, first = placed(mean), counts(rng, mean)
    state, seen, arms = smoothing.learn(smoothing.start(), None, first, plan, TOPOLOGY)
    even, live = arms[0], dispatch_shares(first, plan, TOPOLOGY)
    np.testing.assert_allclose(smoothing.mixed(state, arms), 0.2 * even + 0.8 * live, atol=1e-6)
    for _ in range(5):
        state, seen, arms = smoothing.learn(state, seen, counts(rng, mean), plan, TOPOLOGY)
    found = smoothing.mixed(state, arms)
    for row, part in zip(plan, found, strict=True):
        np.testing.assert_allclose(np.bincount(row, part), 1, atol=1e-5)
    weight = hedge.mix(state)[0]
    np.testing.assert_allclose(found, np.tensordot(weight, arms, 1), atol=1e-6)


@pytest.mark.parametrize(("moves", "worse"), [(False, "live"), (True, "ewma-0.1")])
def test_a_noisy_load_that_stays_is_remembered_long_and_one_that_moves_is_not(moves: bool, worse: str) -> None:
    rng = np.random.default_rng(1)
    mean = rng.lognormal(2.0, 1, (3, 8))
    plan, state, seen, scores = (
        np.tile(np.array([0, 1, 2, 3, 1, 2, 4, 5, 2, 3, 5, 6, 7, 0, 4, 6], np.int32), (3, 1)),
        smoothing.start(),
        None,
        [],
    )
    for n in range(60):
        if moves and n % 5 == 0:
            mean = rng.lognormal(8, 1, (3, 8))
        state, seen, arms = smoothing.learn(state, seen, counts(rng, mean), plan, TOPOLOGY)
        other = arms[smoothing.ARMS.index(worse)]
        scores.append([balancedness(plan, counts(rng, mean), 4, part) for part in (smoothing.mixed(state, arms), other)])
    mixture, alone = np.mean(scores, axis=0)
    assert mixture > alone + 0.01


def test_another_placement_is_no_new_beginning() -> None:
    """What was learnt is how the load moves; the arms are judged by the placement in force."""
    rng = np.random.default_rng(0)
    mean = rng.lognormal(3, 1, (3, 8))
    state, seen = smoothing.start(), None
    for n in range(8):
        plan = placed(rng.permuted(mean, axis=1) if n % 4 == 3 else mean)
        state, seen, arms = smoothing.learn(state, seen, counts(rng, mean), plan, TOPOLOGY)
    assert state.steps == 7
    even, mixture = (balancedness(plan, mean, 4, part) for part in (arms[0], smoothing.mixed(state, arms)))
    assert mixture > even


def test_no_token_at_all_teaches_nothing_and_tokens_of_a_dead_gpu_s_expert_stop_nothing() -> None:
    dead = TOPOLOGY.model_copy(update={"gpu_capacity": np.array([1, 0.5, 1, 0], np.float32)})
    plan = np.tile(np.arange(16, dtype=np.int32) // 2, (3, 1))  # experts 6 and 7 are on the dead GPU only
    state, seen, _ = smoothing.learn(smoothing.start(), None, np.ones((3, 8)), plan, dead)
    state, seen, _ = smoothing.learn(state, seen, np.zeros((3, 8)), plan, dead)
    assert state.steps == 0
    state, _, arms = smoothing.learn(state, seen, np.ones((3, 8)), plan, dead)
    assert state.steps == 1
    assert np.isfinite(smoothing.mixed(state, arms)).all()


def test_a_stored_state_goes_on_with_the_same_bytes() -> None:
    rng = np.random.default_rng(0)
    mean = rng.lognormal(3, 1, (3, 8))
    plan, kept, seen, stored, stored_seen = placed(mean), smoothing.start(), None, smoothing.start(), None
    for _ in range(6):
        came = counts(rng, mean)
        kept, seen, _ = smoothing.learn(kept, seen, came, plan, TOPOLOGY)
        stored, stored_seen, _ = smoothing.learn(stored, stored_seen, came, plan, TOPOLOGY)
        stored, stored_seen = unpack(HedgeState, pack(stored)), unpack(smoothing.Smoothed, pack(stored_seen))
    assert (pack(kept), pack(seen)) == (pack(stored), pack(stored_seen))
