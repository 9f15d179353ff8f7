"""Fabrics: GPUs and the links between them, jobs and what their ranks send, what links carried, and the plans made of it.

Speeds are GB/s, 1e9 bytes/s, of one direction. Where a number names a GPU, it is the index of its node in the topology.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from schemas.columns import require_both, require_once, require_starts
from schemas.frame import Axes, Count, Frame, Int64, Name, Names, TimeNs, at_most, require
from schemas.names import first_twice, require_count, require_distinct
from schemas.plan import Plan, VersionedPlan
from schemas.solver import SolverName, SolverRecord
from schemas.wording import Shown, must_be

# What the numbers of `node_type`, `node_health`, `link_kind` and `group_kind` mean: their place in these.
NODE_TYPES: Final = ("gpu", "nvswitch", "pcie", "cpu", "nic", "leaf", "spine", "host")
HEALTH: Final = ("ok", "degraded", "down")
LINK_KINDS: Final = ("nvlink", "xgmi", "pcie", "c2c", "smp", "ib", "roce", "ethernet")
GROUP_KINDS: Final = ("allreduce", "allgather", "reducescatter", "alltoall", "p2p")
GPU, NVSWITCH, PCIE, CPU, NIC, LEAF, SPINE, HOST = range(len(NODE_TYPES))
PARALLEL: Final = ("tp", "cp", "ep", "dp", "pp")

MAX_GB_S: Final = 10_000.0  # of one link; what is above is in bits
MAX_RANKS: Final = 1 << 17
MAX_SLICES: Final = 1 << 16
MAX_DIRECTIVES: Final = 20

Text = Annotated[str, StringConstraints(max_length=20_000)]
Order = Annotated[str, StringConstraints(max_length=40)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Size = Annotated[int, Field(ge=1, le=MAX_RANKS)]
Us = Annotated[float, Field(ge=0)]
Candidates = Annotated[tuple[SolverRecord, ...], Field(strict=False, max_length=16)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


def _digest(frame: Frame, *fields: str) -> str:
    """blake2b of the arrays by name, and of these header fields, in 16 hex digits."""
    found = hashlib.blake2b(repr([getattr(frame, field) for field in fields]).encode() if fields else b"", digest_size=8)
    for name in frame.arrays:
        array = getattr(frame, name)
        if array is not None:
            found.update(f"{name}:{array.shape}".encode())
            found.update(array)
    return found.hexdigest()


class FabricTopology(Frame):
    """The GPUs of a fabric, what switches and joins them, and the links between, each direction a link.

    A domain is an NVLink clique or a rack. `node_host` is the index of the node of type host (7) on which a node is, -1 if
    unknown. Names are distinct, except that a host may be named as something else is. A NIC may be left out: then it is the link
    from its GPU to the leaf. Links of a pair of nodes that have the same kind are one link with their number in `link_count` and
    their speed, all together, in `link_gb_s`.
    """

    fabric: Name = Field(description="name of the fabric: one graph, planned as one")
    ts_ns: TimeNs = Field(default=0, description="when it was described, ns since 1970")
    source: str = Field(default="", max_length=200, description="what the description was read from")
    node_name: Names = Field(description="name of each node")
    domain_name: Names = Field(default=(), description="names of the domains, which `node_domain` points to")
    warnings: Names = Field(default=(), description="what was strange in the description, a sentence each")
    node_type: Annotated[NDArray[np.uint8], Axes("nodes")] = Field(
        description="0 gpu, 1 nvswitch, 2 pcie, 3 cpu, 4 nic, 5 leaf, 6 spine, 7 host"
    )
    node_host: Annotated[NDArray[np.int32], Axes("nodes")] = Field(description="node of type host that it is on; -1 unknown")
    node_domain: Annotated[NDArray[np.int32], Axes("nodes")] = Field(description="NVLink domain or rack; -1 none")
    node_health: Annotated[NDArray[np.uint8], Axes("nodes")] = Field(description="0 ok, 1 degraded, 2 down")
    node_free: Annotated[NDArray[np.bool_], Axes("nodes")] = Field(description="whether jobs may be placed on it")
    link_src: Annotated[NDArray[np.int32], Axes("links")] = Field(description="node that sends")
    link_dst: Annotated[NDArray[np.int32], Axes("links")] = Field(description="node that receives")
    link_kind: Annotated[NDArray[np.uint8], Axes("links")] = Field(
        description="0 nvlink, 1 xgmi, 2 pcie, 3 c2c, 4 smp, 5 ib, 6 roce, 7 ethernet"
    )
    link_count: Annotated[NDArray[np.int32], Axes("links")] = Field(description="links of this pair of nodes, taken together")
    link_gb_s: Annotated[NDArray[np.float32], Axes("links")] = Field(description="nominal payload speed of all together, GB/s")
    link_effective_gb_s: Annotated[NDArray[np.float32], Axes("links")] | None = Field(
        default=None, description="speed that programs reach, GB/s; absent: nominal"
    )
    link_latency_us: Annotated[NDArray[np.float32], Axes("links")] | None = Field(default=None, description="latency, us")
    link_up: Annotated[NDArray[np.bool_], Axes("links")] | None = Field(
        default=None, description="whether the link works; absent: all do"
    )

    def digest(self) -> str:
        """16 hex digits that are the same for the same arrays, whatever the names."""
        return _digest(self)

    @property
    def speed_gb_s(self) -> NDArray[np.float32]:
        """Speed of each link that plans use, float32 [links]: effective where known."""
        return self.link_gb_s if self.link_effective_gb_s is None else self.link_effective_gb_s

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        nodes = len(self.node_type)
        require_count(self, "node_name", nodes, "the nodes")
        require_distinct(self, "domain_name")
        for field, words in (("node_type", NODE_TYPES), ("node_health", HEALTH), ("link_kind", LINK_KINDS)):
            require(self, field, 0, len(words) - 1)
        require(self, "node_host", -1, nodes - 1)
        require(self, "node_domain", -1, len(self.domain_name) - 1)
        if not (self.node_type == GPU).any():
            raise ValueError(must_be("node_type", "of at least one GPU (0)", Shown("none")))
        on = self.node_host[self.node_host >= 0]
        if (self.node_type[on] != HOST).any():
            wrong = self.node_name[int(on[self.node_type[on] != HOST][0])]
            raise ValueError(must_be("node_host", "nodes of type host", wrong))
        hosts = self.node_type == HOST
        for kind in (True, False):
            names = [name for name, is_host in zip(self.node_name, hosts.tolist(), strict=True) if is_host is kind]
            if (twice := first_twice(names)) is not None:
                raise ValueError(must_be("node_name", "distinct names", Shown(f"{twice!r} twice")))
        if not len(self.link_src):
            raise ValueError(must_be("link_src", "of at least one link", Shown("none")))
        require(self, "link_src", 0, nodes - 1, f"a node, 0 to {nodes - 1}")
        require(self, "link_dst", 0, nodes - 1, f"a node, 0 to {nodes - 1}")
        require(self, "link_count", 1)
        require(self, "link_latency_us", 0)
        for field in ("link_gb_s", "link_effective_gb_s"):
            speed = getattr(self, field)
            if speed is not None and (speed <= 0).any():
                raise ValueError(must_be(field, "above 0", Shown(f"{float(speed.min()):g}")))
            if speed is not None and (most := float((speed / self.link_count).max())) > MAX_GB_S:
                rule = f"at most {MAX_GB_S:g} GB/s a link, in bytes"
                raise ValueError(must_be(field, rule, Shown(f"{most:g}, which may be bits")))
        return self

    @classmethod
    def example(cls) -> Self:
        src, dst = np.array([[0, 4], [1, 4], [2, 5], [3, 5], [0, 6], [1, 7], [2, 6], [3, 7]], np.int32).T
        return cls(
            fabric="pod-1",
            ts_ns=1_700_000_000_000_000_000,
            source="example",
            node_name=("a0", "a1", "b0", "b1", "switch-a", "switch-b", "leaf-0", "leaf-1", "host-a", "host-b"),
            domain_name=("rack-a", "rack-b"),
            node_type=np.array([0, 0, 0, 0, 1, 1, 5, 5, 7, 7], np.uint8),
            node_host=np.array([8, 8, 9, 9, -1, -1, -1, -1, 8, 9], np.int32),
            node_domain=np.array([0, 0, 1, 1, 0, 1, -1, -1, -1, -1], np.int32),
            node_health=np.zeros(10, np.uint8),
            node_free=np.ones(10, np.bool_),
            link_src=np.concatenate([src, dst]),
            link_dst=np.concatenate([dst, src]),
            link_kind=np.tile(np.array([0, 0, 0, 0, 5, 5, 5, 5], np.uint8), 2),
            link_count=np.tile(np.array([18, 18, 18, 18, 1, 1, 1, 1], np.int32), 2),
            link_gb_s=np.tile(np.array([900, 900, 900, 900, 50, 50, 50, 50], np.float32), 2),
        )


class ParallelSizes(_Part):
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
        return _digest(self, "num_ranks", "ended", "parallel", "order", "period_us", "max_slices", "balanced")

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


class FabricScore(_Part):
    """What a plan is worth in the model of the fabric: `before` is the placement in force, else the linear order.

    Costs are bytes times us/KB, summed over all pairs of ranks: lower is better, and no time of anything.
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


class RouteScore(_Part):
    """The fullest link's load over its speed, on the demand of the last window; modelled."""

    wcmp: Us = Field(description="with shares in proportion to the narrower link of each path")
    planned: Us = Field(description="with the shares of this plan")
    last_served: Us | None = Field(default=None, description="with the shares that were in force; none at the start")


class RouteShares(Plan):
    """Which part of the bytes between two leaves goes over which spine, until the next ones."""

    fabric: Name = Field(description="the fabric")
    topology_digest: Digest = Field(description="digest of the topology that the nodes are of")
    planner: SolverName = Field(description="what the shares come from: mix, or wcmp")
    guard: Name = Field(default="ours", description="what the guard lets answer, and why")
    score: RouteScore | None = Field(default=None, strict=False, description="what the shares are worth; none before a window")
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


def words(kinds: tuple[str, ...], numbers: NDArray[Any]) -> list[str]:
    """The word for each number, such as ``words(NODE_TYPES, topology.node_type)``."""
    return [kinds[number] for number in numbers.tolist()]
