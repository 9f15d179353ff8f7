"""Drift: a mean that moves is noticed soon, one that does not is seldom called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qstream.learn import LearnError, drift
from qstream.learn.evolve import evolve


def run(values: np.ndarray, **options: float) -> tuple[drift.DriftState, np.ndarray]:
    """The last state, and after which of the values [T, S] a change was called."""
    state, called = drift.start(values.shape[1], bound=1.0, **options), []
    for value in values:
        state, changed = drift.learn(state, value)
        called.append(changed)
    return state, np.array(called)


def noisy(mean: float, count: int, seed: int, series: int = 100) -> np.ndarray:
    return np.clip(mean + 0.2 * np.random.default_rng(seed).normal(size=(count, series)), 0, 1)


@pytest.mark.parametrize("shift", [0.2, -0.2])
def test_a_mean_that_moves_by_a_fifth_of_the_range_is_noticed_soon_and_once(shift: float) -> None:
    state, called = run(np.concatenate([noisy(0.5, 600, 0), noisy(0.5 + shift, 200, 1)]))
    first = called[600:].argmax(0)
    assert np.median(first) <= 55
    assert called[:600].any(0).mean() <= 0.03
    assert np.median(state.changes) == 1
    assert abs(np.median(state.mean) - 0.5 - shift) < 0.05


def test_a_mean_that_stays_is_seldom_called() -> None:
    assert run(noisy(0.4, 1200, 2, series=400))[1].any(0).mean() <= 0.03


def test_wealth_is_the_product_that_a_hand_computes() -> None:
    state = drift.start(1, bound=1.0)
    for _ in range(drift.WARM):
        state, _ = drift.learn(state, [0.5])
    state, _ = drift.learn(state, [0.9])
    assert state.up[0] == pytest.approx([1 + 0.4 * bet for bet in drift.BETS])
    assert state.down[0] == pytest.approx([1 - 0.4 * bet for bet in drift.BETS])
    mean = 0.5 + 0.4 / 21
    state, _ = drift.learn(state, [0.2])
    assert state.up[0] == pytest.approx([(1 + 0.4 * bet) * (1 - (mean - 0.2) * bet) for bet in drift.BETS])
    assert state.down[0] == pytest.approx([1 + (mean - 0.2) * bet for bet in drift.BETS])


def test_wealth_is_a_martingale_while_the_mean_stays() -> None:
    state = run(np.array([[1.0], [0.0], [0.0], [0.0]] * 10))[0]  # mean .25
    state = evolve(state, up=np.full((1, len(drift.BETS)), 3.0), down=np.full((1, len(drift.BETS)), 3.0))
    high, low = (drift.learn(state, [value])[0] for value in (1.0, 0.0))
    assert 0.25 * high.up + 0.75 * low.up == pytest.approx(state.up, rel=1e-12)
    assert 0.25 * high.down + 0.75 * low.down == pytest.approx(state.down, rel=1e-12)


def test_one_broken_value_is_no_change() -> None:
    values = np.full((200, 1), 0.5)
    values[100] = 1e300
    assert not run(values)[1].any()


def test_series_side_by_side_are_the_same_as_each_alone() -> None:
    values = np.concatenate([noisy(0.3, 80, 3, 3), noisy(0.8, 80, 4, 3)])
    assert run(values)[1].tolist() == np.concatenate([run(values[:, [s]])[1] for s in range(3)], axis=1).tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: drift.start(0, bound=1.0), "series must be a whole number from 1 to"),
        (lambda s: drift.start(1, bound=0.0), "bound must be a number from"),
        (lambda s: drift.start(1, bound=1.0, alarm=0.5), "alarm must be a number from 1 to"),
        (lambda s: drift.learn(s, [np.nan]), "value must be finite numbers"),
        (lambda s: drift.learn(s, [1.0, 2.0]), r"value must be of shape \(1,\)"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[drift.DriftState], Any], message: str) -> None:
    with pytest.raises(LearnError, match=message):
        call(drift.start(1, bound=1.0))
