"""Clients that stop fetching: their readers go on with the next record by a new client, and clients of quiet logs stay."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer

from qstream.config import Settings
from qstream.stream.client import Publisher
from qstream.stream.identity import Identities
from qstream.stream.read import follow, frame_of
from qstream.stream.tables import Tables
from qstream.testing.rig import PATIENCE_S, Rig, wait_until
from qstream.testing.sample import Ping, Tally
from schemas.topics import Topic
from tests.stream.notes import MakeTopic, Note, note, subscriber, versions


class Reader:
    """One way to read a topic: the versions that came so far, and the client that brings them."""

    def __init__(self, take: Callable[[], list[int]], source: Callable[[], Any]) -> None:
        self.seen: list[int] = []
        self._take = take
        self._source = source

    @property
    def client(self) -> Consumer:
        return self._source()._consumer

    def has(self, *expected: int) -> bool:
        self.seen += self._take()
        return self.seen == [*expected]


@pytest.fixture
def topic(make_topic: MakeTopic) -> Topic:
    return make_topic(partitions=2)


@pytest.fixture
def readers(kafka: str, topic: Topic) -> Iterator[dict[str, Reader]]:
    settings = Settings(bootstrap_servers=kafka)
    with ExitStack() as opened:
        plans = opened.enter_context(subscriber(kafka, topic))
        member = opened.enter_context(subscriber(kafka, topic, group=f"{topic.name}.stall"))
        assert member.wait_assigned(PATIENCE_S)
        watched = opened.enter_context(closing(follow(settings, topic.name)))
        tables = Tables(settings, [topic])
        opened.callback(tables.close)
        tables.read(threading.Event())

        def watch() -> list[int]:
            message = next(watched)
            return [] if message is None else [frame_of(message, Note).version]

        def rows() -> list[int]:
            return [frame.version for frame in tables.rows[topic.name].values()] if tables.changes() else []  # type: ignore[attr-defined]

        yield {
            "alone": Reader(lambda: [plan.version for plan in plans.drain(0.1)], lambda: plans._source),
            "member": Reader(lambda: [plan.version for plan in member.drain(0.1)], lambda: member._source),
            "watch": Reader(watch, lambda: inspect.getgeneratorlocals(watched)["reading"]),
            "table": Reader(rows, lambda: tables._reading),
        }


def test_whoever_reads_by_a_client_that_stops_fetching_goes_on_by_a_new_one(
    kafka: str, topic: Topic, readers: dict[str, Reader], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("qstream.stream.stall.LOOK_S", 0.1)
    with Publisher(kafka) as publisher:
        for version in (1, 2, 3):
            publisher.publish(topic, note(version=version))
            publisher.flush()
            for name, reader in readers.items():
                wait_until(lambda: reader.has(*range(1, version + 1)), saying=lambda: (name, reader.seen))  # noqa: B023
            if version == 1:
                stopped = {name: reader.client for name, reader in readers.items()}
                for client in stopped.values():
                    client.pause(client.assignment())
    assert not [name for name, reader in readers.items() if reader.client is stopped[name]]


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_worker_whose_client_stops_fetching_goes_on_by_a_new_one(
    delivery: str, make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
):
    rig = make_rig(partitions=2, delivery=delivery)
    sent = [Ping.of("a", value) for value in range(3)]
    with rig.loop() as running:
        rig.publish(sent[:1])
        wait_until(lambda: rig.tally("a") == Tally.of(*sent[:1]))
        monkeypatch.setattr("qstream.stream.stall.LOOK_S", 0.1)
        running.loop.settling._stall._period_s = 0.1
        stopped = running.loop.intake._consumer
        stopped.pause(stopped.assignment())
        rig.publish(sent[1:])
        wait_until(lambda: rig.tally("a") == Tally.of(*sent), saying=lambda: rig.tally("a"))
        assert running.loop.intake._consumer is not stopped
    assert rig.letters() == []


def test_a_client_of_a_quiet_log_stays(kafka: str, topic: Topic, monkeypatch: pytest.MonkeyPatch):
    """The log ends with marks of transactions and with a record of one that was aborted, which no reader sees."""
    looks: list[object] = []
    ask = Identities.ask_ends
    monkeypatch.setattr(Identities, "ask_ends", lambda logs, partitions: looks.append(1) or ask(logs, partitions))
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": f"{topic.name}.quiet"})
    producer.init_transactions(120)
    with subscriber(kafka, topic) as plans:
        client, stall = plans._source._consumer, plans._source._stall  # type: ignore[union-attr]
        for end in (producer.commit_transaction, producer.abort_transaction):
            producer.begin_transaction()
            producer.produce(topic.name, note(version=1).encode(), b"m")
            producer.flush(120)
            end(120)
        assert versions(plans, 1) == [1]
        wait_until(lambda: plans.poll(0.02) is None and sum(stall.next.values()) == 4)  # two records and two marks
        monkeypatch.setattr("qstream.stream.stall.LOOK_S", 0.0)
        stall._due = stall._period_s = 0.0
        looks.clear()
        wait_until(lambda: plans.poll(0.02) is None and len(looks) >= 4)
        assert plans._source._consumer is client
