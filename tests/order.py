"""Order: side by side (`pytest -n`), tests that wait longest begin first, and what shares a server stays in one process.

The kernels are compiled once, into a cache on disk: by one process at the very start, while the others run tests that need
none. Processes that come to the same kernel together would each compile it.
"""

from __future__ import annotations

import pytest

# Each runs a broker, a store and three workers or more: two at a time leave a small machine room for the others.
CHAOS_LANES = 2
FIRST = ("tests/unit/routing/test_warm.py", "tests/chaos", "tests/stream")
# Tests that share servers with all others, or nothing: each may run in any process.
APART = (*FIRST[1:], "tests/unit/schemas")
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
)


def rank(item: pytest.Item) -> int:
    """The place of a test among those that begin first; after them those that need no kernel, then those that need one."""
    first = (n for n, part in enumerate(FIRST) if item.nodeid.startswith(part))
    return next(first, len(FIRST) + item.nodeid.startswith(NEED_KERNELS))


def group(item: pytest.Item) -> str | None:
    """The file of a test that shares a fixture with its file; None for one that may run in any process.

    Outside the folders of `APART` a file stays together, as its tests compile the same functions.
    """
    file = item.nodeid.split("::", 1)[0]
    found = getattr(item, "_fixtureinfo", None)
    scopes = {fixture.scope for fixtures in (found.name2fixturedefs.values() if found else ()) for fixture in fixtures}
    return file if "module" in scopes or not file.startswith(APART) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("numprocesses", None) is None and not hasattr(config, "workerinput"):
        return
    items.sort(key=rank)
    for n, item in enumerate(items):
        name = f"chaos-{n % CHAOS_LANES}" if item.nodeid.startswith("tests/chaos") else group(item)
        if name is not None:
            item.add_marker(pytest.mark.xdist_group(name))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fail where the groups have no effect, which pytest-xdist does not notice: then every process starts every server."""
    if hasattr(session.config, "workerinput"):
        alone = [item.nodeid for item in session.items if item.get_closest_marker("xdist_group") and "@" not in item.nodeid]
        if session.config.getoption("loadgroup", False) and alone:
            raise pytest.UsageError(f"this pytest-xdist does not group tests with pytest {pytest.__version__}: {alone[0]}")
