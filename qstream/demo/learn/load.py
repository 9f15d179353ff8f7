"""Load: a process that trains a small network and writes checkpoints: ``python -m qstream.demo.learn.load FOLDER SEED``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np

TRAIN_S: Final = 2.0
EVALUATE_S: Final = 0.6  # at a third of the load, as a process that waits for its data
HIDDEN: Final = 128


def train(folder: Path, seed: int) -> None:
    """Fit a two-layer network by gradient descent, and write it after each stretch of training; never returns."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(512, 64))
    y = np.sin(x[:, :1]) * x[:, 1:2]
    first, second = rng.normal(size=(64, HIDDEN)) / 8, rng.normal(size=(HIDDEN, 1)) / 11
    while True:
        until_s = time.monotonic() + TRAIN_S
        while time.monotonic() < until_s:
            hidden = np.tanh(x @ first)
            fault = (hidden @ second - y) / len(x)
            second_slope, hidden_slope = hidden.T @ fault, fault @ second.T * (1 - hidden**2)
            first, second = first - 0.1 * (x.T @ hidden_slope), second - 0.1 * second_slope
        write(folder, first, second)
        until_s = time.monotonic() + EVALUATE_S
        while time.monotonic() < until_s:
            _ = np.tanh(x @ first) @ second
            time.sleep(0.01)


def write(folder: Path, first: np.ndarray, second: np.ndarray) -> None:
    """Replace the checkpoint whole."""
    part = folder / "checkpoint.part"
    with part.open("wb") as file:
        np.savez(file, first=first, second=second)
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / "checkpoint.npz")


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
