"""JobProfile: the ranks of a job, what they send to one another, and the rules for their placement."""

from __future__ import annotations

from typing import Annotated, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, model_validator

from schemas.columns import require_both, require_once, require_starts
from schemas.digest import digest
from schemas.frame import Axes, Frame, Int64, Name, TimeNs, require
from schemas.names import require_count
from schemas.part import Part
from schemas.wording import must_be

GROUP_KINDS: Final = ("allreduce", "allgather", "reducescatter", "alltoall", "p2p")  # numbered by `group_kind`
PARALLEL: Final = ("tp", "cp", "ep", "dp", "pp")

MAX_RANKS: Final = 1 << 17
MAX_SLICES: Final = 1 << 16

Order = Annotated[str, StringConstraints(max_length=40)]
Size = Annotated[int, Field(ge=1, le=MAX_RANKS)]


class ParallelSizes(Part):
    """How the ranks of a job divide its model: tensor, context, expert, data and pipeline parallel.

    There are tp * cp * dp * pp ranks; groups of `ep` ranks, which share experts, are among the tp * cp * dp of a stage.
    """

    tp: Size = Field(default=1, description="ranks that share each layer's tensors")
    cp: Size = Field(default=1, description="ranks that share each sequence")
    ep: Size = Field(default=1, description="ranks that share the experts of a layer")
    dp: Size = Field(default=1, description="copies of the model, each on data of its own")
    pp: Size = Field(default=1, description="stages of layers")

    @property
    def ranks(self) -> int:
        """All ranks."""
        return self.tp * self.cp * self.dp * self.pp

    @model_validator(mode="after")
    def _divides(self) -> Self:
        stage = self.tp * self.cp * self.dp
        if stage % self.ep:
            raise ValueError(must_be("ep", f"a divisor of tp * cp * dp, {stage}", self.ep))
        return self


