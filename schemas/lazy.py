"""The public names of a package, each imported from its module on first use: importing the package itself costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The package's ``__getattr__`` and ``__dir__`` (PEP 562).

    Parameters
    ----------
    package
        The package's ``__name__``.
    modules
        The module of each public name, relative to the package. No name may be the name of a module next to it: importing
        that module would replace the value.

    >>> __getattr__, __dir__ = lazy_names(__name__, {"Publisher": ".stream.client"})  # doctest: +SKIP
    """

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return load, names
