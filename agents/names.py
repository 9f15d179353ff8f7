"""Which agents there are: a file of this folder each, or an entry point of another package. Imports none of them."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Final

import agents

ENTRY_POINTS: Final = "qstream.agents"
NOT_AGENTS: Final = frozenset({"app", "names", "registry", "runtime"})


def files() -> list[str]:
    """Agents of this folder."""
    return [module.name for module in pkgutil.iter_modules(agents.__path__) if module.name not in NOT_AGENTS]


@cache
def _points(read: Callable[..., EntryPoints]) -> tuple[EntryPoint, ...]:
    """Read once: it opens a file of each package that is installed."""
    return tuple(read(group=ENTRY_POINTS))


def points(name: str | None = None) -> list[EntryPoint]:
    """Agents of other packages, all or those of one name."""
    return [point for point in _points(entry_points) if name in (None, point.name)]


def agent_names() -> tuple[str, ...]:
    """All agents by name, ours first."""
    return tuple(dict.fromkeys([*files(), *(point.name for point in points())]))
