"""Consume: bounded batches from one consumer group member, its assignment, and which partitions wait."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from qstream.config import Settings
from qstream.contract import TopicPartition, partition_of
from qstream.metrics import REBALANCES
from qstream.stream.cause import Cause, OnceAMinute, denied, open_client
from qstream.stream.faults import fatal_named, raise_first, raise_if_fatal
from qstream.stream.membership import consumer_config
from qstream.stream.places import came_from, kafka_partitions, names, own

log = logging.getLogger(__name__)
CHUNK = 128
ENDS_ANSWER_S = 0.2
MOST_ASKED = 2  # ends in one look, while records are fetched: each answer waits for a fetch that waits for records
ANSWER_S = 5.0
STATISTICS_MS = 2000
FROM_START: int = OFFSET_BEGINNING


class Intake:
    """One member of a consumer group, used by one thread.

    `assigned` is what it owns now, `at_end` the partitions of which everything was read, `past` where they were last found to
    end: beyond records of aborted transactions, which never come. `poll` never returns a message of a
    partition that is no longer owned. A held partition is paused until its time comes; `frozen` pauses all, `full` some
    partitions, with polling going on so that the membership stays.
    """

    def __init__(self, settings: Settings, agent: str, topics: Sequence[str]) -> None:
        self.settings = settings
        self.agent = agent
        self.group = f"{settings.group_prefix}.{agent}"
        self._topics = tuple(topics)
        self.assigned: set[TopicPartition] = set()
        self.joined = False
        self.frozen = False
        self.full: set[TopicPartition] = set()
        self.at_end: set[TopicPartition] = set()
        self.past: dict[TopicPartition, int] = {}
        self._reached: set[TopicPartition] = set()
        self._new: set[TopicPartition] = set()
        self._lost: set[TopicPartition] = set()
        self._held_until: dict[TopicPartition, float] = {}
        self._paused: set[TopicPartition] = set()
        self._seeks: dict[TopicPartition, int] = {}
        self._begins: dict[TopicPartition, int] = {}
        self._in_flight: dict[TopicPartition, int] = {}
        self._refused: set[TopicPartition] = set()
        self.cause = Cause()
        self._seldom = OnceAMinute(log)
        self._lacks: dict[str, str] = {}
        self._coordinated = 0
        self._consumer = self._open()

    def _open(self, *, static: bool = True) -> Consumer:
        config = consumer_config(self.settings, self.group) | {"on_commit": self._on_commit}
        if not static:
            config.pop("group.instance.id", None)
        if self.settings.group_protocol == "consumer":
            config |= {"statistics.interval.ms": STATISTICS_MS, "stats_cb": self._note_statistics}
        return open_client(Consumer, self.settings, config, self.cause)

    def join(self) -> None:
        """Ask to join the group, which hands over partitions while `poll` is called, and takes them back if it is not."""
        self._consumer.subscribe(list(self._topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    def join_again(self, replaced: Iterable[TopicPartition]) -> None:
        """Leave the group, which loses all partitions, and join it by a new client: the logs of these partitions were replaced.

        Without such partitions the client alone is to be another, and a static member has back what it had.

        Their next owner begins at their start, if it knows no better. Why a client cannot stay, `read.Reading.begin_again`
        says. The new one is not a static member: that would take back what the old one had, perhaps none of a topic that was
        just missing, and no other member would then look for the new partitions. The group forgets the old one after the
        session's time.
        """
        begins = dict.fromkeys(replaced, 0)
        if begins:
            self.commit(begins)
        self.close()
        self._consumer = self._open(static=not begins)
        self.join()

    def poll(self, wait_s: float) -> list[Message]:
        """At most the batch's records and bytes: waits `wait_s` for the first, the batch window for more."""
        with fatal_named(self.cause):
            return self._poll(wait_s)

    def _poll(self, wait_s: float) -> list[Message]:
        self._apply_pauses()
        self._apply_seeks()
        first = self._consumer.poll(wait_s)
        if first is None or (first.error() is not None and not self._usable(first)):
            return []
        if self.frozen:  # it came with its assignment, before that could be paused
            self._apply_pauses()
            if self._usable(first):
                self.seek(came_from(first), first.offset())
            return []
        messages = [first]
        size = _size(first)
        deadline = time.monotonic() + self.settings.batch_window_ms / 1000
        limit, max_bytes = self.settings.max_batch_records, self.settings.max_batch_bytes
        while len(messages) < limit and size < max_bytes:
            room = min(CHUNK, limit - len(messages), max(1, (max_bytes - size) // max(map(_size, messages[-CHUNK:]))))
            more = self._consumer.consume(room, max(0.0, deadline - time.monotonic()))
            if not more:
                break
            messages += more
            size += sum(map(_size, more))
        return [message for message in messages if self._usable(message)]

    @property
    def lacks(self) -> str:
        """The rights that this member lacks, in words; empty if none. Any thread."""
        return "; ".join(list(self._lacks.values()))

    def changes(self) -> tuple[set[TopicPartition], set[TopicPartition]]:
        """Partitions gained and lost since the last call; one that was lost and came back is in both."""
        new, lost, self._new, self._lost = self._new, self._lost, set(), set()
        return new & self.assigned, lost

    def hold(self, partition: TopicPartition, offset: int, seconds: float) -> None:
        """Read the partition again from `offset`, not before `seconds` have passed."""
        if partition not in self.assigned:
            return
        self._held_until[partition] = time.monotonic() + seconds
        self._apply_pauses()
        self.seek(partition, offset)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read the partition from `offset` next; until then `poll` returns none of it."""
        if partition in self.assigned:
            self.at_end.discard(partition)
            self.past.pop(partition, None)
            self._reached.discard(partition)
            self._seeks[partition] = self._begins[partition] = offset
            self._apply_seeks()

    def seek_all(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Read several partitions from these offsets next."""
        for partition, offset in offsets.items():
            self.seek(partition, offset)

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit the next offsets to read, without waiting; `refused` says what the group did not take.

        A refusal loses nothing: what is not committed is delivered again, here or to the next owner.
        """
        self._in_flight |= offsets
        self._consumer.commit(offsets=kafka_partitions(offsets), asynchronous=True)

    def refused(self) -> set[TopicPartition]:
        """Partitions of ours whose commits were refused since the last call."""
        refused, self._refused = self._refused & self.assigned, set()
        return refused

    def committed_notes(self, partitions: Iterable[TopicPartition], timeout_s: float) -> dict[TopicPartition, tuple[int, str]]:
        """Committed next offsets of the group with their metadata; partitions without one are left out.

        KafkaException if no broker answers.
        """
        asked = [KafkaPartition(p.topic, p.partition) for p in partitions]
        answers = self._consumer.committed(asked, timeout=timeout_s)
        raise_first(answers)
        return {TopicPartition(a.topic, a.partition): (a.offset, a.metadata or "") for a in answers if a.offset >= 0}

    def reached(self) -> set[TopicPartition]:
        """Partitions whose end was reached at some time since the last call."""
        reached, self._reached = self._reached | self.at_end, set()
        return reached

    def newest(self) -> dict[TopicPartition, int]:
        """The next offset that the last fetch of each owned partition reported, without a request; -1 where it is not known."""
        ends = {p: self._consumer.get_watermark_offsets(KafkaPartition(*p), cached=True) for p in self.assigned}
        return {partition: -1 if found is None else found[1] for partition, found in ends.items()}

    def reads(self, positions: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """The next offset that the client is to fetch of each partition, while it gives nothing; without those that wait."""
        fetched = self.assigned - self._paused - self._seeks.keys()
        known = {at: max(positions.get(at, self._begins.get(at, -1)), self.past.get(at, -1)) for at in fetched}
        return {at: offset for at, offset in known.items() if offset >= 0}

    def lag(self, positions: Mapping[TopicPartition, int]) -> dict[str, int]:
        """Records by topic between the next offsets to read and the newest known end of each owned partition.

        A partition without a position begins where the group has committed, or is to be read from. Records of an open
        transaction count while others come; once all that can be read was read, those in front of it are what is left. A
        topic of which an end is not known yet is left out. Only from the thread that polls: the client may wait for that
        thread while it holds the interpreter.
        """
        lag: dict[str, int] = dict.fromkeys((partition.topic for partition in self.assigned), 0)
        self._find_begins(positions)
        asks, unknown = len(self.assigned) if self.frozen else MOST_ASKED, set()
        for partition in self.assigned:
            start = positions.get(partition, self._begins.get(partition, FROM_START))
            low, high = self._consumer.get_watermark_offsets(KafkaPartition(*partition), cached=True)
            # The client fetches no paused partition, and of an open transaction it knows the newest record alone.
            is_old = partition in self._paused or (start < high and partition in self.at_end)
            if asks and is_old:
                ends = self._ask_ends(partition)
                asks = 0 if ends is None else asks - 1
                low, high = ends or (low, high)
            lag[partition.topic] += max(0, high - max(low if start < 0 else start, 0))
            if high < 0:
                unknown.add(partition.topic)
        return {topic: records for topic, records in lag.items() if topic not in unknown}

    def _find_begins(self, positions: Mapping[TopicPartition, int]) -> None:
        """Ask once where the group would go on in partitions that came without a seek and have no position yet."""
        if unknown := self.assigned - positions.keys() - self._begins.keys():
            with suppress(KafkaException):
                committed = self.committed_notes(unknown, ENDS_ANSWER_S)
                self._begins |= {partition: committed.get(partition, (FROM_START, ""))[0] for partition in unknown}

    def _ask_ends(self, partition: TopicPartition) -> tuple[int, int] | None:
        """The first offset and the next one for readers of committed records; None if no broker answers."""
        try:
            found: tuple[int, int] = self._consumer.get_watermark_offsets(KafkaPartition(*partition), timeout=ENDS_ANSWER_S)
        except KafkaException:
            return None
        return found

    def is_beyond(self, partition: TopicPartition, offset: int) -> bool:
        """Whether the partition ends at `offset` or before it; False if no broker answers. Only from the thread that polls."""
        at = KafkaPartition(*partition)
        if offset < 0 or self._consumer.get_watermark_offsets(at, cached=True)[1] > offset:
            return False
        try:
            end: int = self._consumer.get_watermark_offsets(at, timeout=ANSWER_S)[1]
        except KafkaException:
            return False
        return end <= offset

    def group_metadata(self) -> object:
        """What a transaction needs to send offsets for this member."""
        return self._consumer.consumer_group_metadata()

    def cluster_id(self, timeout_s: float) -> str | None:
        """The cluster's id; KafkaException if no broker answers."""
        cluster: str | None = self._consumer.list_topics(timeout=timeout_s).cluster_id
        return cluster

    def topics(self, timeout_s: float) -> frozenset[str]:
        """The topics of the cluster; KafkaException if no broker answers."""
        return frozenset(self._consumer.list_topics(timeout=timeout_s).topics)

    def hidden(self, topics: Iterable[str], timeout_s: float) -> list[str]:
        """Those of the topics that this user may not see, whether they exist or not."""
        found = []
        for topic in topics:
            with suppress(KafkaException):
                error = self._consumer.list_topics(topic, timeout=timeout_s).topics[topic].error
                found += [topic] if error is not None and denied(error) else []
        return found

    def close(self) -> None:
        """Leave the group, with the last commits answered."""
        self._await_commits(set(self._in_flight))
        self._consumer.close()

    def _usable(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            partition = came_from(message)
            self._lacks.pop(partition.topic, None)
            self.at_end.discard(partition)
            return partition in self.assigned and partition not in self._seeks
        raise_if_fatal(error)
        if error.code() != KafkaError._PARTITION_EOF:
            self._note_error(error, message.topic())
        elif (partition := came_from(message)) in self.assigned and partition not in self._seeks:
            self._lacks.pop(partition.topic, None)
            self.at_end.add(partition)
            self.past[partition] = message.offset()
            self._reached.add(partition)
        return False

    def _note_error(self, error: KafkaError, topic: str | None) -> None:
        """Log it; a right that is missing is in `lacks` until its topic is read or the group is joined."""
        right = denied(error, topic=f"READ on topic {topic}", group=f"READ on group {self.group}")
        if right is None:
            self._seldom.warning(f"consumer: {error}")
        else:
            self._lacks[topic or ""] = right
            self._seldom.error(right)

    def _apply_pauses(self) -> None:
        now = time.monotonic()
        self._held_until = {p: t for p, t in self._held_until.items() if t > now and p in self.assigned}
        wanted = set(self.assigned) if self.frozen else self._held_until.keys() | (self.full & self.assigned)
        self._paused &= self.assigned
        for change, partitions in (
            (self._consumer.pause, wanted - self._paused),
            (self._consumer.resume, self._paused - wanted),
        ):
            if partitions:
                change([KafkaPartition(p.topic, p.partition) for p in partitions])
        self._paused = wanted

    def _apply_seeks(self) -> None:
        """Seek now or at a later poll: a partition just assigned refuses while its committed offset is still asked for."""
        for partition, offset in list(self._seeks.items()):
            try:
                self._consumer.seek(KafkaPartition(partition.topic, partition.partition, offset))
            except KafkaException as exc:
                raise_if_fatal(exc.args[0])
                log.debug("%s cannot seek yet: %s", partition, exc.args[0])
            else:
                del self._seeks[partition]

    def _note_statistics(self, statistics: str) -> None:
        """A KIP-848 member that gets no partition hears nothing of it: it counts as joined once its coordinator stays up."""
        self._coordinated += (json.loads(statistics).get("cgrp") or {}).get("state") == "up"
        self.joined = self.joined or self._coordinated > 1

    def _on_commit(self, error: KafkaError | None, partitions: list[KafkaPartition]) -> None:
        for at in partitions:
            partition = partition_of(at.topic, at.partition)
            if self._in_flight.get(partition) == at.offset:
                del self._in_flight[partition]
            if fault := error or at.error:
                raise_if_fatal(fault)
                log.warning("commit of %s refused, records will be delivered again: %s", partition, fault)
                self._refused.add(partition)

    def _await_commits(self, partitions: set[TopicPartition]) -> None:
        """Commit once more what has no answer yet and wait: a new owner begins where the last answer says."""
        if waiting := {p: offset for p, offset in self._in_flight.items() if p in partitions}:
            try:
                raise_first(self._consumer.commit(offsets=kafka_partitions(waiting), asynchronous=False))
            except KafkaException as exc:
                raise_if_fatal(exc.args[0])
                log.warning("commit refused, records will be delivered again: %s", exc.args[0])

    def _on_assign(self, _consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        gained = own(partitions)
        log.info("assigned %s", names(gained))
        self._lacks.pop("", None)
        REBALANCES.labels(self.agent, "assigned").inc()
        self.joined = True
        self.assigned |= gained
        self._new |= gained

    def _on_revoke(self, _consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        self._await_commits(own(partitions))
        self._give_up(partitions, "revoked")

    def _on_lost(self, _consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        self._give_up(partitions, "lost")

    def _give_up(self, partitions: list[KafkaPartition], kind: str) -> None:
        gone = own(partitions)
        log.info("%s %s", kind, names(gone))
        REBALANCES.labels(self.agent, kind).inc()
        self.assigned -= gone
        self._new -= gone
        self._lost |= gone
        self._refused -= gone
        for topic in {partition.topic for partition in gone} - {partition.topic for partition in self.assigned}:
            self._lacks.pop(topic, None)
        self.at_end -= gone
        self._reached -= gone
        for partition in gone & self._in_flight.keys():
            del self._in_flight[partition]
        # The client keeps a partition paused over a new assignment, and nothing else would resume it.
        if paused := gone & self._paused:
            self._consumer.resume([KafkaPartition(*partition) for partition in paused])
        self._paused -= gone
        for table in (self._seeks, self._begins, self.past):
            for partition in gone & table.keys():
                del table[partition]


def _size(message: Message) -> int:
    return len(message) + 64
