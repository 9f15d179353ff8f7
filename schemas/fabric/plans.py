"""FabricPlan and RouteShares: where the ranks of a job go, and over which spines bytes go, with what both are worth."""

from __future__ import annotations

from typing import Annotated, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, model_validator

from schemas.columns import require_both, require_once, require_starts
from schemas.digest import Digest
from schemas.fabric.topology import FabricTopology
from schemas.frame import Axes, Count, Name, TimeNs, at_most, require
from schemas.part import Part
from schemas.plan import Plan, VersionedPlan
from schemas.solver import SolverName, SolverRecord
from schemas.wording import Shown, must_be

MAX_DIRECTIVES: Final = 20

Text = Annotated[str, StringConstraints(max_length=20_000)]
Us = Annotated[float, Field(ge=0)]
Candidates = Annotated[tuple[SolverRecord, ...], Field(strict=False, max_length=16)]


class FabricScore(Part):
    """What a plan is worth in the model of the fabric: `before` is the placement in force, else the linear order.

    Costs are bytes times us/KB, summed over all pairs of ranks: lower is better. They are not times.
    """

    cost_us: Us = Field(description="bytes times distance of the plan")
    cost_before_us: Us = Field(description="of the placement before")
    bound_us: Us = Field(description="no placement costs less")
    cross_domain_bytes: Us = Field(description="bytes of a period between domains")
    cross_domain_bytes_before: Us = Field(description="of the placement before")
    nic_us: Us | None = Field(default=None, description="time of the fullest NIC, us")
    nic_us_before: Us | None = Field(default=None, description="of the placement before, each byte on its receiver's rail")
    nic_us_bound: Us | None = Field(default=None, description="time of the fullest server, its NICs evenly full")
    span_us: Us | None = Field(default=None, description="end of the last transfer of the schedule, us")
    span_us_bound: Us | None = Field(default=None, description="time of the fullest port, us")
    gain: float = Field(default=0.0, le=1, description="part of the cost before that the plan saves")
    modelled: bool = Field(default=True, description="true: computed by a model of the fabric, not measured")


class FabricPlan(VersionedPlan):
    """Where the ranks of a job go, in slices by domain, and how their bytes go: pieces by rail, transfers in order, or paths.

    `gpu_of_rank` is absent where there is no placement to say, such as with too few free GPUs. `piece_*` and `transfer_*` name
    GPUs up to 144 ranks, beyond that hosts, both as nodes of the topology.
    """

    fabric: Name = Field(description="the fabric")
    job: Name = Field(description="the job")
    topology_digest: Digest = Field(description="digest of the topology that the plan is for")
    score: FabricScore | None = Field(default=None, strict=False, description="what the plan is worth, modelled")
    candidates: Candidates = Field(default=(), description="what each solver found")
    directives: Annotated[dict[Name, Text], at_most(MAX_DIRECTIVES)] = Field(
        default_factory=dict, description="what schedulers take, by name, such as slurm.segment"
    )
    gpu_of_rank: Annotated[NDArray[np.int32], Axes("ranks")] | None = Field(default=None, description="GPU of each rank")
    slice_domain: Annotated[NDArray[np.int32], Axes("slices")] | None = Field(default=None, description="domain of each slice")
    slice_ranks: Annotated[NDArray[np.int32], Axes("slices")] | None = Field(default=None, description="ranks of each slice")
    piece_src: Annotated[NDArray[np.int32], Axes("pieces")] | None = Field(default=None, description="node that sends")
    piece_dst: Annotated[NDArray[np.int32], Axes("pieces")] | None = Field(default=None, description="node that receives")
    piece_rail: Annotated[NDArray[np.int32], Axes("pieces")] | None = Field(default=None, description="rail that carries it")
    piece_bytes: Annotated[NDArray[np.int64], Axes("pieces")] | None = Field(default=None, description="bytes of the piece")
    transfer_src: Annotated[NDArray[np.int32], Axes("transfers")] | None = Field(default=None, description="node that sends")
    transfer_dst: Annotated[NDArray[np.int32], Axes("transfers")] | None = Field(default=None, description="node that receives")
    transfer_phase: Annotated[NDArray[np.int32], Axes("transfers")] | None = Field(
        default=None, description="phase of it, where barriers part them; else its place in the order of its sender"
    )
    transfer_bytes: Annotated[NDArray[np.int64], Axes("transfers")] | None = Field(default=None, description="bytes of it")
    transfer_start_us: Annotated[NDArray[np.float32], Axes("transfers")] | None = Field(
        default=None, description="when it may begin, us after the first"
    )
    path_first: Annotated[NDArray[np.int32], Axes("starts")] | None = Field(
        default=None, description="where each path begins in `path_node`, and the end"
    )
    path_node: Annotated[NDArray[np.int32], Axes("hops")] | None = Field(default=None, description="nodes of the paths")
    path_bytes: Annotated[NDArray[np.int64], Axes("paths")] | None = Field(default=None, description="bytes of each path")
    layout_time_us: Annotated[NDArray[np.float32], Axes("layouts")] | None = Field(
        default=None, description="simulated time of the layouts that were tried, the best first, us"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.gpu_of_rank is None and self.skip_reason is None:
            raise ValueError(must_be("gpu_of_rank", "given in a plan that is not skipped", Shown("nothing")))
        for fields in (
            ("slice_domain", "slice_ranks"),
            ("piece_src", "piece_dst", "piece_rail", "piece_bytes"),
            ("transfer_src", "transfer_dst", "transfer_phase", "transfer_bytes", "transfer_start_us"),
            ("path_first", "path_node", "path_bytes"),
        ):
            require_both(self, *fields)
        require(self, "slice_domain", -1)
        for field in self.arrays.keys() - {"slice_domain"}:
            require(self, field, 0)
        require_once(self, "gpu_of_rank")
        require_starts(self, "path_first", "path_node", None if self.path_bytes is None else len(self.path_bytes))
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            plan_id="qstream.fabric.job.v1/2/57/0",
            ts_ns=1_700_000_000_500_000_000,
            ttl_s=600.0,
            solver=SolverRecord(solver="swap-annealing", n=4, objective=17.0, bound=16.5),
            version=3,
            base_version=2,
            fabric="pod-1",
            job="moe-16b",
            topology_digest=FabricTopology.example().digest(),
            score=FabricScore(
                cost_us=17.0,
                cost_before_us=89.0,
                bound_us=16.5,
                cross_domain_bytes=2e9,
                cross_domain_bytes_before=8e9,
                nic_us=20_000.0,
                nic_us_before=40_000.0,
                nic_us_bound=20_000.0,
                gain=0.8089887640449438,
            ),
            candidates=(
                SolverRecord(solver="contiguous", n=4, objective=89.0),
                SolverRecord(solver="greedy", n=4, objective=17.0),
            ),
            directives={"slurm.segment": "1"},
            gpu_of_rank=np.array([2, 3, 0, 1], np.int32),
            slice_domain=np.array([1, 0], np.int32),
            slice_ranks=np.array([2, 2], np.int32),
            piece_src=np.array([2, 3], np.int32),
            piece_dst=np.array([0, 1], np.int32),
            piece_rail=np.array([0, 1], np.int32),
            piece_bytes=np.array([1_000_000_000, 1_000_000_000], np.int64),
        )


