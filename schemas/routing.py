"""RoutingPlan: where each token of a batch goes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from schemas.frame import Axes, Count, Name, require
from schemas.part import Part
from schemas.plan import Plan
from schemas.solver import SolverRecord
from schemas.wording import Shown, must_be


class RoutingMetrics(Part):
    """Quality of one routing plan: loads by GPU (or by expert if no placement is known), copies by token.

    Where experts have a capacity, `gate_kept` is the part of the gate's mass that its choices keep, and `off_candidate` the
    part of the choices that the gate has not made.
    """

    max_over_mean: float = Field(ge=0, description="largest load over the mean load")
    balancedness: float = Field(ge=0, le=1.000001, description="mean load over the largest load")
    cross_node_copies_per_token: float | None = Field(
        default=None, ge=0, description="copies of a token that leave its node, on average; none: nodes are unknown"
    )
    gate_kept: float | None = Field(
        default=None, ge=0, le=1.000001, description="part of the gate's mass that its choices keep under capacities"
    )
    off_candidate: float | None = Field(default=None, ge=0, le=1, description="part of the choices that the gate has not made")


class RoutingPlan(Plan):
    """The answer to one TokenBatch, row by row.

    `slot_ids` names the physical slot that serves each gate choice, for a batch with `topk_ids`; `assignment` names the
    logical expert of each token, for a batch without. `placement_version` is the placement that the slots belong to.
    Where experts have a capacity, `expert_ids` are the experts that `slot_ids` serve in place of the gate's, most gate mass
    first. The queues are the tokens of each expert, in the order of the batch: those of expert e are
    ``queue_token[queue_end[e - 1]:queue_end[e]]``, of expert 0 ``queue_token[:queue_end[0]]``. `request_node` is the node on
    which each `request_id` of the batch should run.
    """

    MAX_BYTES: ClassVar[int] = 4_000_000  # queues and experts make a plan larger than its batch

    batch_id: Name = Field(description="the batch that the plan answers")
    model: Name = Field(description="the model of the batch")
    layer: int | None = Field(
        default=None, ge=0, lt=4096, description="the layer of the batch, from 0; none for a batch without gate choices"
    )
    placement_version: Count = Field(default=0, description="version of the placement that `slot_ids` belong to")
    metrics: RoutingMetrics = Field(strict=False, description="quality of the plan")
    assignment: Annotated[NDArray[np.int32], Axes("tokens")] | None = Field(
        default=None, description="the expert of each token, for a batch without `topk_ids`"
    )
    slot_ids: Annotated[NDArray[np.int32], Axes("tokens", "k")] | None = Field(
        default=None,
        description="the physical slot that serves each gate choice, -1 where there is none, for a batch with `topk_ids`",
    )
    expert_ids: Annotated[NDArray[np.int32], Axes("tokens", "k")] | None = Field(
        default=None,
        description="experts that `slot_ids` serve in place of the gate's, most gate mass first; only under capacities",
    )
    queue_token: Annotated[NDArray[np.uint64], Axes("choices")] | None = Field(
        default=None, description="tokens of each expert, as `token_id`, expert by expert in the order of the batch"
    )
    queue_end: Annotated[NDArray[np.int32], Axes("experts")] | None = Field(
        default=None, description="end of each expert's part of `queue_token`"
    )
    request_id: Annotated[NDArray[np.uint64], Axes("requests")] | None = Field(
        default=None, description="requests of the batch, each once"
    )
    request_node: Annotated[NDArray[np.int32], Axes("requests")] | None = Field(
        default=None, description="the node on which each request should run"
    )

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        if (self.assignment is None) == (self.slot_ids is None):
            given = Shown("neither" if self.assignment is None else "both")
            raise ValueError(must_be("a routing plan", "with either assignment or slot_ids", given))
        require(self, "assignment", 0)
        require(self, "slot_ids", -1)
        if self.expert_ids is not None:
            if self.slot_ids is None:
                raise ValueError(must_be("expert_ids", "absent without slot_ids", Shown(f"shape {list(self.expert_ids.shape)}")))
            require(self, "expert_ids", -1)
        if self.queue_token is not None or self.queue_end is not None:
            self._check_queues()
        if (self.request_id is None) != (self.request_node is None):
            raise ValueError(must_be("request_id and request_node", "given together", Shown("one of them")))
        require(self, "request_node", 0)
        return self

    def _check_queues(self) -> None:
        token, end = self.queue_token, self.queue_end
        answer = self.assignment if self.slot_ids is None else self.slot_ids
        if token is None or end is None or answer is None:
            raise ValueError(must_be("queue_token and queue_end", "given together", Shown("one of them")))
        choices = int(np.count_nonzero(answer >= 0))
        if len(token) != choices:
            raise ValueError(must_be("queue_token", f"{choices} tokens, one for each choice", Shown(f"{len(token)} tokens")))
        if len(end) == 0 or end[0] < 0 or end[-1] != len(token) or (end[1:] < end[:-1]).any():
            rule = f"non-decreasing from 0 or more to {len(token)}, the length of queue_token"
            raise ValueError(must_be("queue_end", rule, Shown(str(end.tolist()))))

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
            solver=SolverRecord(solver="hash", variant="replicas", seed=7),
            slot_ids=np.array([[0, 3], [3, 1], [2, 0]], np.int32),
        )
