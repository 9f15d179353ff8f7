"""Answer: run the records of a batch through the processor, key by key, as far as one turn has time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from qstream.contract import Processor, Record
from qstream.errors import StoreUnavailable, Transient
from qstream.stream.commit import Ledger
from qstream.stream.isolate import Outcome, isolate
from schemas.frame import Frame

S = TypeVar("S", bound=Frame)
PARTS = 4  # a long batch of one key is processed in as many parts as a turn has time for, or more
FIRST_PART = 16  # records, before it is known how long one takes
MEMORY = 0.8  # weight of what was known about the time of a record, when it is measured again


@dataclass(eq=False)
class Answer(Generic[S]):
    """What came of the records of one key: the outcome of those `answered`, those `left`, and which of these must wait."""

    outcome: Outcome[S]
    answered: list[Record] = field(default_factory=list)
    left: list[Record] = field(default_factory=list)
    waits: list[tuple[Record, Transient]] = field(default_factory=list)


class Pace:
    """How long a turn may take in the module, and how many records fit into a part of that."""

    def __init__(self, turn_s: float) -> None:
        self.turn_s = turn_s
        self._record_s: float | None = None
        self._until = 0.0

    def start(self) -> None:
        """A turn begins."""
        self._until = time.monotonic() + self.turn_s

    def is_over(self) -> bool:
        """Whether the turn has had its time."""
        return time.monotonic() >= self._until

    def part(self) -> int:
        """Records to process together."""
        if self._record_s is None:
            return FIRST_PART
        return max(1, int(self.turn_s / PARTS / max(self._record_s, 1e-9)))

    def note(self, records: int, seconds: float) -> None:
        """Learn from a part."""
        each_s = seconds / records
        self._record_s = each_s if self._record_s is None else MEMORY * self._record_s + (1 - MEMORY) * each_s


def answer_all(
    processor: Processor[S],
    ledger: Ledger[S],
    groups: dict[str, list[Record]],
    give_up: Callable[[Record], bool],
    pace: Pace,
) -> dict[str, Answer[S]]:
    """Answers by key. At least one part is processed; what the turn has no time for is left."""
    pace.start()
    answers: dict[str, Answer[S]] = {}
    for key, records in groups.items():
        if answers and pace.is_over():
            answers[key] = Answer(Outcome(None), left=records)
        else:
            answers[key] = _answer(processor, ledger, key, records, give_up, pace)
    return answers


def _answer(
    processor: Processor[S],
    ledger: Ledger[S],
    key: str,
    records: list[Record],
    give_up: Callable[[Record], bool],
    pace: Pace,
) -> Answer[S]:
    """A record that must wait holds back the later ones of its partition; those of other partitions go on."""
    try:
        ledger.adopt({record.origin for record in records})
        todo = ledger.unseen(key, records)
        answer = Answer(Outcome(ledger.entry(key).state))
    except StoreUnavailable as exc:
        firsts = {record.origin: record for record in reversed(records)}
        return Answer(Outcome(None), left=records, waits=[(record, exc) for record in firsts.values()])
    while todo:
        part, todo = todo[: pace.part()], todo[pace.part() :]
        started = time.monotonic()
        outcome = isolate(processor, key, part, answer.outcome.state, give_up, ledger.admit)
        pace.note(len(part), time.monotonic() - started)
        answer.outcome.add(outcome)
        if outcome.waits is not None:
            first, _ = outcome.waits
            rest = [*part[part.index(first) :], *todo]
            part = part[: part.index(first)]
            answer.waits.append(outcome.waits)
            answer.left += [record for record in rest if record.origin == first.origin]
            todo = [record for record in rest if record.origin != first.origin]
        answer.answered += part
        if todo and pace.is_over():
            answer.left += todo
            return answer
    return answer
