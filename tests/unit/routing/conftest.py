"""The real routing trace and its independent scores, where they stand beside the project."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def stick() -> ModuleType:
    data = Path(os.environ.get("QSTREAM_DATA", Path(__file__).parents[4] / "shared" / "data"))
    source = data.parent / "bench" / "esft_stream.py"
    for needed in (data / "routing" / "esft_routing.npz", source):
        if not needed.exists():
            pytest.skip(f"{needed.name} is not in {needed.parent}: set QSTREAM_DATA")
    spec = importlib.util.spec_from_file_location("esft_stream", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["esft_stream"] = module
    spec.loader.exec_module(module)
    return module
