"""Span: which offsets a batch covers, and how to take fewer."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from confluent_kafka import Message

from qstream.contract import TopicPartition
from qstream.stream.places import came_from

Offsets = dict[TopicPartition, int]


def span(messages: Sequence[Message]) -> tuple[Offsets, Offsets]:
    """First offset and next offset of each partition of a batch."""
    starts: Offsets = {}
    ends: Offsets = {}
    for message in messages:
        partition = came_from(message)
        starts.setdefault(partition, message.offset())
        ends[partition] = message.offset() + 1
    return starts, ends


def without_later_half(messages: Sequence[Message], partitions: Collection[TopicPartition]) -> tuple[list[Message], Offsets]:
    """The batch without the later half of what some partitions gave, and where they are to be read from again."""
    cuts: Offsets = {}
    if not partitions:
        return list(messages), cuts
    for partition in partitions:
        offsets = [message.offset() for message in messages if came_from(message) == partition]
        if offsets:
            cuts[partition] = offsets[len(offsets) // 2]
    return [message for message in messages if message.offset() < cuts.get(came_from(message), message.offset() + 1)], cuts
