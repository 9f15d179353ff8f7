"""Training: a small network that learns step by step, as many steps as its GPU's clock allows."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

STEPS_S: Final = 10.0  # of training, in a modelled second at full speed
ROWS: Final = 16
INPUTS: Final = 8
HIDDEN: Final = 16
RATE: Final = 0.03
SMOOTHED: Final = 0.01


class Training:
    """A network of two layers that fits a smooth function by gradient descent; `steps` is its progress, `loss` the mean of late.

    What it learns is real, and so are its steps: a GPU that is slowed does fewer of them.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._first = self._rng.normal(size=(INPUTS, HIDDEN)) / INPUTS**0.5
        self._second = self._rng.normal(size=(HIDDEN, 1)) / HIDDEN**0.5
        self.steps, self._due = 0, 0.0
        self.first_loss = self.loss = -1.0

    def advance(self, seconds: float, speed: float) -> None:
        """Train for so many modelled seconds at a speed; 1 is full speed."""
        self._due += seconds * speed * STEPS_S
        while self.steps < int(self._due):
            self._step()

    def _step(self) -> None:
        x = self._rng.normal(size=(ROWS, INPUTS))
        hidden = np.tanh(x @ self._first)
        fault = hidden @ self._second - _wanted(x)
        loss = float(np.vdot(fault, fault)) / ROWS
        slope = 2 / ROWS * (fault @ self._second.T) * (1 - hidden**2)
        self._second -= RATE * (2 / ROWS) * hidden.T @ fault
        self._first -= RATE * x.T @ slope
        self.loss = loss if self.steps == 0 else self.loss + SMOOTHED * (loss - self.loss)
        self.first_loss = loss if self.steps == 0 else self.first_loss
        self.steps += 1


def _wanted(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the network is to find."""
    found: NDArray[np.float64] = np.sin(x[:, :1]) + x[:, 1:2] * np.tanh(x[:, 2:3])
    return found
