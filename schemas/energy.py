"""EnergyPlan and EnergyAck: the targets of each GPU, and what the actuator of a node made of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from schemas.frame import Axes, Count, Frame, Name, Names, TimeNs, require
from schemas.names import require_count, require_distinct
from schemas.part import Part
from schemas.plan import EventId, VersionedPlan
from schemas.solver import SolverRecord
from schemas.wording import Shown, must_be

Status = Literal["optimal", "feasible", "infeasible"]
Mode = Literal["dry_run", "recommend", "apply"]
AckResult = Literal["ok", "clamped", "denied", "unsupported", "lost", "expired", "refused"]
Targets = Annotated[NDArray[np.float32], Axes("targets")]
Horizons = Annotated[NDArray[np.float32], Axes("horizons")]
ACTIVE, PARKED, RELEASED = 0, 1, 2  # values of `state`


class TargetReason(StrEnum):
    """Why a GPU has the target that it has; a closed list, fit for a metric's label."""

    DEFAULT = "default"  # nothing is known that would save
    ACCEPTED = "accepted"  # a cap whose time and power were measured
    PROBE = "probe"  # a cap that is being measured
    BUDGET = "budget"  # a power budget asks for it
    SIMPLE = "simple"  # the rule for a node alone
    HELD = "held"  # its readings are stale, or its last change is too recent
    LOST = "lost"  # it has not been heard for long: back to the default
    THERMAL = "thermal"  # it is too hot, or its hardware slows it: never raised
    PARKED = "parked"  # no work, or no budget for it


Reasons = Annotated[TargetReason, Field(strict=False)]


class EnergyScore(Part):
    """What a plan is expected to do, and what the simple scheduler's would."""

    saved_w: float = Field(description="watts less than without caps, at equal work")
    saved_ratio: float = Field(le=1, description="the same over the watts without caps")
    slowdown_worst: float = Field(ge=0, description="of the GPU that is slowed most: 0.05 takes 5 % longer")
    peak_upper_w: float = Field(ge=0, description="watts that the domain cannot pass under this plan")
    simple_saved_w: float = Field(default=0.0, description="`saved_w` of the simple scheduler")
    simple_saved_ratio: float = Field(default=0.0, le=1, description="`saved_ratio` of the simple scheduler")
    simple_slowdown_worst: float = Field(default=0.0, ge=0, description="`slowdown_worst` of the simple scheduler")
    simple_peak_upper_w: float = Field(default=0.0, ge=0, description="`peak_upper_w` of the simple scheduler")


