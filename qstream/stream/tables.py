"""Tables: compacted topics that every worker reads whole, outside the group, and then follows."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message

from qstream.config import Settings
from qstream.contract import TopicPartition
from qstream.errors import Transient
from qstream.stream.cause import Cause, OnceAMinute, denied
from qstream.stream.faults import raise_if_fatal
from qstream.stream.identity import Identities
from qstream.stream.read import Reading, frame_of, partitions_of, reader
from schemas.frame import Frame, FrameError
from schemas.topics import Topic

log = logging.getLogger(__name__)
POLL_S = 0.1
RETRY_S = 1.0
ANSWER_S = 2.0
MAX_AT_ONCE = 1000  # records that one call of `changes` takes, so that a batch is never held up for long


class Tables:
    """The newest frame by key of some topics, used by one thread; the Kafka client fetches in threads of its own.

    `rows` has them by topic name and key. A record without value ends its row. An unreadable record changes nothing; of those
    that come together the first is logged, with their number. A topic that is created again is read again; then rows that it
    no longer has end.
    """

    def __init__(self, settings: Settings, topics: Sequence[Topic]) -> None:
        self.rows: dict[str, dict[str, Frame]] = {topic.name: {} for topic in topics}
        self._settings = settings
        self._topics = {topic.name: topic for topic in topics}
        self._consumer: Consumer | None = None  # until what it reads is known
        self._reading: Reading | None = None
        self._unread: set[TopicPartition] = set()
        self._logs: Identities | None = None
        self._old: dict[str, set[str]] = {}  # keys of rows by topic that the new log has not had yet
        self._cause = Cause()
        self._seldom = OnceAMinute(log)
        self._unreadable: dict[str, tuple[int, str]] = {}  # since the last line of the log: how many by topic, and the first

    def read(self, stop: threading.Event) -> None:
        """Read every topic up to its end; wait for a topic that is absent and a broker that does not answer, until `stop`."""
        while self._topics and not stop.is_set():
            try:
                self._open()
                break
            except Transient as exc:
                self._seldom.error(f"waiting for a table: {exc}")
                stop.wait(RETRY_S)
        while self._unread and not stop.is_set():
            self._poll(POLL_S)
        self._log_unreadable()
        for name, rows in self.rows.items():
            log.info("table %s: %d rows", name, len(rows))

    def changes(self) -> set[str]:
        """Take what has come since the last call, without waiting; the names of the topics whose rows have changed."""
        changed: set[str] = set()
        if self._logs is not None and (others := self._logs.changes()):
            self._read_again(others)
        for _ in range(MAX_AT_ONCE if self._reading else 0):
            topic = self._poll(0.0)
            if topic is None:
                break
            changed.add(topic)
        self._log_unreadable()
        return changed - {""}

    def snapshot(self, names: Sequence[str]) -> Mapping[str, Mapping[str, Frame]]:
        """The rows of some topics as they are now."""
        return {name: dict(self.rows[name]) for name in names}

    def close(self) -> None:
        """Stop following."""
        if (opened := self._reading or self._consumer) is not None:
            opened.close()
            self._consumer = self._reading = None

    def _open(self) -> None:
        self._consumer = self._consumer or reader(self._settings, self._cause)
        numbers = {name: partitions_of(self._consumer, name, ANSWER_S, self._cause) for name in self._topics}
        self._unread = {TopicPartition(name, at) for name, partitions in numbers.items() for at in partitions}
        self._logs = self._logs or Identities(self._settings, list(self._topics))
        self._logs.ask(ANSWER_S)
        self._reading = Reading(self._settings, self._consumer, dict.fromkeys(self._unread, OFFSET_BEGINNING), self._logs)

    def _read_again(self, topics: Iterable[str]) -> None:
        assert self._reading is not None
        for name in topics:
            log.warning("table %s is another log than before, its topic was created again: read from its start", name)
            self._old[name] = set(self.rows[name])
        self._unread = self._reading.partitions
        self._reading.begin_again()

    def _end_old_rows(self, topic: str) -> bool:
        """Whether rows ended because the whole topic is read again and did not have them."""
        if any(name == topic for name, _ in self._unread):
            return False
        old = self._old.pop(topic, set())
        for key in old:
            self.rows[topic].pop(key, None)
        return bool(old)

    def _poll(self, timeout_s: float) -> str | None:
        """The topic of the next record that has changed a row, an empty text for what has not; None if nothing came."""
        assert self._reading is not None
        message = self._reading.poll(timeout_s)
        if message is None:
            return None
        error = message.error()
        if error is None:
            return message.topic() if self._take(message) else ""
        if error.code() == KafkaError._PARTITION_EOF:
            self._unread.discard(TopicPartition(message.topic(), message.partition()))
            return message.topic() if self._end_old_rows(message.topic()) else ""
        if error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:  # a reader is in no group: it needs no right on one
            raise_if_fatal(error)
            self._seldom.error(f"table: {denied(error, topic=f'READ on topic {message.topic()}') or error}")
        return ""

    def _take(self, message: Message) -> bool:
        topic = self._topics[message.topic()]
        rows = self.rows[topic.name]
        if message.value() is None:
            return rows.pop((message.key() or b"").decode(errors="replace"), None) is not None
        try:
            frame = frame_of(message, topic.frame)
        except FrameError as exc:
            count, first = self._unreadable.get(topic.name, (0, f"{topic.name}/{message.partition()}/{message.offset()}: {exc}"))
            self._unreadable[topic.name] = count + 1, first
            return False
        key = str(getattr(frame, topic.key))
        rows[key] = frame
        self._old.get(topic.name, set()).discard(key)
        return True

    def _log_unreadable(self) -> None:
        """One line by topic: any user who may write to it could otherwise fill the log of every worker."""
        for name, (count, first) in self._unreadable.items():
            log.error("table %s: %d unreadable records, the first is %s", name, count, first)
        self._unreadable.clear()
