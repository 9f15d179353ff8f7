"""Isolate: run a processor so that one bad record costs one record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from qstream.contract import Batch, Event, Processor, Record, Result, Tick
from qstream.errors import Fatal, NotYet, Poison, Transient
from qstream.module.commands import process
from qstream.stream.decode import Rejected, reject
from schemas.frame import Frame
from schemas.wording import must_be

log = logging.getLogger(__name__)
S = TypeVar("S", bound=Frame)


@dataclass(eq=False)
class Outcome(Generic[S]):
    """What came of the records of one key.

    `state` is the newest, None where the key has none or has ended. `waits` is the first record that must wait, and why.
    """

    state: S | None
    changed: bool = False
    events: list[Event] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    waits: tuple[Record, Transient] | None = None

    def add(self, later: Outcome[S]) -> None:
        """Take what came of the records that follow; `waits` stays."""
        if later.changed:
            self.state, self.changed = later.state, True
        self.events += later.events
        self.rejected += later.rejected


GiveUp = Callable[[Record], bool]
Admit = Callable[[str, Frame | None, Frame], None]


def _admit_all(_key: str, _before: Frame | None, _after: Frame) -> None:
    return


def isolate(
    processor: Processor[S],
    key: str,
    records: Sequence[Record],
    state: S | None,
    give_up: GiveUp,
    admit: Admit = _admit_all,
) -> Outcome[S]:
    """Process the records in order. A poisonous record becomes a dead letter, and the others are processed without it.

    On an unexpected exception the batch is halved until the record at fault stands alone. Processing stops at the first
    record that raises `Transient`, unless `give_up` says that it has waited long enough (`NotYet` never has); `Fatal` passes
    through. `admit` raises `StateLimit` for a new state that outgrows a setting, which is a fault of the record as well.
    """
    outcome = Outcome(state)
    _run(processor, key, list(records), outcome, give_up, admit)
    return outcome


def isolate_tick(processor: Processor[S], tick: Tick, state: S) -> Result[S]:
    """The result of a tick, an empty one where it raises anything but `Fatal`: the log says so, and the next tick follows."""
    try:
        return _checked(processor.on_tick(tick, state))
    except Fatal:
        raise
    except NotYet:
        return Result()
    except Exception:  # any fault of a module ends here: no record is at fault that could become a dead letter
        log.exception("%s: the tick of %s failed", processor.name, tick.key)
        return Result()


def _run(processor: Processor[S], key: str, records: list[Record], outcome: Outcome[S], give_up: GiveUp, admit: Admit) -> None:
    while records and outcome.waits is None:
        now_ns = max(record.timestamp_ms for record in records) * 1_000_000
        try:
            result = _checked(process(processor, Batch(key, records), outcome.state, now_ns))
            if result.state is not None and result.state is not outcome.state:
                admit(key, outcome.state, result.state)
        except Poison as poison:
            if poison.record not in records:
                raise Fatal(f"{processor.name}: Poison names a record that is not in the batch: {poison.reason}") from poison
            outcome.rejected.append(reject(_named(poison), poison, "process"))
            records = [record for record in records if record is not poison.record]
        except Fatal:
            raise
        except Exception as error:  # noqa: BLE001 the one place where any fault of a module ends: as a dead letter
            if len(records) > 1:
                middle = len(records) // 2
                _run(processor, key, records[:middle], outcome, give_up, admit)
                records = records[middle:]
            elif isinstance(error, NotYet) or (isinstance(error, Transient) and not give_up(records[0])):
                outcome.waits = (records[0], error)
            else:
                outcome.rejected.append(reject(records[0], error, "process"))
                return
        else:
            _add(outcome, result)
            return


def _checked(result: Result[S]) -> Result[S]:
    """The result, where what comes after can use it: a wrong one is a fault of the module at these records, and of no others.

    Raises
    ------
    TypeError
        It is not a `Result` with a sequence of events, or an event's frame is not of its topic's class.
    """
    if not isinstance(result, Result) or not isinstance(result.events, Sequence):
        raise TypeError(must_be("what a processor returns", "a Result with a sequence of events", result))
    for event in result.events:
        if not isinstance(event.frame, event.topic.frame):
            raise TypeError(must_be(f"the frame of event {event.id}", f"a {event.topic.frame.__name__}", event.frame))
    return result


def _add(outcome: Outcome[S], result: Result[S]) -> None:
    outcome.events += result.events
    outcome.rejected += [reject(_named(poison), poison, "process") for poison in result.dead]
    if result.state is not None or result.forget:
        outcome.state = result.state
        outcome.changed = True


def _named(poison: Poison) -> Record:
    if not isinstance(poison.record, Record):
        raise Fatal(f"Poison must name a Record, got {type(poison.record).__name__}")
    return poison.record
