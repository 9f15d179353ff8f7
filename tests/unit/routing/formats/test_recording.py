"""Recordings: counting by hand and by the other counter, folding keeps every token, and wrong shapes are named."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.routing.colocate import coactivation
from qstream.routing.formats.choices import Part, recorded
from qstream.routing.formats.recording import count, count_pairs, fold, recording

CHOICES = np.array([[[0, 1], [1, -1], [2, 0]], [[-1, -1], [2, 1], [1, 2]]])  # [L=2, T=3, K=2]


def random_choices(layers: int, tokens: int, k: int, experts: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.permuted(np.broadcast_to(np.arange(experts), (layers, tokens, experts)), axis=2)[:, :, :k].copy()


def test_tokens_are_counted_and_absent_choices_are_not():
    assert count(CHOICES, 4).tolist() == [[2, 2, 1, 0], [0, 2, 2, 0]]


def test_pairs_are_counted_as_the_planner_counts_them():
    assert count_pairs(CHOICES, 3).tolist() == [[[2, 1, 1], [1, 2, 0], [1, 0, 1]], [[0, 0, 0], [0, 2, 2], [0, 2, 2]]]
    choices = random_choices(3, 200, 4, 16)
    assert np.array_equal(count_pairs(choices, 16), coactivation(choices.transpose(1, 0, 2).astype(np.int32), 16))


def test_folding_sums_neighbours_and_loses_no_token():
    history = np.full((12, 2, 3), 5)
    history[:, 1, 2] = np.arange(12)
    history[:, 1, 1] = 11 - np.arange(12)  # as many tokens in each step
    folded = fold(recording("x", history), 4).history
    assert folded.tolist() == history.reshape(4, 3, 2, 3).sum(1).tolist()
    assert fold(recording("x", history), 12).history.tolist() == history.tolist()


def test_windows_have_about_as_many_tokens_though_steps_do_not():
    rng = np.random.default_rng(1)
    history = rng.integers(1, 9, (500, 2, 3)) * rng.choice([1, 40], (500, 1, 1), p=[0.9, 0.1])
    folded = fold(recording("x", history), 8).history
    assert len(folded) == 8
    assert folded.sum(0).tolist() == history.sum(0).tolist()
    tokens = folded.sum((1, 2))
    assert tokens.max() < 1.3 * tokens.mean()


def test_a_step_without_tokens_makes_no_window():
    history = np.zeros((9, 1, 2), np.int64)
    history[[2, 7]] = 6
    found = recording("x", history)
    assert found.history.tolist() == fold(found, 1 << 20).history.tolist() == [[[6, 6]], [[6, 6]]]


def test_of_very_many_tokens_every_second_pair_is_counted_twice():
    choices = np.zeros((1, 20_000, 2), np.int64)
    choices[:, :, 1] = 1
    found = recorded("x", "ids", [Part("ids", choices)], 2)
    assert found.coactivation is not None
    assert found.coactivation.tolist() == [[[20_000, 20_000], [20_000, 20_000]]]


def test_a_sample_is_evenly_spread_and_bounded():
    choices = np.stack(np.divmod(np.arange(10_000), 100), axis=1)[None]
    found = recorded("x", "ids", [Part("ids", choices[:, :1234]), Part("ids", choices[:, 1234:])], 100).tokens
    assert found is not None
    assert (found[:, 0, 0] * 100 + found[:, 0, 1]).tolist() == list(range(0, 10_000, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: recording("x", np.zeros((2, 3), np.int64)), "0 tokens"),
        (lambda: recording("x", np.ones((1, 5000, 2), np.int64)), "5000 layers"),
        (lambda: recording("x", np.ones((2, 3), np.int64), None, np.ones((2, 3, 2), np.int64)), "shape"),
        (lambda: recording("x", np.ones((1, 2), np.int64), None, np.array([[[1, 2], [3, 1]]])), "symmetric"),
        (lambda: fold(recording("x", np.ones((2, 3), np.int64)), 0), "windows must be >= 1, got 0"),
        (lambda: count_pairs(np.zeros((4096, 1, 1), np.int64), 65536), "coactivation must be at most .* entries, got shape"),
    ],
)
def test_what_no_model_has_is_named(make, message):
    with pytest.raises(ProblemError, match=message):
        make()
