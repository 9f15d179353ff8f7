"""Order: side by side (`pytest -n`), tests that wait longest begin first, and what shares a server stays in one process."""

from __future__ import annotations

import pytest

# Each runs a broker, a store and three workers or more: two at a time leave a small machine room for the others.
CHAOS_LANES = 2
FIRST = ("tests/chaos", "tests/stream")


def rank(item: pytest.Item) -> int:
    """The place of a test's folder among those that begin first."""
    return next((n for n, folder in enumerate(FIRST) if item.nodeid.startswith(folder)), len(FIRST))


def group(item: pytest.Item) -> str | None:
    """The file of a test that shares a fixture with its file; None for one that may run in any process.

    Outside the folders that begin first a file stays together, as its tests compile the same functions.
    """
    file = item.nodeid.split("::", 1)[0]
    found = getattr(item, "_fixtureinfo", None)
    scopes = {fixture.scope for fixtures in (found.name2fixturedefs.values() if found else ()) for fixture in fixtures}
    return file if "module" in scopes or rank(item) == len(FIRST) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("numprocesses", None) is None and not hasattr(config, "workerinput"):
        return
    items.sort(key=rank)
    for n, item in enumerate(items):
        name = f"chaos-{n % CHAOS_LANES}" if rank(item) == 0 else group(item)
        if name is not None:
            item.add_marker(pytest.mark.xdist_group(name))
