"""Plan: what the plans of all modules say, and the closed lists of reasons why one keeps, begins or falls back."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from schemas.frame import Count, Frame, TimeNs
from schemas.solver import Reason, SolverRecord

# The longest: of a record on a topic with a name of 249 letters, or of a tick of a key of 200.
EventId = Annotated[str, StringConstraints(min_length=1, max_length=320)]


class SkipReason(StrEnum):
    """Why the plan in force stays; a closed list, fit for a metric's label."""

    GAIN_TOO_SMALL = "gain_too_small"  # another plan would win less than the module's options ask for
    NOT_ACKNOWLEDGED = "not_acknowledged"  # no consumer has said yet that it has applied the newest plan
    SUPERSEDED = "superseded"  # another version came into force while this one was planned
    NO_ANSWER = "no_answer"  # none of the solvers that were asked for answered; `fallback_reason` says why
    SINGLE_TIER = "single tier, nothing blocks"  # every GPU reaches every other alike: any order of ranks is as good
    TOO_FEW_GPUS = "too_few_gpus"  # more ranks than free GPUs; capacity may return
    PLANNING_FAILED = "planning_failed"  # the planner raised an error, which is in the agent's log


class ResetReason(StrEnum):
    """Why a plan starts over, so that its `base_version` says nothing; a closed list."""

    TOPOLOGY_CHANGED = "topology_changed"
    CAPACITY_MISSING = "capacity_missing"  # some GPUs have no capacity from the beginning


class Plan(Frame):
    """What a module decided, when, and how it was found.

    `ts_ns` is the time of the record or tick that the plan was published with. It may be applied until `ttl_s` seconds after
    that, or without limit if there is no `ttl_s`. `fallback_reason` says why a requested solver did not answer.
    """

    OUTCOMES: ClassVar[tuple[str, ...]] = ("published",)  # all that `outcome` may be

    plan_id: EventId = Field(description="id of the plan, equal to that of its event")
    ts_ns: TimeNs = Field(description="time of the record or tick that the plan was published with, ns since 1970")
    ttl_s: float | None = Field(
        default=None, gt=0, description="seconds after `ts_ns` until which the plan may be applied; none: without limit"
    )
    solver: SolverRecord = Field(strict=False, description="which solver answered, and what the answer is worth")
    fallback_reason: Reason | None = Field(
        default=None, strict=False, description="why a solver that was asked for did not answer"
    )

    def expired(self, now_ns: int) -> bool:
        """Whether the plan must not be applied any more at `now_ns`, in ns since 1970."""
        return self.ttl_s is not None and now_ns > self.ts_ns + int(self.ttl_s * 1e9)

    @property
    def outcome(self) -> str:
        """``published``, for a metric's label."""
        return "published"


class VersionedPlan(Plan):
    """A plan that replaces the one before it, `base_version`; both versions are equal if it is skipped.

    Versions rise even if the agent loses its state, and are near the time in ms.
    """

    OUTCOMES: ClassVar[tuple[str, ...]] = ("published", "reset", *SkipReason)

    version: Count = Field(description="version that is in force once the plan is applied")
    base_version: Count = Field(description="version that the plan replaces; equal to `version` if it is skipped")
    skip_reason: SkipReason | None = Field(default=None, strict=False, description="why the plan in force stays")
    reset_reason: ResetReason | None = Field(default=None, strict=False, description="why this plan starts over")

    @property
    def outcome(self) -> str:
        """``published``, ``reset``, or the reason why it is skipped."""
        if self.skip_reason is not None:
            return str(self.skip_reason)
        return "published" if self.reset_reason is None else "reset"
