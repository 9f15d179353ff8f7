"""DispatchShares: which part of an expert's tokens each of its replicas serves, until the next ones."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from schemas.frame import Axes, Count, Name, require
from schemas.part import Part
from schemas.plan import Plan
from schemas.solver import SolverRecord


class SharesScore(Part):
    """Balancedness (mean over max GPU load, layers summed first) on the counted tokens: split evenly, and by the shares."""

    balancedness_even: float = Field(ge=0, le=1.000001, description="with tokens split evenly over the replicas")
    balancedness: float = Field(ge=0, le=1.000001, description="with tokens split by the shares")


class DispatchShares(Plan):
    """How to spread the tokens of each expert over its replicas now; no weight moves.

    `shares` of the replicas of one expert in one layer sum to 1. They hold for the placement `placement_version` only: a
    reader with another one goes on with the shares of its own. `gate_choices` were counted for them.
    """

    model: Name = Field(description="the model whose tokens are spread")
    placement_version: Count = Field(description="version of the placement that the shares hold for")
    gate_choices: Count = Field(description="gate choices that were counted for the shares")
    score: SharesScore = Field(strict=False, description="what the shares win on the counted tokens")
    shares: Annotated[NDArray[np.float32], Axes("layers", "slots")] = Field(
        description="part of its expert's tokens that each slot serves, 0 to 1"
    )

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        require(self, "shares", 0, 1)
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            model="demo-moe",
            plan_id="qstream.tokens.batch.v1/3/17/1",
            ts_ns=1_700_000_001_000_000_000,
            ttl_s=60.0,
            placement_version=3,
            gate_choices=160,
            solver=SolverRecord(solver="water-filling"),
            score=SharesScore(balancedness_even=0.75, balancedness=1.0),
            shares=np.array([[0.25, 1.0, 1.0, 0.75]], np.float32),
        )
