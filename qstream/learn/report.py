"""Report: a trained model's loss on data that it was not trained on, next to that of its twin, which does without it."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import LearnError
from qstream.learn import given
from qstream.learn.evaluate import Estimate
from schemas.wording import Shown, must_be

DRAWS: Final = 2000
HELD_OUT: Final = 0.25  # of the data, the newest


class Report(NamedTuple):
    """Mean losses on held-out data with 95 % intervals; `gain` is the twin's less the model's, on the same data.

    `what` says in words what the loss is, `twin` what the model is compared with, `held_out` on how many samples.
    """

    what: str
    twin: str
    loss: Estimate
    loss_twin: Estimate
    gain: Estimate
    held_out: int

    @property
    def beats_twin(self) -> bool:
        """Whether the whole interval of the gain is above 0."""
        return self.gain.low > 0

    @property
    def metrics(self) -> dict[str, float]:
        """For `Model.metrics`."""
        both = {"loss": self.loss, "loss_twin": self.loss_twin, "gain": self.gain}
        ends = {f"{name}_{end}": float(getattr(at, end)) for name, at in both.items() for end in ("low", "high")}
        return {name: float(at.value) for name, at in both.items()} | ends


def report(what: str, twin: str, loss: ArrayLike, loss_twin: ArrayLike, *, block: int, seed: int = 0) -> Report:
    """Compare losses [n] in the order of time.

    The intervals are of a circular block bootstrap (Politis and Romano 1992) with blocks of `block` samples, which should
    outlast the memory of the losses, of 2,000 draws; the same draws for both.
    """
    own = _losses("loss", loss)
    other = given.numbers("loss_twin", loss_twin, own.shape)
    length = min(given.whole("block", block, 1, 10_000_000), len(own))
    count = math.ceil(len(own) / length)
    rng = np.random.default_rng(given.whole("seed", seed, 0, 2**63 - 1))
    both = np.stack([own, other, other - own])
    rounded = np.concatenate([np.zeros((3, 1)), np.cumsum(np.concatenate([both, both[:, : length - 1]], 1), 1)], 1)
    of_blocks = rounded[:, length:] - rounded[:, :-length]
    means = np.stack([of_blocks[:, rng.integers(len(own), size=count)].sum(1) for _ in range(DRAWS)]) / (count * length)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    loss_own, loss_other, gain = (Estimate(float(row.mean()), float(low[at]), float(high[at])) for at, row in enumerate(both))
    return Report(what, twin, loss_own, loss_other, gain, len(own))


def _losses(name: str, values: ArrayLike) -> NDArray[np.float64]:
    shape = given.shape_of(name, values)
    if len(shape) != 1 or shape[0] < 2:
        raise LearnError(must_be(name, "at least two numbers", Shown(f"shape {shape}")))
    return given.numbers(name, values, shape)
