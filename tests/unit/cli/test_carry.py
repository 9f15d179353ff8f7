"""What `qstream learn import` refuses before it sends anything: files of others, and damaged learners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from qstream.cli.main import app
from qstream.learn import hedge

SHARES = np.frombuffer(hedge.start(["a", "b"]).encode(), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "header", "message"),
    [
        ({"shares": SHARES}, "[]", "its header must name a module and a key"),
        ({"shares": SHARES}, '{"module": "routing"}', "its header must name a module and a key"),
        ({"shares": SHARES}, '{"module": "routing", "key": 7}', "its header must name a module and a key"),
        ({}, '{"module": "routing", "key": "toy"}', "it must hold a learner"),
        (
            {"shares": SHARES, "calibration": SHARES},
            '{"module": "routing", "key": "toy"}',
            "learner calibration: CalibrationState.v1",
        ),
        ({"shares": SHARES[:-9]}, '{"module": "routing", "key": "toy"}', "learner shares: HedgeState.v1"),
        ({"choice": SHARES}, '{"module": "routing", "key": "toy"}', "must be one of shares, calibration, got 'choice'"),
    ],
)
def test_a_file_that_export_has_not_written_is_refused_whole(
    arrays: dict[str, np.ndarray], header: str, message: str, tmp_path: Path
):
    file = tmp_path / "learners.safetensors"
    save_file({name: array.copy() for name, array in arrays.items()}, file, {"qstream": header})
    done = CliRunner().invoke(app, ["learn", "import", str(file), "-b", "localhost:1"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
