"""Auction: within one least raise a token of the best assignment, at prices that prove it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from qstream.arguments import read_only
from qstream.routing.auction import auction, surplus


def ones(tokens: int) -> np.ndarray:
    return read_only(np.ones(tokens, np.float32))


def run(mass: np.ndarray, room: np.ndarray, k: int, least_raise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choices, prices and loads where every expert is a candidate."""
    tokens, experts = mass.shape
    ids = np.tile(np.arange(experts, dtype=np.int32), (tokens, 1))
    price, load, chosen = np.zeros(experts), np.zeros(experts), np.full((tokens, k), -1, np.int32)
    auction(read_only(ids), read_only(mass), ones(tokens), room, least_raise, price, load, chosen)
    return chosen, price, load


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 6), st.booleans())
def test_one_choice_a_token_comes_within_the_least_raise_of_the_best_assignment(
    seed: int, tokens: int, experts: int, tied: bool
) -> None:
    rng = np.random.default_rng(seed)
    mass = rng.random((tokens, experts)).astype(np.float32)
    if tied:
        mass = np.round(mass, 1)
    seats = rng.integers(1, tokens + 1, experts)
    chosen, price, load = run(mass, seats.astype(float), 1, 1e-6)
    held = chosen[:, 0]
    assert load.tolist() == np.bincount(held[held >= 0], minlength=experts).tolist()
    assert (load <= seats).all()
    kept = mass[held >= 0, held[held >= 0]].sum(dtype=float)
    wide = np.repeat(mass, seats, axis=1).astype(float)
    best = wide[linear_sum_assignment(-wide)].sum()
    doubled = 2.0**12  # equal tokens may make the raise grow
    assert best - tokens * 1e-6 * doubled <= kept <= best + 1e-5
    ids = np.tile(np.arange(experts, dtype=np.int32), (tokens, 1))
    bound = price @ seats + surplus(read_only(ids), read_only(mass), ones(tokens), price, 1)
    assert kept - 1e-5 <= bound <= kept + tokens * 1e-6 * doubled + 1e-5


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_surplus_is_that_of_the_k_best_above_their_price(k: int) -> None:
    rng = np.random.default_rng(k)
    mass, price = rng.random((30, 5)).astype(np.float32), rng.random(5)
    cost = rng.uniform(0.5, 2, 30).astype(np.float32)
    ids = np.argsort(rng.random((30, 5)), axis=1).astype(np.int32)
    ids[::3, 2] = -1
    worth = np.where(ids >= 0, mass - cost[:, None] * price[ids], 0)
    expected = np.maximum(np.sort(worth, 1)[:, ::-1][:, :k], 0).sum()
    assert surplus(read_only(ids), read_only(mass), read_only(cost), price, k) == pytest.approx(expected, rel=1e-5)


def test_a_token_that_can_have_both_its_experts_does_not_outbid_itself() -> None:
    """Two experts for two choices: no price rises, although one is worth hardly more than the other."""
    chosen, price, load = run(np.array([[0.5, 0.49], [0.3, 0.2]], np.float32), np.full(2, 2.0), 2, 0.1)
    assert np.sort(chosen, 1).tolist() == [[0, 1], [0, 1]]
    assert price.tolist() == [0, 0]
    assert load.tolist() == [2, 2]
