"""Verify: compare what a run under faults left behind with what a run without faults leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from qstream.contract import Processor, Record
from qstream.testing.feed import Feed
from schemas.frame import Frame

S = TypeVar("S", bound=Frame)
_SHOWN: Final = 5


class Produced(NamedTuple):
    """One event as a consumer sees it."""

    id: str
    key: str
    value: bytes
    topic: str = ""


@dataclass(frozen=True, eq=False)
class Run:
    """All that is left of a run: events in the order of each partition, ids of dead-lettered records, states by key."""

    events: Sequence[Produced] = ()
    dead_letters: Sequence[str] = ()
    states: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What differs between two runs: ids of events and of records, or keys. Repetition alone is not a fault.

    `lost`: events that never came. `unrecognised`: events that no input explains, so that no consumer could know what they
    repeat. `changed`: events with an expected id and other bytes or another key. `out_of_order`: events whose first
    appearance stands behind one that should follow it, of the same key and caused by records of the same partition. `repeated`
    and `repeated_dead_letters` count appearances after the first.
    """

    expected: int
    lost: tuple[str, ...] = ()
    unrecognised: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    out_of_order: tuple[str, ...] = ()
    missing_dead_letters: tuple[str, ...] = ()
    unexpected_dead_letters: tuple[str, ...] = ()
    state_differences: tuple[str, ...] = ()
    repeated: int = 0
    repeated_dead_letters: int = 0

    @property
    def faults(self) -> dict[str, tuple[str, ...]]:
        """What was found, by kind."""
        kinds = (
            "lost",
            "unrecognised",
            "changed",
            "out_of_order",
            "missing_dead_letters",
            "unexpected_dead_letters",
            "state_differences",
        )
        return {kind: found for kind in kinds if (found := getattr(self, kind))}

    @property
    def ok(self) -> bool:
        """Whether everything is there, and everything repeated is recognisable."""
        return not self.faults

    def __str__(self) -> str:
        repeated = f"repeated {self.repeated}, dead letters repeated {self.repeated_dead_letters}"
        lines = [f"{'ok' if self.ok else 'FAULTY'}: {self.expected} events expected, {repeated}"]
        for kind, found in self.faults.items():
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            lines.append(f"  {len(found)} {kind.replace('_', ' ')}: {', '.join(found[:_SHOWN])}{more}")
        return "\n".join(lines)


def fault_free(processor: Processor[S], records: Iterable[Record], poison: Collection[str]) -> Run:
    """What must be left of `records`, in order within a key: they are folded one by one, those of `poison` passed over.

    Parameters
    ----------
    poison
        Ids of the records that must become dead letters, among them those that no `Record` could be made of.
    """
    feed = Feed(processor)
    keys = set()
    for record in records:
        if record.id not in poison:
            feed.send_batch([record])
            keys.add(record.key)
            if (reason := feed.waiting(record.key)) is not None:
                raise reason
    events = [
        Produced(event.id, event.key, event.frame.encode(event.topic.content_type), event.topic.name) for event in feed.events
    ]
    states = {key: state.encode() for key in keys if (state := feed.state(key)) is not None}
    return Run(events, sorted(poison), states)


def verify(expected: Run, found: Run, open_order: bool = False) -> Verdict:
    """Judge `found` by `expected`. The events of one key must lie on one partition, as a partitioner by key sees to.

    With `open_order` the key's records came by several topics, between which no order holds: an attempt that died may have
    published events in another order than the one that was kept. Then each event must be there as expected, what else the same
    record caused is a repetition, and the first event of a record stands for all: the other attempt may have made fewer.
    """
    wanted = {event.id: event for event in expected.events}
    seen = Counter(event.id for event in found.events)
    kept = {event.id for event in found.events if event == wanted.get(event.id)} if open_order else set()
    known = {_cause(event_id) for event_id in kept}
    dead = Counter(found.dead_letters)
    keys = expected.states.keys() | found.states.keys()
    return Verdict(
        expected=len(wanted),
        lost=tuple(event_id for event_id in wanted if event_id not in seen),
        unrecognised=tuple(name for name in seen if name not in wanted and _cause(name) not in known),
        changed=tuple(dict.fromkeys(one.id for one in found.events if one != wanted.get(one.id, one) and one.id not in kept)),
        out_of_order=_out_of_order(expected.events, found.events, open_order),
        missing_dead_letters=tuple(sorted(set(expected.dead_letters) - dead.keys())),
        unexpected_dead_letters=tuple(sorted(dead.keys() - set(expected.dead_letters))),
        state_differences=tuple(sorted(key for key in keys if expected.states.get(key) != found.states.get(key))),
        repeated=seen.total() - len(seen),
        repeated_dead_letters=dead.total() - len(dead),
    )


def _out_of_order(expected: Sequence[Produced], found: Sequence[Produced], by_record: bool) -> tuple[str, ...]:
    """Ids that appear first behind a later one, as a consumer that keeps the first of each id sees it; or so of the records."""
    place: dict[str, int] = {}
    for i, event in enumerate(expected):
        place.setdefault(_cause(event.id) if by_record else event.id, i)
    newest: dict[tuple[str, str, str], int] = {}
    seen: set[str] = set()
    late = []
    for event in found:
        name, topic = (_cause(event.id), "") if by_record else (event.id, event.topic)
        at = place.get(name)
        if at is None or name in seen:
            continue
        seen.add(name)
        lane = event.key, topic, event.id.rsplit("/", 2)[0]
        if at < newest.get(lane, -1):
            late.append(event.id)
        newest[lane] = max(at, newest.get(lane, -1))
    return tuple(late)


def _cause(event_id: str) -> str:
    """The record that caused an event."""
    return event_id.rpartition("/")[0]
