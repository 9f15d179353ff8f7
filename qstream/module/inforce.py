"""Which version of a plan is in force, and which one is proposed and waits to be acknowledged."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict

from schemas.frame import Count, TimeNs

TIME_MAX_MS = 9 * 10**12  # in the year 2255; in ns still an int64


class InForce(BaseModel):
    """Versions of one key's plans, part of its state. What the versions stand for is kept next to it.

    `proposed_version` is the newest one that was published, at `proposed_ns`; it waits while it is above `version`, the one
    in force.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    version: Count = 0
    proposed_version: Count = 0
    proposed_ns: TimeNs = 0

    @property
    def waiting(self) -> bool:
        """Whether a proposed version is not acknowledged."""
        return self.proposed_version > self.version

    def next_version(self, now_ns: int) -> int:
        """Above all versions so far, and above those before a loss of the state: the time in ms where that is higher."""
        now_ms = now_ns // 1_000_000
        return max(self.version + 1, self.proposed_version + 1, now_ms if now_ms < TIME_MAX_MS else 0)

    def proposed(self, version: int, now_ns: int) -> Self:
        """With a version that is in force once it is acknowledged."""
        return self.model_copy(update={"proposed_version": version, "proposed_ns": now_ns})

    def acknowledged(self) -> Self:
        """With the proposed version in force."""
        return self.model_copy(update={"version": self.proposed_version})

    def holds_up(self, now_ns: int, ttl_s: float) -> bool:
        """Whether a proposed version may still be acknowledged, so that no other should be proposed: for `ttl_s` seconds.

        A clock that is wrong, once, by more than that in either direction does not hold up plans for ever.
        """
        return self.waiting and abs(now_ns - self.proposed_ns) <= ttl_s * 1e9

    def held_until_ns(self, ttl_s: float) -> int:
        """When the proposed version ends to hold up others, if it is not acknowledged."""
        return self.proposed_ns + int(ttl_s * 1e9)
