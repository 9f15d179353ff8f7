"""Retry: a turn that was not delivered comes again, after a pause that grows with each failure."""

from __future__ import annotations

import logging

from qstream.config import Settings
from qstream.errors import DeliveryFailed, NotAllowed
from qstream.metrics import RETRIES
from qstream.stream.cause import OnceAMinute
from qstream.stream.consume import Intake
from qstream.stream.span import Offsets
from qstream.stream.wait import FIRST_RETRY_S, Waiting

log = logging.getLogger(__name__)


class Retry:
    """Has what was read, and what waits, come again.

    `failures` are the turns that failed since the last one that did not; `lacks` is the right without which they fail.
    """

    def __init__(self, settings: Settings, agent: str, intake: Intake, waiting: Waiting) -> None:
        self.settings = settings
        self.agent = agent
        self.intake = intake
        self.waiting = waiting
        self.failures = 0
        self._lacks: dict[str, str] = {}
        self._seldom = OnceAMinute(log)

    @property
    def lacks(self) -> str:
        """The rights to write that the Kafka user lacks, in words; empty if none. Any thread."""
        return "; ".join(dict.fromkeys(list(self._lacks.values())))

    def again(self, starts: Offsets, reason: DeliveryFailed) -> None:
        """Read again from `starts`, the first offsets of a turn that failed."""
        self.failures += 1
        pause = min(self.settings.retry_max_s, FIRST_RETRY_S * 2 ** min(self.failures, 20))
        log.warning("batch is retried in %.1f s: %s", pause, reason)
        self.failed("turn", reason)
        self.waiting.postpone(pause)
        for partition, start in starts.items():
            self.intake.hold(partition, start, pause)

    def failed(self, what: str, reason: DeliveryFailed) -> None:
        """Count a failure of a turn or a tick; a right that is missing is an error, as it does not come by itself."""
        RETRIES.labels(self.agent, type(reason).__name__).inc()
        if isinstance(reason, NotAllowed):
            self._lacks[what] = reason.right
            self._seldom.error(str(reason))

    def succeeded(self, what: str = "turn") -> None:
        """A turn or a tick was delivered: the next pause is short again."""
        self._lacks.pop(what, None)
        if what == "turn":
            self.failures = 0
