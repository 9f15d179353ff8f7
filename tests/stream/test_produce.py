"""Produce: a turn that is not confirmed goes again whole, and nothing of it comes before what stood in front of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from qstream.config import Settings
from qstream.contract import Event, Record
from qstream.embedded.kafka import EmbeddedKafka
from qstream.errors import DeliveryFailed
from qstream.stream.produce import Outbox
from qstream.stream.read import frame_of, read_all
from qstream.testing.sample import Pong
from schemas.topics import Topic

TOPIC = Topic("order.pong.v1", Pong, "name", "plan", "answers", 1)


def turn(*counts: int) -> list[Event]:
    frames = [Pong(name="a", count=count, total=0, digest=0) for count in counts]
    records = [Record("in", 0, frame.count, "a", frame, 0) for frame in frames]
    return [Event(TOPIC, "a", record.event_id(0), record.frame, record) for record in records]


class Halting(list[Event]):
    """Events of which the first is given up before the second comes, as in a process that stood still."""

    def __iter__(self) -> Iterator[Event]:
        for event in super().__iter__():
            yield event
            time.sleep(2.0)


def send(outbox: Outbox, events: list[Event]) -> None:
    """Until it is confirmed, as the loop does."""
    for _ in range(100):
        try:
            outbox.send(events, [])
        except DeliveryFailed:
            continue
        return
    pytest.fail("nothing was confirmed")


def delivered(settings: Settings) -> list[int]:
    """What came, each at its first appearance."""
    return list(dict.fromkeys(frame_of(message, Pong).count for message in read_all(settings, TOPIC.name)))


def test_when_a_part_of_a_turn_is_late_what_follows_does_not_overtake_it() -> None:
    with EmbeddedKafka({TOPIC.name: 1, "dead": 1}) as kafka:
        settings = Settings(bootstrap_servers=kafka.bootstrap_servers, delivery_timeout_ms=1000)
        outbox = Outbox(settings, "test", "dead")
        send(outbox, turn(0))
        kafka.set_broker_down()
        back = threading.Timer(2.2, kafka.set_broker_up)
        back.start()
        send(outbox, Halting(turn(1, 2)))
        back.join()
        assert delivered(settings) == [0, 1, 2]


def test_what_was_given_up_is_not_sent_later() -> None:
    with EmbeddedKafka({TOPIC.name: 1, "dead": 1}) as kafka:
        settings = Settings(bootstrap_servers=kafka.bootstrap_servers, delivery_timeout_ms=500)
        outbox = Outbox(settings, "test", "dead")
        kafka.set_broker_down()
        with pytest.raises(DeliveryFailed, match=r"^2 records were not confirmed: "):
            outbox.send(turn(1, 2), [])
        kafka.set_broker_up()
        send(outbox, turn(3))
        assert delivered(settings) == [3]
