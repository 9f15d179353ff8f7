"""Wait: records that were read and are not answered yet, by key, so that one key never holds up another."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qstream.config import Settings
from qstream.contract import Record, TopicPartition
from qstream.errors import NotYet, StoreUnavailable, Transient
from qstream.metrics import RETRIES
from qstream.stream.answer import Answer

log = logging.getLogger(__name__)
FIRST_RETRY_S = 0.1
NOT_YET_S = 0.01  # between two looks for a result that is computed next to the records
LATER_S = 0.5  # between two questions to a store that does not answer
MISSING_MAX = 256  # of one partition, where a transaction has to name them
BYTES_A_RECORD = 512
LACKING_MAX = 100_000  # keys that lack something; of one that is forgotten, the next record waits its full time

Groups = dict[str, list[Record]]
Waits = Sequence[tuple[Record, Transient]]


@dataclass(eq=False)
class Queue:
    """The unanswered records of one key, in order within each partition, not tried again before `due`.

    `since` says of a record how long it has been the first of its partition and kept waiting by the module.
    """

    records: list[Record]
    due: float
    size: int
    since: dict[str, float] = field(default_factory=dict)


class Waiting:
    """The queues of all keys with unanswered records: those that must wait, and those for which a turn had no time.

    Behind a record that waits, the later ones of its key and partition queue up; records of the key from other partitions
    do not, since they may be what it waits for.
    """

    def __init__(self, settings: Settings, agent: str) -> None:
        self.settings = settings
        self.agent = agent
        self._queues: dict[str, Queue] = {}
        self._lacking: dict[str, float] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._queues

    def __len__(self) -> int:
        return sum(len(queue.records) for queue in self._queues.values())

    @property
    def is_behind(self) -> bool:
        """Whether records are left only because a turn had no time for them."""
        return any(queue.due == 0.0 for queue in self._queues.values())

    def postpone(self, seconds: float) -> None:
        """Try no queue before so many seconds have passed."""
        for queue in self._queues.values():
            queue.due = max(queue.due, time.monotonic() + seconds)

    def due_in(self) -> float:
        """Seconds until a queue is to be tried, 0 if one is due."""
        return max(0.0, min((queue.due for queue in self._queues.values()), default=float("inf")) - time.monotonic())

    def join(self, fresh: Groups) -> tuple[Groups, Groups]:
        """What to process by key, due queues first, and what only lines up behind a record that waits."""
        if not self._queues:
            return fresh, {}
        now = time.monotonic()
        tried: Groups = {key: queue.records for key, queue in self._queues.items() if queue.due <= now}
        lined_up: Groups = {}
        for key, records in fresh.items():
            queue = self._queues.get(key)
            if queue is None:
                tried[key] = records
                continue
            busy = {record.origin for record in queue.records}
            free = [record for record in records if record.origin not in busy]
            behind = [*queue.records, *(record for record in records if record.origin in busy)]
            if free or key in tried:
                tried[key] = [*free, *behind]
            else:
                lined_up[key] = behind
        return tried, lined_up

    def keep_all(self, answers: Mapping[str, Answer[Any]], lined_up: Groups) -> None:
        """Have what is not answered wait, and what lined up."""
        for key, records in lined_up.items():
            self.line_up(key, records)
        for key, answer in answers.items():
            self.keep(key, answer.left, answer.waits, progress=answer.outcome.changed or bool(answer.outcome.events))

    def line_up(self, key: str, records: list[Record]) -> None:
        """Have a key wait on with more records behind."""
        self._queues[key] = Queue(records, self._queues[key].due, _size(records), self._queues[key].since)

    def keep(self, key: str, left: list[Record], waits: Waits, progress: bool) -> None:
        """Take what a try has left of a key.

        `waits` are the records that must wait, the first of their partitions, and why; where a partition has none, its
        records are due at once. `progress` says that state or events came of the try, so the key lacks nothing any more.
        """
        if progress:
            self._lacking.pop(key, None)
        if not left:
            self._queues.pop(key, None)
            return
        since = self._queues[key].since if key in self._queues else {}
        names = {record.id for record in left}
        queue = Queue(left, 0.0, _size(left), {name: at for name, at in since.items() if name in names})
        pauses = [self._pause_s(queue, record, reason) for record, reason in waits]
        held = {record.origin for record, _ in waits}
        if all(record.origin in held for record in left):
            queue.due = time.monotonic() + min(pauses)
        self._queues[key] = queue

    def has_waited(self, record: Record) -> bool:
        """Whether it waited long enough itself, or is old enough and its key waited: else each in turn would hold up all."""
        now = time.monotonic()
        queue = self._queues.get(record.key)
        own_s = now - queue.since.get(record.id, now) if queue else 0.0
        key_s = now - self._lacking.get(record.key, now)
        age_s = time.time() - record.timestamp_ms / 1000
        return max(own_s, min(key_s, age_s)) > self.settings.give_up_s

    def drop(self, partitions: set[TopicPartition]) -> None:
        """Remove the records of partitions that are lost, or read again."""
        for key, queue in list(self._queues.items()) if partitions else ():
            left = [record for record in queue.records if record.origin not in partitions]
            if len(left) < len(queue.records):
                self.keep(key, left, (), progress=True)

    def missing(self) -> dict[TopicPartition, set[int]]:
        """The unanswered offsets of each partition that has any."""
        found: dict[TopicPartition, set[int]] = {}
        for queue in self._queues.values():
            for record in queue.records:
                found.setdefault(record.origin, set()).add(record.offset)
        return found

    def full(self, positions: Mapping[TopicPartition, int], transactional: bool) -> set[TopicPartition]:
        """Partitions of which nothing more may be read before some of their records are answered."""
        missing = self.missing() if self._queues else {}
        size = sum(queue.size for queue in self._queues.values())
        count = sum(map(len, missing.values()))
        if count >= self.settings.max_waiting_records or size >= self.settings.max_waiting_bytes:
            return set(missing)
        return {
            partition
            for partition, offsets in missing.items()
            if positions.get(partition, 0) - min(offsets) > self.settings.max_uncommitted_records
            or (transactional and len(offsets) >= MISSING_MAX)
        }

    def snapshot(self) -> dict[str, Queue]:
        """What `restore` takes, should the turn fail; queues are replaced, never changed."""
        return dict(self._queues)

    def restore(self, snapshot: dict[str, Queue]) -> None:
        """Undo what was kept since."""
        self._queues = snapshot

    def _pause_s(self, queue: Queue, record: Record, reason: Transient) -> float:
        RETRIES.labels(self.agent, type(reason).__name__).inc()
        if isinstance(reason, NotYet):
            return NOT_YET_S
        if isinstance(reason, StoreUnavailable):
            return LATER_S
        now = time.monotonic()
        since = queue.since.setdefault(record.id, now)
        if record.key not in self._lacking:
            self._lacking[record.key] = since
            if len(self._lacking) > LACKING_MAX:
                del self._lacking[next(iter(self._lacking))]
        pause_s = min(self.settings.retry_max_s, max(FIRST_RETRY_S, now - since))
        log.info("%s waits %.1f s: %s", record.id, pause_s, reason)
        return pause_s


def _size(records: Iterable[Record]) -> int:
    """Bytes that records take in memory, roughly: each as it came and as a frame."""
    return sum(2 * len(record.value) + BYTES_A_RECORD for record in records)
