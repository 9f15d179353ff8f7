"""The command of a trial prints its loss as a worker reads it, NaN where training diverged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from qstream.demo.hpo import trial
from qstream.demo.hpo.model import Settings, train

WORDS = {
    "learning_rate": "0.3",
    "batch": "500",
    "width": "8",
    "context": "2",
    "momentum": "0.1",
    "decay": "1e-5",
    "activation": "relu",
}


@pytest.mark.parametrize("learning_rate", ["0.3", "1e6"])
def test_the_loss_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str], learning_rate: str) -> None:
    text = np.random.default_rng(0).integers(97, 103, 8_000).astype(np.uint8)
    np.save(tmp_path / "text.npy", text)
    words = [f"--{name}={value}" for name, value in (WORDS | {"learning_rate": learning_rate}).items()]
    trial.main([f"--text={tmp_path / 'text.npy'}", "--seed=3", *words])
    loss = json.loads(capsys.readouterr().out)["loss"]
    expected = train(Settings(float(learning_rate), 500, 8, 2, 0.1, 1e-5, "relu"), text, 3)
    assert math.isnan(loss) if expected is None else loss == expected
    assert (expected is None) == (learning_rate == "1e6")
