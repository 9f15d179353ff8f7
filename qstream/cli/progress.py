"""Progress: how far a long command is, on one line of stderr, where a person looks at it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final

_PERIOD_S: Final = 0.2


class Progress:
    """How much was done, of a total where it is known: bytes, or what `text` makes of a count. Nothing is written unless stderr
    is a terminal."""

    def __init__(self, verb: str, total: int | None = None, text: Callable[[int], str] | None = None) -> None:
        self._verb, self._total, self._done = verb, total, 0
        self._text = text or megabytes
        self._shown = sys.stderr.isatty()
        self._next_s = 0.0

    def add(self, more: int) -> None:
        """Take note of some more."""
        self._done += more
        if self._shown and (now_s := time.monotonic()) >= self._next_s:
            self._next_s = now_s + _PERIOD_S
            self._write(f"{self._verb} {self._text(self._done)}" + (f" of {self._text(self._total)}" if self._total else ""))

    def end(self) -> None:
        """Clear the line."""
        if self._shown and self._done:
            self._write("")

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def megabytes(nbytes: int) -> str:
    """A size for people."""
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 100_000 else f"{nbytes:,} bytes"
