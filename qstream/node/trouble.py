"""Troubles: what goes wrong around a loop that goes on; each is counted, and said once until it is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable


class Troubles:
    """How often each kind of trouble came, in `counts`; what a person is to know goes to `say`.

    >>> troubles = Troubles(print)
    >>> for _ in range(3):
    ...     troubles.note("kafka", "no broker answers")
    no broker answers
    >>> troubles.over("kafka", "the broker answers")
    the broker answers, after 3 failures
    >>> troubles.counts["kafka"]
    3
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.counts: Counter[str] = Counter()
        self._say = say
        self._since: dict[str, int] = {}

    def note(self, kind: str, text: str, count: int = 1) -> None:
        """Count a trouble; `text` is said unless one of its kind goes on."""
        if kind not in self._since:
            self._since[kind] = self.counts[kind]
            self._say(text)
        self.counts[kind] += count

    def over(self, kind: str, text: str) -> None:
        """Say that what went wrong goes well, if it did go wrong."""
        since = self._since.pop(kind, None)
        if since is not None:
            failures = self.counts[kind] - since
            self._say(f"{text}, after {failures} failure{'s' if failures > 1 else ''}")
