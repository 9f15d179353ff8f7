"""Careless: a report of a delivery that takes away what the client had raised before it."""

from __future__ import annotations

from collections.abc import Sequence


def report_carelessly(*_: object) -> None:
    """A callback that catches whatever comes, and so what the client had raised before: a check of a type brings it to light."""
    try:  # noqa: SIM105 a context manager's own call would bring it to light before the block
        isinstance(0, Sequence)
    except SystemError:
        pass
