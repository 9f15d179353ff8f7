"""Clocks: the times of records, judged against their arrival, so that a wrong clock does not stop that of the plans."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from confluent_kafka import Message

from qstream.metrics import WRONG_CLOCKS
from qstream.stream.headers import LAST_MS

log = logging.getLogger(__name__)
EARLIEST_MS = 946_684_800_000  # 2000-01-01: what is older was given in seconds, or not at all; recordings may be old
MOST_AHEAD_MS = 3_600_000
SAY_AGAIN_S = 60.0


def stamp_ms(message: Message) -> int:
    """The time that a record came with, 0 without one."""
    timestamp_ms: int = message.timestamp()[1]
    return max(timestamp_ms, 0)


def is_plausible(timestamp_ms: int, arrival_ms: int) -> bool:
    """Whether a record that arrived at `arrival_ms` may have this time: after 1999, and no more than an hour ahead."""
    return EARLIEST_MS <= timestamp_ms <= arrival_ms + MOST_AHEAD_MS


class Clocks:
    """Gives each record its time: its own, or that of its arrival where its own is wrong, which is counted and logged."""

    def __init__(self, agent: str, now_s: Callable[[], float] = time.time) -> None:
        self.agent = agent
        self._now_s = now_s
        self._said: dict[str, float] = {}

    def time_of(self, message: Message) -> int:
        """Milliseconds since 1970."""
        own_ms, now_s = stamp_ms(message), self._now_s()
        arrival_ms = int(now_s * 1000)
        if is_plausible(own_ms, arrival_ms):
            return own_ms
        topic = message.topic()
        WRONG_CLOCKS.labels(self.agent, topic).inc()
        if abs(now_s - self._said.get(topic, 0.0)) >= SAY_AGAIN_S:
            self._said[topic] = now_s
            stamp = datetime.fromtimestamp(min(own_ms, LAST_MS) / 1000, UTC).isoformat(timespec="seconds")
            log.warning(
                "%s: timestamps of records must be milliseconds since 1970, from 2000 until an hour ahead, "
                "got %d (%s) at %s/%d/%d: their arrival is taken for their time",
                *(self.agent, own_ms, stamp, topic, message.partition(), message.offset()),
            )
        return arrival_ms
