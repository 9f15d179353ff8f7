"""Tier 0: spread, consistency, bounds and replica choice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.kernels import GOLDEN, mix64
from qstream.routing.hashing import assign, assign_bounded, choose_replica
from qstream.routing.problem import logical_maps

TOKENS = np.arange(100_000, dtype=np.uint64)


def chi_square(counts: np.ndarray) -> float:
    return float(((counts - counts.mean()) ** 2).sum() / counts.mean())


def chi_square_limit(bins: int) -> float:
    """Five standard deviations above the mean of the chi-square distribution."""
    return bins - 1 + 5 * math.sqrt(2 * max(bins - 1, 1))


def test_mixer_gives_the_published_first_output_of_splitmix64_for_seed_1234567() -> None:
    assert int(mix64(np.uint64(1234567) + GOLDEN)) == 6457827717110365317


@pytest.mark.parametrize("experts", [1, 2, 3, 5, 64, 72, 129, 256])
def test_every_expert_gets_its_share_of_sequential_ids(experts: int) -> None:
    counts = np.bincount(assign(TOKENS, experts), minlength=experts)
    assert len(counts) == experts
    assert chi_square(counts) < chi_square_limit(experts)


@pytest.mark.parametrize("experts", [*range(1, 20), 63, 64, 65, 96, 128])
def test_one_more_expert_takes_its_share_and_no_other_token_moves(experts: int) -> None:
    before, after = assign(TOKENS, experts), assign(TOKENS, experts + 1)
    moved = before != after
    assert set(after[moved]) == {experts}
    share = 1 / (experts + 1)
    assert abs(moved.mean() - share) < 5 * np.sqrt(share * (1 - share) / len(TOKENS))


def test_another_seed_is_an_independent_spread() -> None:
    same = (assign(TOKENS, 64) == assign(TOKENS, 64, seed=1)).mean()
    assert abs(same - 1 / 64) < 5 * np.sqrt(1 / 64 / len(TOKENS))


def test_read_only_strided_and_signed_ids_give_the_same_bytes() -> None:
    want = assign(TOKENS, 72).tobytes()
    frozen = TOKENS.copy()
    frozen.flags.writeable = False
    strided = np.repeat(TOKENS, 2)[::2]
    views: list[np.ndarray] = [frozen, strided, TOKENS.astype(np.int64)]
    for ids in views:
        assert assign(ids, 72).tobytes() == want


@given(
    ids=st.lists(st.integers(0, 20), max_size=300),
    experts=st.integers(1, 40),
    slack=st.sampled_from([0.0, 0.05, 0.25, 1.0]),
    data=st.data(),
)
def test_nobody_exceeds_the_bound_and_equal_input_gives_equal_bytes(
    ids: list[int], experts: int, slack: float, data: Any
) -> None:
    weights = data.draw(
        st.none() | st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=experts, max_size=experts).filter(any)
    )
    capacity = None if weights is None else np.array(weights)
    tokens = np.array(ids, np.uint64)
    got = assign_bounded(tokens, experts, slack, capacity=capacity)
    share = np.ones(experts) if capacity is None else capacity
    bound = np.ceil((1 + slack) * len(ids) * share / share.sum() * (1 + 1e-12))
    assert (np.bincount(got, minlength=experts) <= bound).all()
    assert got.tobytes() == assign_bounded(tokens, experts, slack, capacity=capacity).tobytes()


def test_hot_keys_fill_experts_exactly_without_slack() -> None:
    hot = np.zeros(6400, np.uint64)
    assert (np.bincount(assign_bounded(hot, 64, slack=0.0)) == 100).all()


def test_costs_stay_below_the_share_plus_one_token() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.zipf(1.2, 20_000).astype(np.uint64)
    cost = rng.lognormal(size=len(tokens)).astype(np.float32)
    got = assign_bounded(tokens, 64, 0.05, cost)
    load = np.bincount(got, cost.astype(np.float64), minlength=64)
    assert load.max() < 1.05 * cost.sum(dtype=np.float64) / 64 + cost.max()


def test_with_room_for_all_every_token_stays_at_home() -> None:
    assert (assign_bounded(TOKENS, 72, slack=100.0) == assign(TOKENS, 72)).all()


def test_an_expert_without_capacity_gets_nothing_even_when_tokens_cost_nothing() -> None:
    capacity = np.array([1.0, 0.0, 2.0, 0.0])
    counts = np.bincount(assign_bounded(TOKENS, 4, 0.0, capacity=capacity), minlength=4)
    assert counts[[1, 3]].tolist() == [0, 0]
    assert abs(counts[2] - 2 * counts[0]) <= 3
    free = assign_bounded(TOKENS[:1000], 4, 0.0, np.zeros(1000, np.float32), capacity)
    assert set(free) <= {0, 2}


def test_overflow_of_one_expert_spreads_over_all_others() -> None:
    lost = np.ones(64)
    lost[7] = 0.0
    moved = assign_bounded(TOKENS, 64, 10.0, capacity=lost)[assign(TOKENS, 64) == 7]
    counts = np.bincount(moved, minlength=64)
    assert chi_square(np.delete(counts, 7)) < chi_square_limit(63)


def test_replicas_of_an_expert_share_its_tokens_evenly_and_independently_of_other_choices() -> None:
    slots, counts = logical_maps(np.array([[0, 1, 0, 2, 0, 1]], np.int32), 3)
    topk = np.tile(np.array([0, 1], np.int32), (len(TOKENS), 1))
    got = choose_replica(TOKENS, topk, slots[0], counts[0])
    pairs = np.bincount(np.searchsorted([0, 2, 4], got[:, 0]) * 2 + np.searchsorted([1, 5], got[:, 1]), minlength=6)
    assert set(got[:, 0]) == {0, 2, 4}
    assert set(got[:, 1]) == {1, 5}
    assert chi_square(pairs) < chi_square_limit(6)
    assert got.tobytes() == choose_replica(TOKENS, topk, slots[0], counts[0]).tobytes()


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: assign(TOKENS, 0), "experts"),
        (lambda: assign(TOKENS.reshape(2, -1), 4), "token_id"),
        (lambda: assign(TOKENS.astype(np.float64), 4), "token_id"),
        (lambda: assign_bounded(TOKENS, 4, slack=-0.1), "slack"),
        (lambda: assign_bounded(TOKENS, 4, slack=float("nan")), "slack"),
        (lambda: assign_bounded(TOKENS, 4, cost=np.ones(3, np.float32)), "cost"),
        (lambda: assign_bounded(TOKENS[:2], 4, cost=np.array([1, np.nan], np.float32)), "cost"),
        (lambda: assign_bounded(TOKENS, 2, capacity=np.zeros(2)), "capacity"),
        (lambda: assign_bounded(TOKENS, 2, capacity=np.array([1.0, -1.0])), "capacity"),
    ],
)
def test_bad_input_is_named(call: Any, field: str) -> None:
    with pytest.raises(ProblemError, match=f"^{field} must be "):
        call()


def test_no_choice_gets_no_slot_and_changes_no_other() -> None:
    slots, counts = np.array([[0, 3], [1, -1]], np.int32), np.array([2, 1], np.int32)
    topk = np.tile(np.array([[0, 1]], np.int32), (len(TOKENS), 1))
    padded = np.insert(topk, 1, -1, axis=1)
    got = choose_replica(TOKENS, padded, slots, counts)
    assert (got[:, 1] == -1).all()
    np.testing.assert_array_equal(got[:, [0, 2]], choose_replica(TOKENS, topk, slots, counts))


def test_a_gate_choice_out_of_range_is_named_with_its_place() -> None:
    maps = np.zeros((2, 1), np.int32), np.ones(2, np.int32)
    with pytest.raises(ProblemError, match=r"^topk_ids must be experts 0 to 1, got 2 at \[1, 0\]"):
        choose_replica(TOKENS[:2], np.array([[0, 1], [2, 0]], np.int32), *maps)
    with pytest.raises(ProblemError, match="replica_count"):
        choose_replica(TOKENS[:2], np.zeros((2, 1), np.int32), maps[0], np.full(2, 2, np.int32))
    with pytest.raises(ProblemError, match="logical_to_physical"):
        choose_replica(TOKENS[:2], np.zeros((2, 1), np.int32), np.full((2, 1), -1, np.int32), maps[1])


def test_every_seed_serves_every_kernel():
    token_id, topk = np.arange(64, dtype=np.uint64), np.zeros((64, 1), np.int32)
    for seed in range(64):  # half of the salts are above 2**63
        assert assign(token_id, 8, seed).max() < 8
        assert assign_bounded(token_id, 8, seed=seed).max() < 8
        assert choose_replica(token_id, topk, np.array([[3, 5]], np.int32), np.array([2], np.int32), seed).min() >= 3
    assert len({assign(token_id, 8, seed).tobytes() for seed in range(64)}) == 64
