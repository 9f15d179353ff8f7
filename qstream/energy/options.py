"""The toggles of energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from qstream.errors import OptionError
from qstream.module.options import ExploreOptions, ModelChoice, Range, Row
from schemas.energy import Mode
from schemas.wording import must_be

Workload = Literal["training", "inference", "mixed", "power_constrained"]
Quantum = Literal["available", "limited", "busy", "none"]


class EnergyOptions(ExploreOptions):
    """How the energy agent plans. Every field can be changed while it runs: ``qstream control energy --set name=value``.

    With `deterministic` off, and nothing else on, the simple scheduler answers: each node alone. Its answer stands in every plan.
    """

    module: ClassVar[str] = "energy"
    situations: ClassVar[Mapping[str, tuple[str, ...] | Range]] = {"workload": get_args(Workload), "quantum": get_args(Quantum)}
    recommendations: ClassVar[tuple[Row, ...]] = (
        # Circuits and models only where something can run them; the classical planner answers in all four.
        Row({"workload": "training", "quantum": "available"}, {"qaoa": True, "meta": True}),
        Row({"workload": "inference"}, {"gnn": True}),
        Row({"workload": "mixed"}, {"meta": True}),
        Row({}, {}),
    )

    deterministic: bool = Field(
        default=True, description="budgets couple the nodes, and caps are measured; off: each node alone, by a rule for a GPU"
    )
    qaoa: bool = Field(default=False, description="windows of tasks are refined by QAOA circuits")
    hqc: bool = Field(default=False, description="such windows are refined turn after turn, until none gets better")
    gnn: bool = Field(default=False, description="a graph network predicts power and duration of tasks that were not measured")
    meta: bool = Field(default=False, description="what solves the next window is chosen by what has worked before")
    model_gnn: ModelChoice = "auto"
    model_meta: ModelChoice = "auto"
    mode: Mode = Field(
        default="dry_run", description="dry_run and recommend: actuators set nothing; apply: those that may, set what plans say"
    )
    max_slowdown: float = Field(default=0.05, ge=0, le=1, description="slowdown that saving may cost: .05 takes 5 % longer")
    probe: bool = Field(default=True, description="measure caps that may save; off: only known ones")
    probe_fraction: float = Field(default=0.1, gt=0, le=1, description="part of the GPUs that measure a cap at one time")
    settle_s: float = Field(default=10.0, ge=0, le=600, description="seconds after a change of cap before anything is measured")
    measure_s: float = Field(default=30.0, gt=0, le=3600, description="length of a measurement, s")
    verify_s: float = Field(
        default=1800.0, gt=0, le=86_400, description="seconds after which an accepted cap is compared with the default again"
    )
    plan_s: float = Field(default=10.0, ge=0.1, le=3600, description="seconds from one plan to the next")
    dwell_s: float = Field(default=10.0, ge=0, le=3600, description="seconds for which a target stays before it is lowered again")
    deadband_w: float = Field(default=25.0, ge=0, le=1000, description="smaller changes of a power limit are not made, W")
    max_lowered: float = Field(default=0.1, gt=0, le=1, description="part of the targets that one plan lowers to save")
    stale_s: float = Field(default=5.0, gt=0, le=3600, description="age of a GPU's readings at which its target is held, s")
    lost_s: float = Field(default=30.0, gt=0, le=86_400, description="age at which it is released and charged at its default, s")
    rail: bool = Field(
        default=True,
        description="power limits keep each budget by themselves; off: only those are set without which the GPUs' peaks pass one",
    )
    bound: float = Field(
        default=0.95, ge=0.5, le=0.999, description="part of the maxima of a domain's watts that are not to be above their bound"
    )
    ttl_s: float = Field(default=30.0, gt=0, le=3600, description="seconds for which a plan may be applied")
    plan_ms: float = Field(
        default=500.0,
        ge=0,
        le=3_600_000,
        description="ms by records' time until a task graph is solved, next to the records; its simple schedule comes at once",
    )
    deadline_ms: float | None = Field(
        default=None,
        gt=0,
        le=3_600_000,
        description="ms for the solvers of one graph; none: a fixed amount of work, reproducible",
    )
    circuit_layers: int = Field(default=2, ge=1, le=16, description="layers of a circuit")
    shots: int = Field(default=1024, ge=1, le=100_000, description="samples of a circuit")
    circuit_slots: int = Field(default=8, ge=2, le=8, description="tasks that one circuit rearranges at once")
    device: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="device of the pool that runs circuits; none: they are simulated",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of all random choices")

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.mode == "apply" and not self.deterministic:
            raise OptionError(must_be("option mode", "dry_run or recommend while deterministic is off", self.mode))
        if self.meta and not (self.deterministic or self.qaoa or self.gnn):
            raise OptionError(must_be("option meta", "false where there are no two solvers to choose from", True))
        if self.device is not None and not (self.qaoa or self.hqc):
            raise OptionError(must_be("option device", "none while qaoa and hqc are off", self.device))
        if self.lost_s < self.stale_s:
            raise OptionError(must_be("option lost_s", f"at least stale_s, {self.stale_s:g}", self.lost_s))
        if self.ttl_s > 3 * self.plan_s:
            raise OptionError(must_be("option ttl_s", f"at most three times plan_s, {3 * self.plan_s:g}", self.ttl_s))
        return self

    @classmethod
    def recommended(  # type: ignore[override]  # by place as well: each situation has its name here
        cls, workload: str = "training", quantum: str = "none", **more: str | float
    ) -> Self:
        """The recommended options for a workload and what circuits can run on; `OptionError` names what is unknown."""
        return super().recommended(workload=workload, quantum=quantum, **more)
