"""Stamp: the name, time and cause of an event, be it of a record or of a tick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from qstream.contract import Record, Tick
from qstream.module.inforce import TIME_MAX_MS


@dataclass(frozen=True, slots=True, eq=False)
class Stamp:
    """Whose an event is, its id and time, and the record that caused it."""

    key: str
    id: str
    ts_ns: int
    cause: Record | None

    @classmethod
    def of(cls, record: Record, n: int) -> Self:
        """The n-th event of a record."""
        return cls(record.key, record.event_id(n), event_ns(record), record)

    @classmethod
    def of_tick(cls, tick: Tick, n: int) -> Self:
        """The n-th event of a tick."""
        return cls(tick.key, tick.event_id(n), tick.now_ns, None)


def event_ns(record: Record) -> int:
    """The time of a record in ns, within what int64 holds."""
    return min(max(record.timestamp_ms, 0), TIME_MAX_MS) * 1_000_000
