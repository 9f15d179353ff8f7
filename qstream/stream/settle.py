"""Settle: states first, offsets after; what a moved-on state has not seen is read again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Generic, TypeVar

from confluent_kafka import Message

from qstream.config import Settings
from qstream.contract import TopicPartition
from qstream.errors import StoreRefused, StoreUnavailable
from qstream.metrics import DEGRADED, RESTARTED
from qstream.stream.commit import Ledger
from qstream.stream.consume import ANSWER_S, FROM_START, Intake
from qstream.stream.identity import Identities
from qstream.stream.places import came_from
from qstream.stream.replay import Replays
from qstream.stream.stall import Stall
from qstream.stream.wait import FIRST_RETRY_S, Waiting
from schemas.frame import Frame

log = logging.getLogger(__name__)
S = TypeVar("S", bound=Frame)


class Settling(Generic[S]):
    """Makes durable what turns and ticks have processed.

    Attributes
    ----------
    degraded
        The store does not answer or refuses: states go on from memory, and their offsets are not committed.
    fault
        Why; None while it answers.
    stalled
        So many records are uncommitted that nothing more may be read before the store answers.
    """

    def __init__(
        self,
        settings: Settings,
        intake: Intake,
        ledger: Ledger[S],
        waiting: Waiting,
        replays: Replays[S],
        identities: Identities,
        transactional: bool,
    ) -> None:
        self.max_uncommitted = settings.max_uncommitted_records
        self.intake = intake
        self.ledger = ledger
        self.waiting = waiting
        self.replays = replays
        self.transactional = transactional
        self.identities = identities
        self._stall = Stall(identities)
        self.degraded = self.stalled = False
        self.fault: StoreUnavailable | None = None

    def store_answers(self) -> bool:
        """Whether the store does all that an agent asks of it; only asked where it has not yet, or has failed."""
        try:
            self.ledger.check()
        except StoreUnavailable as exc:
            self._note_fault(exc)
        else:
            self._note_fault(None)
        return not self.degraded

    def settle(self) -> None:
        """Write the changed states, then commit up to the first record that is not answered or whose state is not written."""
        try:
            again = self.ledger.save()
        except StoreUnavailable as exc:
            self._note_fault(exc)
            self.stalled = self.ledger.uncommitted >= self.max_uncommitted
            return
        self._note_fault(None)
        self._read_again(again)
        offsets = self.ledger.committable({p: min(offsets) for p, offsets in self.waiting.missing().items()})
        if not self.transactional:
            self.ledger.passed.clear()
        if not offsets:
            return
        if self.transactional:
            # The transaction has committed the offsets already: note how far the states have followed.
            try:
                self.ledger.mark(offsets)
            except StoreUnavailable:
                return
        else:
            self.intake.commit(offsets)
        self.ledger.handed_over(offsets)

    def follow_assignment(self, messages: list[Message], tables: Collection[str], stopped: Callable[[], bool]) -> list[Message]:
        """Drop what was lost and fence what is new; a partition that cannot be taken over yet is read again later."""
        if changed := self.identities.changes():
            self._join_again(changed)
            messages = []
        elif not messages and self._is_stalled():
            self.intake.join_again(())
        new, lost = self.intake.changes()
        self.replays.release(lost)
        self.waiting.drop(lost)
        moved = self.ledger.release(lost)
        self._read_again(moved)
        self._find_logs(new)
        if self.transactional and new:
            moved |= self.replays.find(new, tables, stopped)
        elif read_whole := {partition for partition in new if partition.topic in tables}:
            self.replays.find_tables(read_whole)
        moved |= self._read_from_start(self.ledger.restarted)
        # A compacted input is a table: whatever the group has committed, all of it is read; states skip what they have seen.
        for partition in [partition for partition in new if partition.topic in tables]:
            self.intake.seek(partition, FROM_START)
            moved.add(partition)
        return [message for message in messages if came_from(message) not in moved] if moved else messages

    def _is_stalled(self) -> bool:
        """Whether the client has stopped fetching what goes on."""
        self._stall.next = self.intake.reads(self.ledger.positions)
        return bool(self._stall.found(lambda: self._stall.next))

    def _join_again(self, changed: Mapping[str, str]) -> None:
        """Begin as a worker that was just started: who takes over a partition of these topics finds that it is another log."""
        log.warning("%s: created again; the worker leaves its group and joins it again", ", ".join(sorted(changed)))
        self.ledger.identities = {**self.ledger.identities, **changed}
        replaced = {partition for partition in self.intake.assigned if partition.topic in changed}
        if self.ledger.store is None:  # which is what remembers logs
            self._say_restarted(replaced)
        self.intake.join_again(replaced)

    def _find_logs(self, new: set[TopicPartition]) -> None:
        """Fence what is new, and learn which log it is."""
        if new:
            self.ledger.identities = {**self.ledger.identities, **self.identities.ask(ANSWER_S)}
        try:
            self.ledger.adopt(new)
        except StoreUnavailable as exc:
            log.debug("epochs are taken later: %s", exc)

    def _say_restarted(self, partitions: set[TopicPartition]) -> None:
        for partition in sorted(partitions):
            log.warning("%s is another log than before: its topic was created again or restored; read from its start", partition)
            RESTARTED.labels(self.ledger.agent, partition.topic).inc()

    def _read_from_start(self, partitions: set[TopicPartition]) -> set[TopicPartition]:
        """Begin again with logs that are not those of the stored offsets."""
        self._say_restarted(partitions)
        self.intake.seek_all(dict.fromkeys(partitions, FROM_START))
        if partitions:
            self.waiting.drop(partitions)
            self.replays.release(partitions)
            self.ledger.read_from_start(partitions)
            self.intake.commit(dict.fromkeys(partitions, 0))
            if self.transactional:
                with suppress(StoreUnavailable):
                    self.ledger.mark(dict.fromkeys(partitions, 0))
        return partitions

    def _read_again(self, partitions: set[TopicPartition]) -> None:
        """Process again what a moved-on state has not seen; what a transaction has committed is not emitted twice."""
        again = self.ledger.drop_states(partitions)
        missing = self.waiting.missing() if again else {}
        for partition in again:
            durable, position = self.ledger.durable[partition], self.ledger.positions[partition]
            if self.transactional:
                self.replays.read_again(partition, position, missing.get(partition, ()))
            self.ledger.positions[partition] = durable
            self.intake.hold(partition, durable, FIRST_RETRY_S)
        self.waiting.drop(again)

    def _note_fault(self, fault: StoreUnavailable | None) -> None:
        """Say what is wrong when it begins and when it changes: an absence passes, a refusal needs somebody to act."""
        if fault is None:
            if self.degraded:
                log.warning("the state store answers again")
        elif _kind(fault) != _kind(self.fault):
            going_on = "going on from memory" if self.ledger.positions else "nothing is read before it does"
            if isinstance(fault, StoreRefused):
                log.error("the state store refuses what the agent needs: %s (%s)", fault, going_on)
            else:
                log.warning("the state store does not answer: %s (%s)", fault, going_on)
        self.fault, self.degraded = fault, fault is not None
        self.stalled = self.stalled and self.degraded
        DEGRADED.labels(self.ledger.agent).set(self.degraded)


def _kind(fault: StoreUnavailable | None) -> tuple[object, str]:
    """What of a fault is worth another line in the log."""
    return type(fault), fault.demand if isinstance(fault, StoreRefused) else ""
