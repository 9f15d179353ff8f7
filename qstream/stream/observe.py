"""Observe: what batches and ticks did, in the metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from confluent_kafka import Message

from qstream.contract import Event, TopicPartition
from qstream.metrics import BATCH_SECONDS, CONSUMED, DEAD_LETTERS, END_TO_END_SECONDS, LAG, PRODUCED
from qstream.stream.consume import Intake
from qstream.stream.decode import Rejected

LAG_PERIOD_S = 2.0


def count_batch(agent: str, messages: Sequence[Message], seconds: float) -> None:
    """Count the records of one batch, and the time from its poll to its commit."""
    for topic, count in Counter(message.topic() for message in messages).items():
        CONSUMED.labels(agent, topic).inc(count)
    BATCH_SECONDS.labels(agent).observe(seconds)


def count_delivered(agent: str, events: Sequence[Event], dead: Sequence[Rejected]) -> None:
    """Count what a batch or a tick has delivered; the end-to-end time of a batch is that of its oldest record with an event."""
    for topic, count in Counter(event.topic.name for event in events).items():
        PRODUCED.labels(agent, topic).inc(count)
    for (stage, error), count in Counter((d.letter.stage, d.letter.error_class) for d in dead).items():
        DEAD_LETTERS.labels(agent, stage, error).inc(count)
    oldest_ms = min((event.cause.timestamp_ms for event in events if event.cause is not None), default=None)
    if oldest_ms is not None:
        END_TO_END_SECONDS.labels(agent).observe(max(0.0, time.time() - oldest_ms / 1000))


class LagReport:
    """Sets the lag of each input topic, no more often than every two seconds."""

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self._next = 0.0

    def report(self, intake: Intake, positions: Mapping[TopicPartition, int]) -> None:
        """Only from the thread that polls."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LAG_PERIOD_S
            for topic, records in intake.lag(positions).items():
                LAG.labels(self.agent, topic).set(records)