class JobProfile(Frame):
    """A job: its ranks, and what they send to one another in a period, such as a step.

    Traffic is given by pairs of ranks (`traffic_*`), by groups (`group_*`), or both, which add up. Group g is
    ``group_rank[group_first[g]:group_first[g + 1]]`` and does one collective of `group_bytes`, those of a rank, in the order of
    its ranks. `atomic_rank` are, in the same form, sets that must share a domain. With `balanced`, ranks are spread evenly over
    the domains that they take.
    """

    fabric: Name = Field(description="the fabric that it runs on")
    job: Name = Field(description="name of the job")
    ts_ns: TimeNs = Field(default=0, description="when it was described, ns since 1970")
    num_ranks: int = Field(ge=1, le=MAX_RANKS, description="ranks, each on a GPU of its own")
    ended: bool = Field(default=False, description="whether its GPUs are free again")
    priority: Int64 = Field(default=0, description="jobs of lower numbers are planned first")
    parallel: ParallelSizes | None = Field(default=None, strict=False, description="sizes that the traffic follows from")
    order: Order = Field(default="-".join(PARALLEL), description="order in which ranks are counted, fastest first")
    period_us: float | None = Field(default=None, gt=0, description="time in which the bytes are sent, us")
    max_slices: int | None = Field(default=None, ge=1, le=MAX_SLICES, description="most domains that it may be spread over")
    balanced: bool = Field(default=False, description="whether all slices must have as many ranks")
    traffic_src: Annotated[NDArray[np.int32], Axes("entries")] | None = Field(default=None, description="rank that sends")
    traffic_dst: Annotated[NDArray[np.int32], Axes("entries")] | None = Field(default=None, description="rank that receives")
    traffic_bytes: Annotated[NDArray[np.int64], Axes("entries")] | None = Field(default=None, description="bytes of a period")
    group_kind: Annotated[NDArray[np.uint8], Axes("groups")] | None = Field(
        default=None,
        description="0 allreduce, 1 allgather, 2 reducescatter, 3 alltoall, 4 p2p: each to the next, the last to none",
    )
    group_bytes: Annotated[NDArray[np.int64], Axes("groups")] | None = Field(
        default=None, description="bytes of the collectives of a period, those of a rank"
    )
    group_first: Annotated[NDArray[np.int32], Axes("starts")] | None = Field(
        default=None, description="where each group begins in `group_rank`, and the end"
    )
    group_rank: Annotated[NDArray[np.int32], Axes("members")] | None = Field(default=None, description="ranks of the groups")
    atomic_first: Annotated[NDArray[np.int32], Axes("atomic_starts")] | None = Field(
        default=None, description="where each set begins in `atomic_rank`, and the end"
    )
    atomic_rank: Annotated[NDArray[np.int32], Axes("atomic_members")] | None = Field(
        default=None, description="ranks of sets that must share a domain"
    )
    pin_rank: Annotated[NDArray[np.int32], Axes("pins")] | None = Field(default=None, description="ranks that must not move")
    pin_gpu: Annotated[NDArray[np.int32], Axes("pins")] | None = Field(default=None, description="the GPU of each of them")
    gpu_of_rank: Annotated[NDArray[np.int32], Axes("ranks")] | None = Field(
        default=None, description="where it runs now; absent: nowhere yet"
    )

    def digest(self) -> str:
        """16 hex digits that are the same for the same arrays and rules, whatever name, time and priority."""
        return digest(self, "num_ranks", "ended", "parallel", "order", "period_us", "max_slices", "balanced")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._right_order()
        if self.parallel is not None and self.parallel.ranks != self.num_ranks:
            raise ValueError(must_be("num_ranks", f"tp * cp * dp * pp, {self.parallel.ranks}", self.num_ranks))
        require_both(self, "traffic_src", "traffic_dst", "traffic_bytes")
        require_both(self, "group_kind", "group_bytes", "group_first", "group_rank")
        require_both(self, "atomic_first", "atomic_rank")
        require_both(self, "pin_rank", "pin_gpu")
        for field in ("traffic_src", "traffic_dst", "group_rank", "atomic_rank", "pin_rank"):
            require(self, field, 0, self.num_ranks - 1, f"a rank, 0 to {self.num_ranks - 1}")
        for field in ("traffic_bytes", "group_bytes", "pin_gpu", "gpu_of_rank"):
            require(self, field, 0)
        require(self, "group_kind", 0, len(GROUP_KINDS) - 1)
        require_starts(self, "group_first", "group_rank", None if self.group_kind is None else len(self.group_kind))
        require_starts(self, "atomic_first", "atomic_rank")
        require_count(self, "gpu_of_rank", self.num_ranks, "the ranks")
        for field in ("pin_rank", "pin_gpu", "gpu_of_rank", "atomic_rank"):
            require_once(self, field)
        return self

    def _right_order(self) -> None:
        names = self.order.split("-")
        if sorted(names) != sorted(PARALLEL):
            raise ValueError(must_be("order", f"{', '.join(PARALLEL)} in any order, joined by -", self.order))

    @classmethod
    def example(cls) -> Self:
        return cls(
            fabric="pod-1",
            job="moe-16b",
            ts_ns=1_700_000_000_000_000_000,
            num_ranks=4,
            period_us=250_000.0,
            traffic_src=np.array([0, 3], np.int32),
            traffic_dst=np.array([3, 0], np.int32),
            traffic_bytes=np.array([1_048_576, 524_288], np.int64),
            group_kind=np.array([0, 0, 0, 0], np.uint8),
            group_bytes=np.array([4_000_000_000, 4_000_000_000, 1_000_000_000, 1_000_000_000], np.int64),
            group_first=np.array([0, 2, 4, 6, 8], np.int32),
            group_rank=np.array([0, 1, 2, 3, 0, 2, 1, 3], np.int32),
            pin_rank=np.array([0], np.int32),
            pin_gpu=np.array([2], np.int32),
        )
