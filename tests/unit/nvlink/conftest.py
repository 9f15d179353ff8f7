"""Where the descriptions of real machines are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fabrics() -> Path:
    """The folder of real descriptions; skips where it is absent."""
    folder = Path(os.environ.get("QSTREAM_DATA", Path(__file__).parents[4] / "shared" / "data")) / "nvlink"
    if not folder.is_dir():
        pytest.skip("nvlink was not found: set QSTREAM_DATA")
    return folder
