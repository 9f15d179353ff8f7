"""Deliver: what a turn has made, confirmed by the broker; with transactions, together with the offsets that it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qstream.contract import Event, TopicPartition, partition_of
from qstream.stream.consume import Intake
from qstream.stream.decode import Rejected
from qstream.stream.produce import Outbox
from qstream.stream.replay import Answered, Replays


def deliver(
    outbox: Outbox,
    intake: Intake,
    replays: Replays[Any],
    events: Sequence[Event],
    rejected: Sequence[Rejected],
    answered: Mapping[TopicPartition, Answered],
) -> list[Rejected]:
    """Deliver all and wait; returns the dead letters, with those of events that the broker will never take.

    `DeliveryFailed` if anything was not confirmed in time: then nothing of the turn counts. A record that was answered before
    and is read again, as tables are, gets no second letter; a transaction leaves out its events as well.
    """
    rejected = [dead for dead in rejected if not replays.covers(origin(dead), dead.letter.offset)]
    if not outbox.transactional:
        return outbox.send(events, rejected)
    events = [event for event in events if event.cause is None or not replays.covers(event.cause.origin, event.cause.offset)]
    notes = {partition: (found.next, found.note) for partition, found in answered.items()}
    with outbox.transaction(notes, intake.group_metadata()):
        return outbox.send(events, rejected)


def origin(dead: Rejected) -> TopicPartition:
    """The partition of a dead record."""
    return partition_of(dead.letter.topic, dead.letter.partition)