class EnergyPlan(VersionedPlan):
    """The power limit, clock cap and state that each target should have, until `ts_ns` + `ttl_s`.

    A target is a whole state, never a difference: what a plan does not name keeps its default. An actuator takes a plan only if
    its (`fence`, `version`) is higher than of the one before. The plan is a proposal: the actuator may refuse. Its own defaults
    come back when the plan is over. In ``dry_run`` and ``recommend`` nothing is set.
    """

    domain: Name = Field(description="the power domain that the plan covers")
    ttl_s: float = Field(gt=0, description="seconds after `ts_ns` at which every target returns to its default")
    solver: SolverRecord = Field(
        default=SolverRecord(solver="given"), strict=False, description="which solver answered, and what the answer is worth"
    )
    base_version: Count = Field(default=0, description="version that the plan replaces; equal to `version` if it is skipped")
    fence: Count = Field(description="rises when another agent takes over; a plan of a lower fence is refused")
    mode: Mode = Field(description="dry_run: nothing is set; recommend: for people; apply: actuators set it")
    status: Status = Field(default="feasible", description="infeasible: budgets cannot be kept, by `missing_w`")
    uuid: Names = Field(description="the targets, each once")
    reason: Annotated[tuple[Reasons, ...], Field(strict=False, fail_fast=True)] = Field(
        default=(), description="reasons, which `reason_of` points to"
    )
    expected: EnergyScore | None = Field(default=None, strict=False, description="what the plan should save, and the simple one")
    missing_w: float = Field(default=0.0, ge=0, description="watts by which the least that can be set passes the budget")
    active_gpus: Count = Field(
        default=0, description="GPUs that are neither parked nor released, without those of replicas that are not needed"
    )
    active_nodes: Count = Field(default=0, description="nodes with an active GPU")
    active_qpus: Count = Field(default=0, description="quantum processors that are needed")
    served: Names = Field(default=(), description="served models, which `active_replicas` counts")
    progress: float = Field(default=0.0, ge=0, le=1, description="part of the targets whose progress is measured")
    drawn_w: float = Field(default=0.0, ge=0, description="watts drawn by the newest readings, and the nodes' overheads")
    stale_gpus: Count = Field(default=0, description="GPUs of the domain without recent readings")
    acks: dict[AckResult, Count] = Field(
        default_factory=dict, description="targets acknowledged since the plan before, by result; without dry runs"
    )
    budget_of: Names = Field(default=(), description="domain, inner budgets and nodes that have a budget")
    power_limit_w: Targets = Field(description="power limit; -1: its default, which the plan does not set")
    sm_clock_mhz: Targets = Field(description="cap of the SM clock, MHz; -1: none, which the plan does not set")
    state: Annotated[NDArray[np.uint8], Axes("targets")] | None = Field(
        default=None, description="0 active, 1 parked, 2 released; absent: all active"
    )
    reason_of: Annotated[NDArray[np.int32], Axes("targets")] | None = Field(default=None, description="index of `reason`")
    predicted_w: Targets | None = Field(default=None, description="watts to expect")
    upper_w: Targets | None = Field(default=None, description="watts that are charged to the budgets")
    slowdown: Targets | None = Field(default=None, description="expected slowdown; -1 unknown")
    active_replicas: Annotated[NDArray[np.int32], Axes("served")] | None = Field(
        default=None, description="replicas to keep active of each served model"
    )
    nvlink_mode: Annotated[NDArray[np.int8], Axes("targets")] | None = Field(
        default=None, description="advice: 0 full, 1 three quarters, 2 half, 3 least, 4 off; -1 none"
    )
    horizon_s: Annotated[NDArray[np.int32], Axes("horizons")] | None = Field(
        default=None, description="seconds ahead, of each forecast"
    )
    forecast_w: Horizons | None = Field(default=None, description="watts of the domain in the mean of so many next seconds")
    forecast_upper_w: Horizons | None = Field(default=None, description="watts that their maximum should not exceed")
    forecast_error: Horizons | None = Field(
        default=None, description="error of such forecasts in the last minutes over that of the last value; -1 not known yet"
    )
    forecast_coverage: Horizons | None = Field(
        default=None, description="part of the maxima in the last minutes that were not above their bound; -1 not known yet"
    )
    simple_power_limit_w: Targets | None = Field(default=None, description="`power_limit_w` of the simple scheduler")
    simple_sm_clock_mhz: Targets | None = Field(default=None, description="`sm_clock_mhz` of the simple scheduler")
    budget_w: Annotated[NDArray[np.float64], Axes("budgets")] | None = Field(default=None, description="watts of each budget")
    planned_w: Annotated[NDArray[np.float64], Axes("budgets")] | None = Field(
        default=None, description="watts charged to each budget, overhead included"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require_distinct(self, "uuid")
        require_count(self, "power_limit_w", len(self.uuid), "the targets")
        for field in ("budget_w", "planned_w"):
            require_count(self, field, len(self.budget_of), "budget_of")
        require_count(self, "active_replicas", len(self.served), "served")
        require(self, "active_replicas", 0)
        require(self, "state", 0, RELEASED)
        require(self, "reason_of", 0, len(self.reason) - 1, f"0 to {len(self.reason) - 1}, an index of reason")
        require(self, "nvlink_mode", -1, 4)
        for field in ("power_limit_w", "sm_clock_mhz"):
            array = getattr(self, field)
            if (bad := (array <= 0) & (array != -1)).any():
                at = int(bad.argmax())
                raise ValueError(must_be(f"{field} of {self.uuid[at]}", "above 0, or -1", Shown(f"{float(array[at]):g}")))
        return self

    @property
    def parked(self) -> tuple[str, ...]:
        """The GPUs that are parked."""
        return () if self.state is None else tuple(self.uuid[int(at)] for at in np.flatnonzero(self.state == PARKED))

    @classmethod
    def example(cls) -> Self:
        return cls(
            domain="row-1",
            plan_id="qstream.gpu.telemetry.v1/3/17/0",
            ts_ns=1_700_000_000_000_000_000,
            ttl_s=30.0,
            version=4,
            base_version=3,
            fence=1,
            mode="apply",
            status="optimal",
            solver=SolverRecord(solver="hull-greedy", n=2, objective=1.9375, bound=1.9375),
            uuid=("GPU-0", "GPU-1"),
            reason=(TargetReason.ACCEPTED, TargetReason.BUDGET),
            expected=EnergyScore(
                saved_w=90.0, saved_ratio=0.125, slowdown_worst=0.0625, peak_upper_w=750.0, simple_peak_upper_w=1400.0
            ),
            active_gpus=2,
            active_nodes=1,
            served=("chat",),
            active_replicas=np.array([2], np.int32),
            progress=1.0,
            drawn_w=655.0,
            acks={"ok": 2},
            budget_of=("row-1", "node-0"),
            power_limit_w=np.array([400, 350], np.float32),
            sm_clock_mhz=np.array([1590, -1], np.float32),
            state=np.zeros(2, np.uint8),
            reason_of=np.array([0, 1], np.int32),
            predicted_w=np.array([300, 330], np.float32),
            upper_w=np.array([400, 350], np.float32),
            slowdown=np.array([0.03125, 0.0625], np.float32),
            nvlink_mode=np.array([-1, -1], np.int8),
            horizon_s=np.array([1, 10], np.int32),
            forecast_w=np.array([905, 912], np.float32),
            forecast_upper_w=np.array([920, 961], np.float32),
            forecast_error=np.array([0.75, 0.6875], np.float32),
            forecast_coverage=np.array([0.953125, 0.9375], np.float32),
            simple_power_limit_w=np.array([700, 700], np.float32),
            simple_sm_clock_mhz=np.array([-1, -1], np.float32),
            budget_w=np.array([1000, 900], np.float64),
            planned_w=np.array([900, 900], np.float64),
        )


class EnergyAck(Frame):
    """What the actuator of one node made of a plan, and what the hardware enforces since then."""

    domain: Name = Field(description="the power domain of the node")
    ts_ns: TimeNs = Field(description="when it was done, ns since 1970")
    node: Name = Field(description="the node whose actuator speaks")
    plan_id: EventId = Field(description="the plan that was taken, refused or is over")
    dry_run: bool = Field(default=False, description="nothing was set")
    detail: str = Field(default="", max_length=500, description="why a whole plan was refused, or what is wrong on the node")
    uuid: Names = Field(description="the plan's targets on this node, each once")
    result: Annotated[tuple[AckResult, ...], Field(strict=False, fail_fast=True)] = Field(
        description="ok, clamped, denied, unsupported, lost, expired or refused, of each target"
    )
    applied_limit_w: Annotated[NDArray[np.float32], Axes("gpus")] = Field(description="power limit that was set; -1 none")
    enforced_limit_w: Annotated[NDArray[np.float32], Axes("gpus")] = Field(
        description="power limit that was read back; -1 unknown"
    )
    applied_clock_mhz: Annotated[NDArray[np.float32], Axes("gpus")] = Field(description="clock cap that was set; -1 none")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require_distinct(self, "uuid")
        for field in ("result", "applied_limit_w"):
            require_count(self, field, len(self.uuid), "the GPUs")
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            domain="row-1",
            ts_ns=1_700_000_000_400_000_000,
            node="node-0",
            plan_id="qstream.gpu.telemetry.v1/3/17/0",
            uuid=("GPU-0", "GPU-1"),
            result=("ok", "clamped"),
            applied_limit_w=np.array([400, 350], np.float32),
            enforced_limit_w=np.array([400, 375], np.float32),
            applied_clock_mhz=np.array([1590, -1], np.float32),
        )
