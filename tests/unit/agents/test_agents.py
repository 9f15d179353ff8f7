"""Agents stay thin, and start without what they do not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import agents
from agents.registry import agent_names

NAMES = agent_names()
HEAVY = ("torch", "pennylane", "pandas", "numba", "scipy", "faust")


@pytest.mark.parametrize("name", NAMES)
def test_an_agent_has_at_most_sixty_lines(name):
    assert len((Path(agents.__file__).parent / f"{name}.py").read_text().splitlines()) <= 60


@pytest.mark.parametrize("module", ["qstream", "schemas", *(f"agents.{name}" for name in NAMES)])
def test_importing_it_loads_nothing_heavy_that_it_does_not_use(module):
    code = f"import {module}, sys; print([m for m in {HEAVY} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