class RouteScore(Part):
    """The fullest link's load over its speed, on the demand of the last window; modelled."""

    wcmp: Us = Field(description="with shares in proportion to the narrower link of each path")
    planned: Us = Field(description="with the shares of this plan")
    last_served: Us | None = Field(default=None, description="with the shares that were in force; none at the start")


class RouteShares(Plan):
    """Which part of the bytes between two leaves goes over which spine, until the next ones."""

    fabric: Name = Field(description="the fabric")
    topology_digest: Digest = Field(description="digest of the topology that the nodes are of")
    planner: SolverName = Field(description="what the shares come from: mix, bandit (an arm drawn by rewards), or wcmp")
    guard: Name = Field(default="ours", description="what the guard lets answer, and why")
    score: RouteScore | None = Field(default=None, strict=False, description="what the shares are worth; none before a window")
    heard_ns: TimeNs = Field(default=0, description="end of the newest window of telemetry, ns since 1970; 0: none yet")
    slow_links: Count = Field(default=0, description="links found to carry less than .9 of their nominal speed")
    dropped: Count = Field(default=0, description="records of telemetry so far of a topology that is not in force")
    pair_src: Annotated[NDArray[np.int32], Axes("pairs")] = Field(description="leaf that sends, a node")
    pair_dst: Annotated[NDArray[np.int32], Axes("pairs")] = Field(description="leaf that receives, a node")
    via: Annotated[NDArray[np.int32], Axes("pairs", "paths")] = Field(description="spine of each path, a node; -1 pads")
    share: Annotated[NDArray[np.float32], Axes("pairs", "paths")] = Field(description="part of the bytes; a row sums to 1")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for field in ("pair_src", "pair_dst"):
            require(self, field, 0)
        require(self, "via", -1)
        require(self, "share", 0, 1)
        off = np.abs(self.share.sum(1, dtype=np.float64) - 1)
        if (off > 1e-3).any():
            row = int(off.argmax())
            raise ValueError(must_be(f"share of pair {row}", "parts that sum to 1", Shown(self.share[row].tolist()[:8])))
        if self.share[self.via < 0].any():
            raise ValueError(must_be("share", "0 where via is -1", Shown(f"{self.share[self.via < 0].max():g}")))
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            plan_id="qstream.fabric.telemetry.v1/2/91/0",
            ts_ns=1_700_000_000_500_000_000,
            ttl_s=5.0,
            solver=SolverRecord(solver="mix", n=2),
            fabric="pod-1",
            topology_digest="0f1e2d3c4b5a6978",
            planner="mix",
            score=RouteScore(wcmp=0.92, planned=0.87, last_served=0.9),
            pair_src=np.array([6, 7], np.int32),
            pair_dst=np.array([7, 6], np.int32),
            via=np.array([[8, 9], [8, -1]], np.int32),
            share=np.array([[0.75, 0.25], [1, 0]], np.float32),
        )
