"""The demo's language model: its gradient is right, it learns, it is repeatable, and bad settings diverge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from qstream.demo.hpo import model
from qstream.demo.hpo.model import ACTIVATIONS, BYTES, SPACE, Settings, train
from qstream.demo.text import load_corpus

GOOD: Final = Settings(learning_rate=0.5, batch=64, width=16, context=4, momentum=0.5, decay=1e-5, activation="silu")
TOKENS: Final = 6_000


@pytest.fixture(scope="module")
def text() -> NDArray[np.uint8]:
    return load_corpus(1 << 18).text


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_the_gradient_equals_finite_differences(activation: str) -> None:
    rng = np.random.default_rng(0)
    settings = replace(GOOD, width=3, context=2, activation=activation)
    text = rng.integers(0, BYTES, 40).astype(np.uint8)
    weights: NDArray[Any] = rng.normal(size=model._size(settings))
    gradient, unused, at = np.zeros_like(weights), np.zeros_like(weights), np.arange(2, 12)
    model._learn(weights, gradient, settings, text, at)
    for place in rng.permutation(np.flatnonzero(gradient))[:40]:
        moved = [weights + step * (np.arange(len(weights)) == place) for step in (1e-6, -1e-6)]
        up, down = (model._learn(each, unused, settings, text, at) for each in moved)
        assert (up - down) / 2e-6 == pytest.approx(gradient[place], rel=1e-4, abs=1e-7)


def test_it_learns_more_than_how_often_each_byte_occurs(text: NDArray[np.uint8]) -> None:
    share = np.bincount(text, minlength=BYTES) / len(text)
    entropy = -float(share[share > 0] @ np.log(share[share > 0]))
    loss = train(GOOD, text, 0, TOKENS)
    assert loss is not None
    assert loss < entropy


def test_the_same_seed_gives_the_same_loss_and_another_seed_another(text: NDArray[np.uint8]) -> None:
    first, again, other = (train(GOOD, text, seed, 1_000) for seed in (3, 3, 4))
    assert first == again != other


def test_training_that_diverges_has_no_loss(text: NDArray[np.uint8]) -> None:
    assert train(replace(GOOD, learning_rate=10.0, momentum=0.99, activation="relu"), text, 0, TOKENS) is None


def test_the_space_names_every_setting() -> None:
    assert [parameter["name"] for parameter in SPACE] == list(Settings.__dataclass_fields__)
