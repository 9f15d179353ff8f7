"""Traffic: from what routers chose to bytes between the ranks of a job, each of which has an expert and a part of the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.demo.model import MoELanguageModel, Shape, TrainStep, train
from qstream.demo.text import Corpus, load_corpus, shards

SHAPE: Final = Shape()
RANKS: Final = SHAPE.experts
PARTS: Final = 4  # packages of Python's library; rank r reads the r-th of them in turn
# A token of the demo stands for so many of a large model, of 7,168 numbers of 2 bytes; there and back.
TOKENS_A_TOKEN: Final = 320
TOKEN_BYTES: Final = 7168 * 2
Floats = NDArray[np.float64]


def trained(seed: int, steps: int) -> Iterator[TrainStep]:
    """A model that trains on one thread; sequence r of a step is rank r's."""
    rng = np.random.default_rng(seed)
    corpus = load_corpus()
    return train(MoELanguageModel(SHAPE, seed=seed), shards(corpus, parts(corpus, rng), SHAPE.context, rng), steps=steps)


def parts(corpus: Corpus, rng: np.random.Generator) -> NDArray[np.int64]:
    """The package that each rank reads."""
    chosen = rng.choice(len(corpus.domains), PARTS, replace=False)
    return np.resize(chosen, RANKS)


def bytes_between(step: TrainStep) -> Floats:
    """Bytes [RANKS, RANKS] of a step: each token goes to the ranks of its experts in each layer, and its answers come back."""
    home = np.arange(len(step.token_id)) * RANKS // len(step.token_id)
    sent = np.zeros((RANKS, RANKS))
    for layer in step.routing:
        np.add.at(sent, (home[:, None], layer.topk_ids), 1.0)
    np.fill_diagonal(sent, 0.0)
    return (sent + sent.T) * TOKENS_A_TOKEN * TOKEN_BYTES
