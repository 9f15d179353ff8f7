"""PlacementPlan: which physical slot holds which expert, and the moves that lead there."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from schemas.frame import Axes, Count, Frame, Name, TimeNs, require
from schemas.part import Part
from schemas.plan import VersionedPlan
from schemas.solver import SolverRecord
from schemas.wording import Shown, must_be

Layer = Annotated[int, Field(ge=0, lt=4096)]


class PlacementScore(Part):
    """Balancedness (mean over max GPU load, layers summed first) on the planning scenario, now and under the candidate.

    `next_window` is what to expect of the next window, of the placement that is in force once the plan is applied. A placement is
    fitted to the scenarios, so it looks more even there than it will be: this is corrected by how far earlier plans were off.
    Both are absent where the agent does not learn, and in what is planned without it.
    """

    balancedness_before: float = Field(ge=0, le=1.000001, description="balancedness of the placement in force")
    balancedness: float = Field(ge=0, le=1.000001, description="balancedness of the candidate")
    worst_layer_balancedness: float = Field(ge=0, le=1.000001, description="balancedness of the candidate's least even layer")
    moved_experts: Count = Field(description="expert replicas that have to be loaded on another GPU")
    next_window: float | None = Field(
        default=None, ge=0, le=1.000001, description="balancedness to expect of the next window; none where nothing is learnt"
    )
    next_window_low: float | None = Field(
        default=None, ge=0, le=1.000001, description="lower bound of it, which holds in about 90 % of windows"
    )


class PlacementPlan(VersionedPlan):
    """A placement that orchestrators apply, or the reason why the one in force stays.

    The map is whole: a reader applies a plan if its `version` is higher than that of the placement it has. The moves lead
    from version `base_version`: a reader that has another compares the maps instead. Arrays are absent when `skip_reason` says
    that the placement in force stays; a plan with `reset_reason` begins a new topology. `expected` is absent where nothing was
    expected: when a topology begins, or if planning failed. Slot p is on GPU ``p // slots_per_gpu``. `logical_to_physical_map` is
    padded with -1 and absent for large models: the slots of an expert are those whose `physical_to_logical_map` names it.
    `replica_shares` of the replicas of one expert sum to 1. Moves are ordered by gain per byte; `move_src_gpu` is -1 if no
    GPU holds the expert. `apply_layers` is the order of layers, most gain first.
    """

    MAX_BYTES: ClassVar[int] = 4_000_000

    model: Name = Field(description="the model whose experts are placed")
    num_gpus: int = Field(ge=1, le=65536, description="GPUs that hold the experts of each layer")
    slots_per_gpu: int = Field(ge=1, le=65536, description="slots of each GPU in each layer")
    expected: PlacementScore | None = Field(
        default=None,
        strict=False,
        description="what the placement wins on the planning scenario; none where nothing was expected",
    )
    apply_layers: Annotated[tuple[Layer, ...], Field(strict=False, fail_fast=True)] = Field(
        default=(), description="layers in the order in which to apply them, most gain first"
    )
    physical_to_logical_map: Annotated[NDArray[np.int32], Axes("layers", "slots")] | None = Field(
        default=None, description="the expert in each slot; absent if the plan is skipped"
    )
    logical_to_physical_map: Annotated[NDArray[np.int32], Axes("layers", "experts", "replicas")] | None = Field(
        default=None, description="the slots of each expert, padded with -1; absent for large models"
    )
    logical_replica_count: Annotated[NDArray[np.int32], Axes("layers", "experts")] | None = Field(
        default=None, description="replicas of each expert"
    )
    replica_shares: Annotated[NDArray[np.float32], Axes("layers", "slots")] | None = Field(
        default=None, description="part of its expert's tokens that each slot serves, 0 to 1"
    )
    move_layer: Annotated[NDArray[np.int32], Axes("moves")] | None = Field(
        default=None, description="layer of each move; moves are ordered by gain per byte"
    )
    move_expert: Annotated[NDArray[np.int32], Axes("moves")] | None = Field(
        default=None, description="the expert that each move loads"
    )
    move_src_gpu: Annotated[NDArray[np.int32], Axes("moves")] | None = Field(
        default=None, description="a GPU that has the expert; -1 if none has"
    )
    move_dst_gpu: Annotated[NDArray[np.int32], Axes("moves")] | None = Field(
        default=None, description="the GPU that loads the expert"
    )
    move_bytes: Annotated[NDArray[np.int64], Axes("moves")] | None = Field(
        default=None, description="bytes of weights that each move carries"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.physical_to_logical_map is None) != (self.skip_reason is not None):
            given = Shown("neither a map nor a skip_reason" if self.skip_reason is None else "a map and a skip_reason")
            raise ValueError(must_be("physical_to_logical_map", "absent in a skipped plan and present in any other", given))
        if self.physical_to_logical_map is not None:
            shape, slots = list(self.physical_to_logical_map.shape), self.num_gpus * self.slots_per_gpu
            if shape[1] != slots:
                rule = f"[layers, {slots} slots], num_gpus * slots_per_gpu"
                raise ValueError(must_be("physical_to_logical_map", rule, Shown(f"shape {shape}")))
        gpus = self.num_gpus
        require(self, "physical_to_logical_map", 0)
        require(self, "logical_to_physical_map", -1)
        for name in ("logical_replica_count", "move_layer", "move_expert", "move_bytes"):
            require(self, name, 0)
        require(self, "move_src_gpu", -1, gpus - 1)
        require(self, "move_dst_gpu", 0, gpus - 1)
        require(self, "replica_shares", 0, 1)
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            model="demo-moe",
            plan_id="qstream.experts.load.v1/0/41/0",
            ts_ns=1_700_000_001_000_000_000,
            version=3,
            base_version=2,
            num_gpus=2,
            slots_per_gpu=2,
            ttl_s=60.0,
            expected=PlacementScore(
                balancedness_before=0.75,
                balancedness=0.9375,
                worst_layer_balancedness=0.9375,
                moved_experts=1,
                next_window=0.90625,
                next_window_low=0.875,
            ),
            solver=SolverRecord(solver="swap-annealing", n=4, seed=7, objective=1.0625, bound=1.0),
            apply_layers=(0,),
            physical_to_logical_map=np.array([[0, 2, 1, 0]], np.int32),
            logical_to_physical_map=np.array([[[0, 3], [2, -1], [1, -1]]], np.int32),
            logical_replica_count=np.array([[2, 1, 1]], np.int32),
            replica_shares=np.array([[0.5, 1.0, 1.0, 0.5]], np.float32),
            move_layer=np.array([0], np.int32),
            move_expert=np.array([0], np.int32),
            move_src_gpu=np.array([0], np.int32),
            move_dst_gpu=np.array([1], np.int32),
            move_bytes=np.array([1048576], np.int64),
        )


class PlacementAck(Frame):
    """A consumer says that it has applied a placement: from then on that version is the one in force."""

    model: Name = Field(description="the model whose placement was applied")
    source: Name = Field(default="default", description="the consumer that applied it")
    applied_version: Count = Field(description="version of the placement that was applied")
    ts_ns: TimeNs = Field(description="when it was applied, ns since 1970")

    @classmethod
    def example(cls) -> Self:
        return cls(model="demo-moe", source="engine-0", applied_version=3, ts_ns=1_700_000_002_000_000_000)
