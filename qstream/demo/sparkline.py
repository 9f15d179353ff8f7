"""Sparkline: a series as bars of one line of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

BARS: Final = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float]) -> str:
    """A bar for each value; 1 is the highest, 0 the lowest.

    >>> sparkline([0, 0.5, 1])
    '▁▅█'
    """
    return "".join(BARS[min(len(BARS) - 1, int(value * len(BARS)))] for value in values)
