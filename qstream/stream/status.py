"""Status: what the health pages show of a loop."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Status:
    """A snapshot of a loop.

    `missing_topics` are those that it waits for before it joins its group; `uncommitted` are records that will be delivered
    again after a crash, `waiting` those of them that were read and are not answered yet; `store_error` says why `degraded`;
    `lacks` are the rights on the cluster without which it cannot go on.
    """

    running: bool
    warm: bool
    joined: bool
    degraded: bool
    paused: bool
    partitions: int
    uncommitted: int
    waiting: int
    last_turn_age_s: float
    control_error: str
    missing_topics: tuple[str, ...]
    store_error: str
    lacks: str

    @property
    def ready(self) -> bool:
        """In the group with all rights, which it joins once the store has done all that it needs, and kernels warm; later that
        may be away."""
        return self.running and self.warm and self.joined and not self.lacks
