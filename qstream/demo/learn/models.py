"""Models: what the scene publishes, one that says nonsense and one that was trained on the readings so far."""

from __future__ import annotations

import importlib.util
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Final

import numpy as np

from qstream.learn import recurrent
from qstream.learn.model import Model
from qstream.learn.train import LEAST, fit_lstm
from qstream.testing.meter import MODEL
from qstream.testing.readings import NAME, SECOND

NONSENSE_S: Final = 14.0
TRAIN_S: Final = 16.0
TRAINED_S: Final = 20.0
DEADLINE_S: Final = 3.0


def nonsense() -> Model:
    """A network of the right shape that always says the least it may."""
    units, outputs = recurrent.UNITS, recurrent.WANT.outputs
    arrays = {
        "weight_ih": np.zeros((4 * units, len(recurrent.FEATURES))),
        "weight_hh": np.zeros((4 * units, units)),
        "bias": np.zeros(4 * units),
        "head.weight": np.zeros((outputs, units)),
        "head.bias": np.append(np.zeros(outputs - 1), -5.0),
    }
    names, config = recurrent.FEATURES, {"horizon": SECOND}
    return Model(module=NAME, name=MODEL, version=_now_ms(), kind="lstm", arrays=arrays, feature_names=names, config=config)


def trained(loads: list[float], seed: int) -> Model:
    """An LSTM that was trained on these readings for a few seconds."""
    series = [np.array(loads)]
    return fit_lstm(series, module=NAME, name=MODEL, horizon=SECOND, seed=seed, deadline_s=DEADLINE_S)


class Offers:
    """Which models are due; training goes on next to the stream, and needs torch: without it there is no second model.

    `missing` says why the second one was not published, empty once it was.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._nonsense_due = True
        self._pool = ThreadPoolExecutor(1)
        self._training: Future[Model] | None = None
        self._torch = importlib.util.find_spec("torch") is not None
        self.missing = "its training did not end in time" if self._torch else "PyTorch is not installed"

    def due(self, at_s: float, loads: list[float]) -> list[tuple[str, Model]]:
        """The models to publish now, and what they are, by the time since the first reading."""
        if self._nonsense_due and at_s >= NONSENSE_S:
            self._nonsense_due = False
            return [("nonsense", nonsense())]
        if self._torch and self._training is None and at_s >= TRAIN_S and len(loads) >= LEAST + 3 * SECOND:
            self._training = self._pool.submit(trained, loads, self._seed)
        if self._torch and self._training is not None and at_s >= TRAINED_S and self._training.done():
            self._torch, self.missing = False, ""
            return [("an LSTM trained on the first seconds", replace(self._training.result(), version=_now_ms()))]
        return []


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
