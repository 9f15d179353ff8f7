"""LinkTelemetry and FabricReport: what links carried, and what the steps of a job took."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from schemas.columns import require_both, require_once
from schemas.digest import Digest
from schemas.fabric.topology import FabricTopology
from schemas.frame import Axes, Count, Frame, Name, TimeNs, require
from schemas.wording import must_be


class LinkTelemetry(Frame):
    """What links carried in one window, and what leaves offered to one another.

    Bytes are of the window, not since the start, so that windows add up. A record of the same source and window counts once, and
    one of another topology than is in force not at all.
    """

    fabric: Name = Field(description="the fabric")
    source: Name = Field(description="who counted")
    window_id: Count = Field(description="number of the window, which rises")
    t0_ns: TimeNs = Field(description="begin of the window, ns since 1970")
    t1_ns: TimeNs = Field(description="end of the window, ns since 1970")
    topology_digest: Digest = Field(description="digest of the topology that `link` and the pairs are of")
    link: Annotated[NDArray[np.int32], Axes("seen")] = Field(description="index of the link in the topology")
    link_bytes: Annotated[NDArray[np.int64], Axes("seen")] = Field(description="bytes that it carried in the window")
    link_queue_us: Annotated[NDArray[np.float32], Axes("seen")] | None = Field(
        default=None, description="mean time that bytes waited for it, us"
    )
    link_ecn: Annotated[NDArray[np.float32], Axes("seen")] | None = Field(
        default=None, description="part of its packets that were marked as congested, 0 to 1"
    )
    link_errors: Annotated[NDArray[np.int64], Axes("seen")] | None = Field(default=None, description="errors in the window")
    link_up: Annotated[NDArray[np.bool_], Axes("seen")] | None = Field(default=None, description="whether it works")
    pair_src: Annotated[NDArray[np.int32], Axes("pairs")] | None = Field(default=None, description="leaf that sends, a node")
    pair_dst: Annotated[NDArray[np.int32], Axes("pairs")] | None = Field(default=None, description="leaf that receives, a node")
    pair_bytes: Annotated[NDArray[np.int64], Axes("pairs")] | None = Field(
        default=None, description="bytes that were offered between them in the window"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.t1_ns <= self.t0_ns:
            raise ValueError(must_be("t1_ns", f"after t0_ns, {self.t0_ns}", self.t1_ns))
        require_both(self, "pair_src", "pair_dst", "pair_bytes")
        for field in ("link", "link_bytes", "link_queue_us", "link_errors", "pair_src", "pair_dst", "pair_bytes"):
            require(self, field, 0)
        require(self, "link_ecn", 0, 1)
        require_once(self, "link")
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            fabric="pod-1",
            source="collector-0",
            window_id=17,
            t0_ns=1_700_000_000_000_000_000,
            t1_ns=1_700_000_000_250_000_000,
            topology_digest=FabricTopology.example().digest(),
            link=np.array([4, 5], np.int32),
            link_bytes=np.array([9_000_000_000, 4_500_000_000], np.int64),
            link_queue_us=np.array([12.5, 0.5], np.float32),
            pair_src=np.array([6, 7], np.int32),
            pair_dst=np.array([7, 6], np.int32),
            pair_bytes=np.array([9_000_000_000, 4_500_000_000], np.int64),
        )


class FabricReport(Frame):
    """What a step of a job took, and which placement it ran on: a reward, a label, and the acknowledgement of a plan."""

    fabric: Name = Field(description="the fabric")
    job: Name = Field(description="the job")
    step: Count = Field(description="number of the step")
    t0_ns: TimeNs = Field(description="begin of the step, ns since 1970")
    t1_ns: TimeNs = Field(description="end of the step, ns since 1970")
    bytes: Count = Field(description="bytes that the ranks sent")
    comm_us: float = Field(gt=0, description="time that the slowest rank took to send and receive, us")
    applied_version: Count | None = Field(default=None, description="version of the plan that the job runs on; none: of no plan")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.t1_ns <= self.t0_ns:
            raise ValueError(must_be("t1_ns", f"after t0_ns, {self.t0_ns}", self.t1_ns))
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            fabric="pod-1",
            job="moe-16b",
            step=120,
            t0_ns=1_700_000_000_000_000_000,
            t1_ns=1_700_000_000_310_000_000,
            bytes=12_000_000_000,
            comm_us=48_200.0,
            applied_version=3,
        )
