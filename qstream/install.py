"""How a user installs what is missing: the distribution's name on PyPI, where `qstream` belongs to another project."""

from __future__ import annotations

from typing import Final

DISTRIBUTION: Final = "qstream-optimizer"


def install_hint(extra: str) -> str:
    """The command that adds an extra of the distribution.

    >>> install_hint("quantum")
    "pip install 'qstream-optimizer[quantum]'"
    """
    return f"pip install '{DISTRIBUTION}[{extra}]'"
