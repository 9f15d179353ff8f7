"""Member: one topic read as a member of a consumer group, whose offsets are committed as it goes."""

from __future__ import annotations

import logging
from typing import Final

from confluent_kafka import Consumer, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from qstream.config import Settings
from qstream.contract import TopicPartition
from qstream.stream.cause import Cause, open_client
from qstream.stream.faults import raise_first, raise_if_fatal
from qstream.stream.identity import PERIOD_S, Identities
from qstream.stream.stall import Stall

log = logging.getLogger(__name__)
ANSWER_S: Final = 5.0


class Member:
    """A group's member, kept going for as long as it is polled. Used by one thread.

    Where its topic was created again, or its client has stopped fetching, a new client takes its place in the group.
    `assigned` once all its partitions have given a record or their end: what comes to them from then on is seen for certain.
    """

    def __init__(self, settings: Settings, topic: str, group: str, from_start: bool, logs: Identities) -> None:
        self.assigned = False
        self._settings = settings
        self._topic = topic
        self._group = group
        self._from_start = from_start
        self._logs = logs
        self._joined = False
        self._stall = Stall(logs)
        self._moved: dict[TopicPartition, int] | None = None  # where a new client is to go on
        self._consumer = self._join()

    def poll(self, timeout_s: float) -> Message | None:
        """The next message, as of a consumer."""
        if self._moved is not None:
            self._join_again(self._moved)
        message = self._consumer.poll(timeout_s)
        if message is not None:
            self._stall.note(message)
        elif self._stall.found(self._owned):
            self._moved = {at: self._stall.next[at] for at in self._owned() & self._stall.next.keys()}
        if not self.assigned:
            self.assigned = self._joined and self._owned() <= self._stall.next.keys()
        return message

    def begin_again(self) -> None:
        """Read all from the start: the topic was created again."""
        self._moved = dict.fromkeys(self._owned(), 0)

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _join(self) -> Consumer:
        config: dict[str, object] = {
            "bootstrap.servers": self._settings.bootstrap_servers,
            "group.id": self._group,
            "enable.auto.commit": True,
            "auto.offset.reset": "earliest" if self._from_start else "latest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "partition.assignment.strategy": "cooperative-sticky",
            "fetch.wait.max.ms": 100,
            "session.timeout.ms": 10_000,
            "topic.metadata.refresh.interval.ms": int(PERIOD_S * 1000),
        }
        consumer = open_client(Consumer, self._settings, config | self._settings.kafka_properties(), Cause())
        consumer.subscribe([self._topic], on_assign=self._note_assignment)
        return consumer

    def _join_again(self, starts: dict[TopicPartition, int]) -> None:
        """Have a new client join the group, once it is committed where that is to go on."""
        offsets = [KafkaPartition(*at, offset) for at, offset in starts.items()]
        try:
            if offsets:
                # The client would commit at its end where it was, in the old log of a topic, if they were still assigned.
                self._consumer.incremental_unassign(self._consumer.assignment())
                raise_first(self._consumer.commit(offsets=offsets, asynchronous=False))
        except KafkaException as exc:
            raise_if_fatal(exc.args[0])
            log.debug("%s: the start is committed later: %s", self._topic, exc.args[0])
            return
        self._consumer.close()
        self._consumer = self._join()
        self._moved = None

    def _owned(self) -> set[TopicPartition]:
        return {TopicPartition(at.topic, at.partition) for at in self._consumer.assignment()}

    def _note_assignment(self, _consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        if not self._joined:
            self._logs.ask(ANSWER_S)
        self._joined = True
        for at in partitions:
            self._stall.next.pop(TopicPartition(at.topic, at.partition), None)
