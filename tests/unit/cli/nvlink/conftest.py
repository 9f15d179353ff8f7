"""How commands of nvlink are called in tests, and where the descriptions of real machines are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qstream.cli.main import app


@pytest.fixture(scope="session")
def fabrics() -> Path:
    """The folder of real descriptions; skips where it is absent."""
    folder = Path(os.environ.get("QSTREAM_DATA", Path(__file__).parents[5] / "shared" / "data")) / "nvlink"
    if not folder.is_dir():
        pytest.skip("nvlink was not found: set QSTREAM_DATA")
    return folder


@pytest.fixture(scope="session")
def invoke():
    """Call `qstream nvlink` with these words."""

    def call(*words: object, given: bytes | None = None):
        env = {"COLUMNS": "200", "NO_COLOR": "1"}
        return CliRunner().invoke(app, ["nvlink", *map(str, words)], env=env, input=given)

    return call


@pytest.fixture(scope="session")
def printed(invoke):
    """What a command prints as JSON."""

    def call(*words: object, given: bytes | None = None):
        result = invoke(*words, "--json", given=given)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return call
