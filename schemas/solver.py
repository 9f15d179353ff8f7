"""SolverRecord: which solver answered, what it cost, and the answers it is measured against."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from schemas.frame import Count, Int64, Name


class SolverRecord(BaseModel):
    """The record that every plan carries, so that a reader can judge the answer.

    `objective` is what was minimised or maximised (see the plan), `bound` a proven limit of it, `classical_twin` and
    `control` the objective of the classical solver and of the p=0 or random control at the same budget.
    `execution` is ``classical``, ``simulated-statevector`` or ``device:<name>``.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    tier: int = Field(ge=0, le=9)
    name: Name
    execution: Name = Field(default="classical")
    n: Count | None = Field(default=None)
    depth: Count | None = Field(default=None)
    shots: Count | None = Field(default=None)
    seed: Int64 = Field(default=0)
    wall_ms: float | None = Field(default=None, ge=0)
    objective: float | None = Field(default=None)
    bound: float | None = Field(default=None)
    control: float | None = Field(default=None)
    classical_twin: float | None = Field(default=None)
