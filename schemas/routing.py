"""RoutingPlan: where each token of a batch goes."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.frame import Axes, Count, Frame, Name, TimeNs, require
from schemas.solver import SolverRecord


class RoutingMetrics(BaseModel):
    """Quality of one routing plan: loads by GPU (or by expert if no placement is known), copies by token."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    max_over_mean: float = Field(ge=0)
    balancedness: float = Field(ge=0, le=1.000001)
    cross_node_copies_per_token: float | None = Field(default=None, ge=0)


class RoutingPlan(Frame):
    """The answer to one TokenBatch, row by row.

    `slot_ids` names the physical slot that serves each gate choice, for a batch with `topk_ids`; `assignment` names the
    logical expert of each token, for a batch without. `placement_version` is the placement that the slots belong to.
    """

    plan_id: Name
    batch_id: Name
    model: Name
    layer: int | None = Field(default=None, ge=0, lt=4096)
    ts_ns: TimeNs
    ttl_s: float | None = Field(default=None, gt=0)
    placement_version: Count = Field(default=0)
    metrics: RoutingMetrics = Field(strict=False)
    solver: SolverRecord = Field(strict=False)
    fallback_reason: Name | None = Field(default=None)
    assignment: Annotated[NDArray[np.int32], Axes("tokens")] | None = None
    slot_ids: Annotated[NDArray[np.int32], Axes("tokens", "k")] | None = None

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        if (self.assignment is None) == (self.slot_ids is None):
            raise ValueError("allowed is either assignment or slot_ids")
        require(self, "assignment", ">= 0", lambda a: a.min() >= 0)
        require(self, "slot_ids", ">= 0", lambda a: a.min() >= 0)
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            plan_id="qstream.tokens.batch.v1/3/17/0",
            batch_id="step-7/layer-0",
            model="demo-moe",
            layer=0,
            ts_ns=1_700_000_000_000_000_000,
            placement_version=3,
            metrics=RoutingMetrics(max_over_mean=1.25, balancedness=0.8, cross_node_copies_per_token=0.5),
            solver=SolverRecord(tier=0, name="hash", seed=7),
            slot_ids=np.array([[0, 3], [3, 1], [2, 0]], np.int32),
        )
