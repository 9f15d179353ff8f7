"""Observe: what batches and ticks did, in the metrics."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from confluent_kafka import Message

from qstream.contract import Event, TopicPartition
from qstream.metrics import (
    BATCH_SECONDS,
    CONSUMED,
    DEAD_LETTERS,
    END_TO_END_SECONDS,
    FALLBACKS,
    LAG,
    PLAN_AGE,
    PLANS,
    PRODUCED,
    SOLVER_SECONDS,
)
from qstream.stream.consume import Intake
from qstream.stream.decode import Rejected
from schemas.plan import Plan

LAG_PERIOD_S = 2.0
log = logging.getLogger(__name__)


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
    if dead:
        first = dead[0].letter
        log.warning("%s: %d records became dead letters, the first is %s: %s", agent, len(dead), first.id, first.error_message)
    oldest_ms = min((event.cause.timestamp_ms for event in events if event.cause is not None), default=None)
    if oldest_ms is not None:
        END_TO_END_SECONDS.labels(agent).observe(max(0.0, time.time() - oldest_ms / 1000))
    count_plans(agent, events)


def observe_all(agent: str, observe: Callable[[Event], None], events: Sequence[Event]) -> None:
    """Show delivered events to the module's own metrics, whose fault costs the rest of a batch its metrics and nothing else."""
    try:
        for event in events:
            observe(event)
    except Exception:
        log.exception("%s: its own metrics failed", agent)


def count_plans(agent: str, events: Sequence[Event]) -> None:
    """Count what the plans among delivered events say of themselves: outcome, age, fallback, and how long the solver took."""
    plan_topics = {topic.name for topic in {event.topic for event in events} if issubclass(topic.frame, Plan)}
    plans = [(event, event.frame) for event in events if event.topic.name in plan_topics and isinstance(event.frame, Plan)]
    for (topic, outcome), count in Counter((event.topic.name, plan.outcome) for event, plan in plans).items():
        PLANS.labels(agent, topic, outcome).inc(count)
    newest: dict[str, int] = {}
    for event, plan in plans:
        newest[event.topic.name] = max(plan.ts_ns, newest.get(event.topic.name, 0))
    for topic, ts_ns in newest.items():
        PLAN_AGE.labels(agent, topic).set_function(partial(_age_s, ts_ns))
    for event, plan in plans:
        if plan.fallback_reason is not None:
            FALLBACKS.labels(agent, plan.fallback_reason).inc()
        seconds = event.solver_s if plan.solver.wall_ms is None else plan.solver.wall_ms / 1000
        if seconds is not None:
            SOLVER_SECONDS.labels(agent, plan.solver.solver).observe(seconds)


def _age_s(ts_ns: int) -> float:
    """Seconds since a time in ns."""
    return max(0.0, time.time() - ts_ns / 1e9)


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
