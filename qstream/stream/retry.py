"""Retry: a turn that was not delivered comes again, after a pause that grows with each failure."""

from __future__ import annotations

import logging

from qstream.config import Settings
from qstream.errors import DeliveryFailed
from qstream.metrics import RETRIES
from qstream.stream.consume import Intake
from qstream.stream.span import Offsets
from qstream.stream.wait import FIRST_RETRY_S, Waiting

log = logging.getLogger(__name__)


class Retry:
    """Has what was read, and what waits, come again. `failures` are the turns that failed since the last one that did not."""

    def __init__(self, settings: Settings, agent: str, intake: Intake, waiting: Waiting) -> None:
        self.settings = settings
        self.agent = agent
        self.intake = intake
        self.waiting = waiting
        self.failures = 0

    def again(self, starts: Offsets, reason: DeliveryFailed) -> None:
        """Read again from `starts`, the first offsets of a turn that failed."""
        self.failures += 1
        pause = min(self.settings.retry_max_s, FIRST_RETRY_S * 2 ** min(self.failures, 20))
        RETRIES.labels(self.agent, type(reason).__name__).inc()
        log.warning("batch goes again in %.1f s: %s", pause, reason)
        self.waiting.postpone(pause)
        for partition, start in starts.items():
            self.intake.hold(partition, start, pause)

    def succeeded(self) -> None:
        """A turn was delivered: the next pause is short again."""
        self.failures = 0
