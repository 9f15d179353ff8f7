"""Recordings: counting by hand and by the other counter, folding keeps every token, and wrong shapes are told."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.routing.colocate import coactivation
from qstream.routing.formats.recording import count, count_pairs, fold, recording, sample

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
    history = np.random.default_rng(1).integers(0, 9, (11, 2, 3))
    folded = fold(recording("x", history), 4).history
    assert folded.shape == (4, 2, 3)
    assert folded[0].tolist() == history[:2].sum(0).tolist()
    assert folded.sum(0).tolist() == history.sum(0).tolist()
    assert fold(recording("x", history), 11).history.tolist() == history.tolist()


def test_a_sample_is_evenly_spread_and_bounded():
    choices = np.arange(10_000).reshape(1, 10_000, 1)
    found = sample(choices)
    assert found.shape == (3334, 1, 1)
    assert np.ptp(np.diff(found.ravel())) == 0


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: recording("x", np.zeros((2, 3), np.int64)), "0 tokens"),
        (lambda: recording("x", np.ones((1, 5000, 2), np.int64)), "5000 layers"),
        (lambda: recording("x", np.ones((2, 3), np.int64), None, np.ones((2, 3, 2), np.int64)), "shape"),
        (lambda: recording("x", np.ones((1, 2), np.int64), None, np.array([[[1, 2], [3, 1]]])), "symmetric"),
        (lambda: fold(recording("x", np.ones((2, 3), np.int64)), 0), "windows: 0"),
        (lambda: count_pairs(np.zeros((4096, 1, 1), np.int64), 65536), "coactivation has shape"),
    ],
)
def test_what_no_model_has_is_told(make, told):
    with pytest.raises(ProblemError, match=told):
        make()
