"""Seen: what lies on topics, as an agent sees it and as a consumer does, for comparison with a run without faults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Message

from qstream.contract import Record
from qstream.stream.read import frame_of
from qstream.testing.rig import Tail, header
from qstream.testing.verify import Produced
from schemas.topics import Topic


def records(topic: Topic, messages: list[Message]) -> list[Record]:
    """The records as the agent sees them, with the broker's times."""
    return [
        Record(topic.name, each.partition(), each.offset(), each.key().decode(), frame_of(each, topic.frame), each.timestamp()[1])
        for each in messages
    ]


def produced(tails: Mapping[Topic, Tail]) -> list[Produced]:
    """The events of all topics, one topic after the other."""
    return [
        Produced(header(each, "ce_id"), each.key().decode(), each.value(), topic.name)
        for topic, tail in tails.items()
        for each in tail.read()
    ]


def environment(redis_url: str, given: Mapping[str, Any]) -> dict[str, str]:
    """Settings as the variables that a worker reads."""
    words = {f"QSTREAM_{name.upper()}": value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    return words | {"QSTREAM_REDIS_URL": redis_url}
