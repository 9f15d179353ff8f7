"""The toggles of the search, and the recommended configurations; read by `plan` only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from qstream.errors import OptionError
from qstream.module.options import ModuleOptions, Range, Row
from schemas.wording import must_be

Optimizer = Literal["auto", "gp", "vqc", "hybrid", "sobol"]
Kernel = Literal["matern", "rbf", "iqp", "reupload", "projected", "auto"]
WarmStart = Literal["none", "topk", "mean", "both"]
Goal = Literal["balanced", "explore", "refine", "reuse"]
Quantum = Literal["none", "online", "intermittent"]


class HpoOptions(ModuleOptions):
    """How the next configuration is chosen. A study may fix some of these for itself (`StudySpec.options`)."""

    module: ClassVar[str] = "hpo"
    situations: ClassVar[Mapping[str, tuple[str, ...] | Range]] = {"goal": get_args(Goal), "quantum": get_args(Quantum)}
    recommendations: ClassVar[tuple[Row, ...]] = (
        Row({"goal": "reuse"}, {"warm_start": "both"}),
        Row({"goal": "explore", "quantum": "online"}, {"optimizer": "vqc", "shots": 256}),
        Row({"goal": "refine", "quantum": "none"}, {"optimizer": "gp", "kernel": "matern", "warm_start": "mean"}),
        Row({"quantum": "intermittent"}, {"optimizer": "hybrid"}),
    )

    optimizer: Optimizer = Field(
        default="auto",
        description="gp: a Gaussian process; vqc: a circuit fitted to what was observed; hybrid: vqc first, then gp; sobol: no"
        " model; auto: hybrid up to 16 parameters, else gp",
    )
    explore: int = Field(default=20, ge=0, le=10_000, description="trials of the circuit before hybrid goes over to gp")
    initial: int = Field(default=10, ge=1, le=1_000, description="Sobol points before any model")
    kernel: Kernel = Field(
        default="matern",
        description="of the Gaussian process; iqp, reupload, projected: quantum kernels, which cost more and lose on smooth"
        " landscapes; auto: what predicts the results left out best",
    )
    acquisition: Literal["logei"] = Field(default="logei", description="logarithm of the expected improvement")
    warm_start: WarmStart = Field(
        default="mean",
        description="with results of an older study: topk, its best points first; mean, a process on it as prior mean, guarded",
    )
    shots: int | None = Field(default=None, ge=1, le=100_000, description="samples of an expectation of the circuit; none: exact")
    circuit_layers: int = Field(
        default=0, ge=0, le=16, description="entangling layers of the circuit; 0: a product state, which is classically trivial"
    )
    device: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="device of the pool that makes the last choice among the circuit's minima; none: simulated",
    )
    feasibility: bool = Field(
        default=True, description="weigh by the probability that limits are kept and the trial does not fail"
    )
    candidates: int = Field(default=1024, ge=16, le=65_536, description="random points at which the acquisition is tried")
    starts: int = Field(default=6, ge=1, le=64, description="of them, from which it is maximised")
    exact_objective: bool = Field(default=False, description="the objective has no noise")
    deadline_ms: float | None = Field(
        default=None,
        gt=0,
        le=3_600_000,
        description="ms for one suggestion, by what candidates take on a core of a server; none: all of them",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of studies that name none")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.device is not None and self.optimizer in ("gp", "sobol"):
            raise OptionError(
                must_be("option device", f"none with optimizer {self.optimizer}, which runs no circuit", self.device)
            )
        return self

    @classmethod
    def recommended(cls, goal: str | float = "balanced", quantum: str | float = "none", **situation: str | float) -> Self:
        """The recommended options for a goal (balanced, explore, refine, reuse) and quantum hardware (none, online or
        intermittent).

        A pair of which the table says nothing has the defaults.
        """
        return super().recommended(goal=goal, quantum=quantum, **situation)
