"""The whole routing trace and its independent scores, where QSTREAM_DATA says where they are."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

DATA = Path(os.environ.get("QSTREAM_DATA", Path(__file__).parents[2] / "data"))
TRACE = DATA / "routing" / "esft_routing.npz"
SCORES = DATA.parent / "bench" / "esft_stream.py"


def load_stick() -> ModuleType | None:
    """The scores as a module (`stream`, `window_counts`, `balancedness`...), or None where trace or scores are absent."""
    if not TRACE.exists() or not SCORES.exists():
        return None
    spec = importlib.util.spec_from_file_location("esft_stream", SCORES)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    sys.modules["esft_stream"] = module
    spec.loader.exec_module(module)
    return module
