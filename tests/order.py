"""Order: side by side (`pytest -n`), tests that wait for servers are spread among those that compute, so that no processor idles.

What takes longest begins first. Tests that need kernels begin a little later than the others, as one process compiles these at
the very start. What shares a server stays in one process.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.kernels import needs_kernels

# Each runs a broker, a store and three workers or more: two at a time leave a small machine room for the others.
CHAOS_LANES = 2
WARM = "tests/unit/routing/test_warm.py"
CHAOS = "tests/chaos"
STREAM = "tests/stream"
LONGEST = ("tests/stream/test_demo", "tests/stream/test_wheels.py")
# Tests that share servers with all others, or nothing: each may run in any process.
APART = (CHAOS, STREAM, "tests/unit/schemas")
KERNELS_AT = 0.3  # of a run: about when they are compiled


def group(item: pytest.Item) -> str | None:
    """The file or folder that a test shares a fixture with; None for one that may run in any process.

    Outside the folders of `APART` a file stays together, as its tests compile the same functions.
    """
    file = item.nodeid.split("::", 1)[0]
    found = getattr(item, "_fixtureinfo", None)
    scopes = {fixture.scope for fixtures in (found.name2fixturedefs.values() if found else ()) for fixture in fixtures}
    if "package" in scopes:
        return file.rsplit("/", 1)[0]
    return file if "module" in scopes or not file.startswith(APART) else None


def places(items: Sequence[pytest.Item]) -> dict[str, float]:
    """When each test begins, as a share of the run, by its id."""
    found: dict[str, float] = {}
    for waits in (True, False):
        for begin, kernels in ((0.0, False), (KERNELS_AT, True)):
            chosen = [item for item in items if item.nodeid.startswith(STREAM) == waits and needs_kernels(item) == kernels]
            chosen.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
            found |= {item.nodeid: begin + (1 - begin) * n / len(chosen) for n, item in enumerate(chosen)}
    found |= {item.nodeid: needs_kernels(item) - 2.0 for item in items if item.nodeid.startswith(CHAOS)}
    return found | {item.nodeid: -3.0 for item in items if item.nodeid.startswith(WARM)}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("numprocesses", None) is None and not hasattr(config, "workerinput"):
        return
    begin = places(items)
    items.sort(key=lambda item: begin[item.nodeid])
    for n, item in enumerate(items):
        name = f"chaos-{n % CHAOS_LANES}" if item.nodeid.startswith(CHAOS) else group(item)
        if name is not None:
            item.add_marker(pytest.mark.xdist_group(name))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fail where the groups have no effect, which pytest-xdist does not notice: then every process starts every server."""
    if hasattr(session.config, "workerinput"):
        alone = [item.nodeid for item in session.items if item.get_closest_marker("xdist_group") and "@" not in item.nodeid]
        if session.config.getoption("loadgroup", False) and alone:
            raise pytest.UsageError(f"this pytest-xdist does not group tests with pytest {pytest.__version__}: {alone[0]}")
