"""Replay: which offsets were answered, so that records which are read again give no second event of a transaction or letter."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Generic, NamedTuple, Self, TypeVar

from confluent_kafka import KafkaException

from qstream.contract import TopicPartition
from qstream.errors import StoreUnavailable
from qstream.stream.commit import Ledger
from qstream.stream.consume import Intake
from schemas.frame import Frame

log = logging.getLogger(__name__)
S = TypeVar("S", bound=Frame)
ANSWER_S = 10.0
RETRY_S = 0.1
MAX_NOTE = 4000  # characters; a broker takes 4,096 at its default


class Answered(NamedTuple):
    """The answered offsets of a partition: those below `until` but the `missing` ones.

    A committed offset can only say the first that is not answered; `note` says the rest, in the commit's metadata.
    """

    until: int
    missing: frozenset[int] = frozenset()

    @property
    def next(self) -> int:
        """The first offset that is not answered."""
        return min(self.missing, default=self.until)

    def covers(self, offset: int) -> bool:
        """Whether the offset is answered."""
        return offset < self.until and offset not in self.missing

    @property
    def note(self) -> str:
        """``<until>:<base64 of the distances between missing offsets, as variable-length numbers>``, empty if none is missing."""
        if not self.missing:
            return ""
        data, last = bytearray(), self.next
        for offset in sorted(self.missing):
            step, last = offset - last, offset
            while step > 127:
                data.append(step & 127 | 128)
                step >>= 7
            data.append(step)
        return f"{self.until}:{base64.b64encode(bytes(data)).decode()}"

    @classmethod
    def of(cls, offset: int, note: str) -> Self:
        """From a committed offset and its metadata; metadata that others wrote says nothing."""
        until, _, text = note.partition(":")
        if not until.isdigit() or not text:
            return cls(offset)
        try:
            distances = base64.b64decode(text, validate=True)
        except ValueError:
            return cls(offset)
        missing, at, step, shift = [], offset, 0, 0
        for byte in distances:
            step |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                at += step
                missing.append(at)
                step = shift = 0
        return cls(int(until), frozenset(missing))


class Replays(Generic[S]):
    """What was answered of each partition that is read again: of all where transactions are used, else of tables alone."""

    def __init__(self, ledger: Ledger[S], intake: Intake) -> None:
        self.ledger = ledger
        self.intake = intake
        self._of: dict[TopicPartition, Answered] = {}

    def covers(self, partition: TopicPartition, offset: int) -> bool:
        """Whether a record was answered before."""
        return partition in self._of and self._of[partition].covers(offset)

    def after(self, partition: TopicPartition, end: int, missing: Iterable[int]) -> Answered:
        """What is answered once everything up to `end` but `missing` is."""
        earlier = self._of.get(partition, Answered(0))
        ahead = {offset for offset in earlier.missing if offset >= end}
        return Answered(max(end, earlier.until), frozenset(missing) | ahead)

    def answered(
        self, ends: Mapping[TopicPartition, int], missing: Mapping[TopicPartition, Iterable[int]]
    ) -> dict[TopicPartition, Answered]:
        """`after` for all partitions."""
        return {partition: self.after(partition, end, missing.get(partition, ())) for partition, end in ends.items()}

    def read_again(self, partition: TopicPartition, end: int, missing: Iterable[int]) -> None:
        """Everything up to `end` but `missing` is committed, and will be read again."""
        self._of[partition] = self.after(partition, end, missing)

    def release(self, partitions: Iterable[TopicPartition]) -> None:
        """Drop partitions that are not ours any more."""
        for partition in partitions:
            self._of.pop(partition, None)

    def find_tables(self, new: Iterable[TopicPartition]) -> None:
        """Learn what was answered of new partitions of tables, which are read whole each time they are assigned."""
        with suppress(KafkaException):  # then what is refused again gets another letter
            self._of |= {p: Answered.of(*found) for p, found in self.intake.committed_notes(new, ANSWER_S).items()}

    def find(self, new: set[TopicPartition], tables: Collection[str], wait: Callable[[], bool]) -> set[TopicPartition]:
        """Learn what was answered of new partitions. Where the states are behind, because a worker died between a transaction
        and the write of its states, read from there. Returns those partitions; all of them if `wait` says to stop."""
        while True:
            try:
                self.ledger.adopt(new)
                watermarks = self.ledger.watermarks()
                known = new - self.ledger.restarted
                committed = {p: Answered.of(*found) for p, found in self.intake.committed_notes(known, ANSWER_S).items()}
                # Marked before the first transaction, or a crash right after it would leave no sign of states behind it.
                self.ledger.mark({p: committed[p].next if p in committed else 0 for p in new - (watermarks.keys() & known)})
            except (StoreUnavailable, KafkaException) as exc:
                log.warning("waiting for the place to start from: %s", exc)
                if wait():
                    return new
                continue
            behind = {p for p, answered in committed.items() if watermarks.get(p, answered.next) < answered.next}
            self._of |= {p: a for p, a in committed.items() if p in behind or p.topic in tables or a.missing}
            for partition in behind:
                self.intake.seek(partition, watermarks[partition])
            return behind


def too_long(answered: Mapping[TopicPartition, Answered]) -> list[TopicPartition]:
    """The partitions whose note a broker may not take."""
    return [partition for partition, found in answered.items() if len(found.note) > MAX_NOTE]
