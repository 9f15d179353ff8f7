"""Stall: notices that a Kafka client has stopped fetching a partition, by a log that goes on while nothing comes from it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import KafkaError, KafkaException, Message

from qstream.contract import TopicPartition
from qstream.stream.identity import Ends, Identities

log = logging.getLogger(__name__)
LOOK_S = 5.0  # between two looks at where the logs end, while nothing comes
MOST_S = 60.0  # after clients that did not fetch either


class Stall:
    """Where partitions are read next, and which of them a client has stopped fetching. Used by one thread; never waits.

    After its broker was restarted a client may wait for a partition without end and without an error, until it is replaced
    (librdkafka issues 4492 and 5153). Only the log shows it: a partition is stalled if at two looks in succession it was to be
    read at the same offset and its log went on beyond that. A look is one request a broker, made while nothing comes. What is
    taken for a stall on a slow machine costs a new client, and the next is given twice the time.
    """

    def __init__(self, logs: Identities) -> None:
        self.next: dict[TopicPartition, int] = {}
        self._logs = logs
        self._period_s = LOOK_S
        self._due = time.monotonic() + LOOK_S
        self._asked: Ends = {}
        self._behind: dict[TopicPartition, int] = {}

    def note(self, message: Message) -> None:
        """Take over how far a message brings its partition."""
        error = message.error()
        if error is None:
            self.next[TopicPartition(message.topic(), message.partition())] = message.offset() + 1
        elif error.code() == KafkaError._PARTITION_EOF:  # behind the marks of transactions
            self.next[TopicPartition(message.topic(), message.partition())] = message.offset()

    def found(self, read: Callable[[], Iterable[TopicPartition]]) -> list[TopicPartition]:
        """Those of the partitions that are stalled; asked whenever a poll of all of them has given nothing."""
        if self._asked:
            if not all(answer.done() for answer in self._asked.values()):
                return []
            ends, self._asked = _ends(self._asked), {}
            return self._judge(ends)
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._period_s
            self._asked = self._logs.ask_ends(at for at in read() if at in self.next)
        return []

    def _judge(self, ends: Mapping[TopicPartition, int]) -> list[TopicPartition]:
        behind = {at: self.next[at] for at, end in ends.items() if max(0, self.next.get(at, end)) < end}
        stalled = sorted(at for at, offset in behind.items() if self._behind.get(at) == offset)
        self._behind = {} if stalled else behind
        if stalled:
            log.warning("nothing comes from %s, which goes on: read by a new client", ", ".join(f"{t}:{n}" for t, n in stalled))
            self._period_s = min(MOST_S, 2 * self._period_s)
        elif not behind:
            self._period_s = LOOK_S
        return stalled


def _ends(answers: Ends) -> dict[TopicPartition, int]:
    """Where the logs end for readers of committed records; without those whose broker does not say."""
    found = {}
    for at, answer in answers.items():
        try:
            found[TopicPartition(at.topic, at.partition)] = answer.result().offset
        except KafkaException as exc:
            log.debug("%s:%s has no end now: %s", at.topic, at.partition, exc.args[0])
    return found
