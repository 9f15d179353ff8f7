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


def load_scores(name: str) -> ModuleType | None:
    """Scores of this name, such as ``energy_stick``, as a module, or None where they are absent."""
    path = SCORES.with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path) if path.exists() else None
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load_stick() -> ModuleType | None:
    """The scores of routing (`stream`, `window_counts`, `balancedness`...), or None where trace or scores are absent."""
    return load_scores(SCORES.stem) if TRACE.exists() else None
