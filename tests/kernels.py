"""Kernels: compiled once for all processes of a run, by the first that comes to a test that needs them; the others wait."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from agents.registry import all_agents, find_agent, start_processor
from qstream.config import Settings
from qstream.testing.kafka_jars import alone_in

# What calls compiled kernels, in this process or in a worker.
NEED_KERNELS = (
    "tests/unit/routing",
    "tests/unit/energy",
    "tests/unit/compression",
    "tests/unit/cli/routing",
    "tests/unit/cli/compression",
    "tests/unit/agents",
    "tests/unit/demo",
    "tests/unit/testing",
    "tests/unit/test_docs.py",
    "tests/conformance",
    "tests/chaos/test_chaos.py::test_what_is_learnt",
    "tests/chaos/test_chaos.py::test_domains",
    "tests/stream/cli/test_client.py",
    "tests/stream/cli/test_learn",
    "tests/stream/cli/test_servers.py",
    "tests/stream/test_demo",
    "tests/stream/test_parents.py",
    "tests/stream/test_schedules.py",
    "tests/stream/test_worker.py",
)


def needs_kernels(item: pytest.Item) -> bool:
    return item.nodeid.startswith(NEED_KERNELS)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Before the test and not in a fixture: what the kernels take on a slow machine counts for no limit of a test."""
    if needs_kernels(item) and hasattr(item.config, "workerinput"):  # a run that a test starts has none
        folder = Path(str(item.config._tmp_path_factory.getbasetemp())).parent  # type: ignore[attr-defined] # of all processes
        done = folder / "kernels-are-compiled"
        with alone_in(folder):
            if not done.exists():
                # In a process of its own: where it fails, the tests of what fails say so.
                subprocess.run([sys.executable, "-m", "tests.kernels"], cwd=item.config.rootpath, check=False)
                done.touch()
    return (yield)


def compile_all() -> None:
    """Have the kernels of every agent in the cache on disk."""
    for agent in (*all_agents(), find_agent("meter")):
        start_processor(agent, Settings()).warm()


if __name__ == "__main__":
    compile_all()
