"""Planning: a plan is begun from a snapshot, computed next to the records, and due at a record; a fault costs that plan."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from qstream.ahead import Ahead
from qstream.errors import Fatal, Transient
from qstream.module.draft import Draft
from schemas.frame import Count, TimeNs

log = logging.getLogger(__name__)
Value = TypeVar("Value")


class Planning(BaseModel):
    """When the newest plan of a key was begun, part of the key's state; the snapshot that it is made of is kept next to it.

    While it is `active` the plan is still to be published. `base_version` was in force when it was begun. `owed` says that a plan
    is wanted at once: if it is refused because another one is waiting to be acknowledged, it is made as soon as that is over.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    active: bool = False
    begun_ns: TimeNs = 0
    base_version: Count = 0
    owed: bool = False

    def may_begin(self, now_ns: int, every_s: float) -> bool:
        """Whether the newest plan was begun long enough ago; a clock that stands still or was wrong ends no planning."""
        since_ns = abs(now_ns - self.begun_ns)
        return since_ns >= every_s * 1e9 or since_ns == 0

    def begun(self, now_ns: int, base_version: int) -> Self:
        """With a new plan, begun at the time of a record."""
        return self.model_copy(update={"active": True, "begun_ns": now_ns, "base_version": base_version})

    def due_ns(self, plan_ms: float) -> int:
        """From when on the plan is published: `plan_ms` after it was begun, by the records' time."""
        return self.begun_ns + int(plan_ms * 1e6)

    def is_due(self, now_ns: int, plan_ms: float) -> bool:
        """Whether there is a plan to be published now."""
        return self.active and now_ns >= self.due_ns(plan_ms)

    def ended(self) -> Self:
        """Without a plan to be published; one that is owed stays so."""
        return self.model_copy(update={"active": False})

    def owing(self, owed: bool) -> Self:
        """With or without a plan that is wanted at once."""
        return self.model_copy(update={"owed": owed})


@dataclass(frozen=True, slots=True, eq=False)
class Planned(Generic[Value]):
    """What a planner made, and how long it took."""

    value: Value
    seconds: float


Prepare = Callable[[], Callable[[], Value]]  # takes what the planner needs of the key's state, and returns the planner


def start(ahead: Ahead[Planned[Value]] | None, key: str, snapshot: Hashable, prepare: Prepare[Value]) -> None:
    """Have a plan computed next to the records, if there is an `ahead`. A fault of `prepare` comes again when it is due."""
    if ahead is not None:
        try:
            ahead.start(key, snapshot, lambda: _timed(prepare()))
        except Exception:
            log.exception("no plan of %r was started", key)


def planned(ahead: Ahead[Planned[Value]] | None, key: str, snapshot: Hashable, prepare: Prepare[Value]) -> Planned[Value]:
    """The plan of a snapshot: computed by `ahead`, or here and now without it.

    Parameters
    ----------
    snapshot
        Stands for all that the plan depends on.
    prepare
        Makes the planner, a pure function, of the key's state as it is now; called only if the plan is not there yet.

    Raises
    ------
    NotYet
        The plan is not ready.
    """
    if ahead is None:
        return _timed(prepare())()
    return ahead.result(key, snapshot, lambda: _timed(prepare()))


def or_skipped(draft: Draft[Any], key: str, publish: Callable[[], Value], skipped: Callable[[], Value]) -> Value:
    """What `publish` gives, with all that it changes; if it fails, what `skipped` gives, and no change.

    An error would come again with the next record, and with each one after it, until the key has no records but dead letters:
    so a fault costs this plan, and the log says which. `Transient` and `Fatal` pass.
    """
    try:
        with draft.atomic():
            return publish()
    except (Fatal, Transient):
        raise
    except Exception:  # any fault of a planner ends here: no record is at fault
        log.exception("planning for %r failed, the plan in force stays", key)
        return skipped()


def _timed(make: Callable[[], Value]) -> Callable[[], Planned[Value]]:
    def run() -> Planned[Value]:
        started = time.perf_counter()
        value = make()
        return Planned(value, time.perf_counter() - started)

    return run
