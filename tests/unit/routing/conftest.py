"""The real routing trace and its independent scores, where they are installed."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.benchmarks.stick import SCORES, TRACE, load_stick


@pytest.fixture(scope="session")
def stick() -> ModuleType:
    module = load_stick()
    if module is None:
        pytest.skip(f"{TRACE.name} and {SCORES.name} were not found: set QSTREAM_DATA")
    return module
