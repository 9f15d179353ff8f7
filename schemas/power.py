"""Power: readings of GPUs, the tree of power budgets above them, budgets, value curves of domains and serving loads.

In all of these -1 means not reported, or none, for quantities that are otherwise at least 0.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, model_validator

from schemas.frame import Axes, Count, Frame, Name, Names, TimeNs, require
from schemas.names import require_count, require_distinct
from schemas.wording import Shown, must_be

MAX_GPUS: Final = 1024  # of a domain; a larger site is a tree of domains
MOST_LIMIT_W: Final = 10_000  # of a GPU; what is above is in milliwatts
MAX_POINTS: Final = 64  # of a value curve
QUANTITIES: Final = (
    "limit_min_w", "limit_max_w", "limit_default_w", "idle_w", "parked_w", "node_budget_w", "overhead_w", "inner_budget_w",
    "sm_clock_mhz", "qpu_idle_w", "qpu_active_w", "nvlink_mode_w",
)  # fmt: skip
Workload = Literal["prefill", "decode", "train", "other", ""]
Workloads = Annotated[tuple[Workload, ...], Field(strict=False, fail_fast=True)]
MaybeName = Annotated[str, StringConstraints(max_length=200)]
MaybeNames = Annotated[tuple[MaybeName, ...], Field(strict=False, fail_fast=True)]
Watts = Annotated[float, Field(ge=0)]
Gpus = Annotated[NDArray[np.float32], Axes("gpus")]


def _no_watts() -> NDArray[np.float32]:
    return np.zeros(0, np.float32)


def _no_rows() -> NDArray[np.int32]:
    return np.zeros(0, np.int32)


class GpuTelemetry(Frame):
    """Readings of the GPUs of one node, or of one rack, at one time.

    Rows of `value` are the metrics named in `metric`, rows of `count` the counters named in `counter`; columns are the GPUs of
    `uuid`. Known metrics are ``power_w`` (mean of the last second), ``power_instant_w``, ``power_limit_w``,
    ``power_limit_enforced_w``, ``sm_clock_mhz``, ``gpu_util``, ``sm_active``, ``temp_c`` and what DCGM reports besides; known
    counters ``energy_mj``, ``clock_event_reasons`` and ``progress``, the work done so far in `progress_unit`. Unknown names are
    ignored. -1 in `value` and 2**64 - 1 in `count` mean not reported.
    """

    CHANGING: ClassVar[tuple[str, ...]] = ("ts_ns", "seq")

    domain: Name = Field(description="the power domain that one plan covers")
    ts_ns: TimeNs = Field(description="time of the readings, ns since 1970")
    node: Name = Field(description="the node, or the rack, that sends")
    boot_id: str = Field(default="", max_length=200, description="another one after each start of the node")
    seq: Count = Field(default=0, description="rises by one with each record of the sender")
    uuid: Names = Field(description="the GPUs, each once")
    metric: Names = Field(description="names of the rows of `value`")
    counter: Names = Field(default=(), description="names of the rows of `count`")
    progress_unit: str = Field(default="", max_length=100, description="what `progress` counts: tokens, steps, requests")
    job: MaybeNames = Field(default=(), description="the job of each GPU; may be empty")
    workload: Workloads = Field(default=(), description="prefill, decode, train or other, of each GPU; may be empty")
    value: Annotated[NDArray[np.float32], Axes("metrics", "gpus")] = Field(description="the readings, in the unit of each name")
    count: Annotated[NDArray[np.uint64], Axes("counters", "gpus")] | None = Field(
        default=None, description="counters, which only rise until they are reset"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        metrics, gpus = self.value.shape
        for field in ("uuid", "metric", "counter"):
            require_distinct(self, field)
        require_count(self, "uuid", gpus, "the columns of value")
        require_count(self, "metric", metrics, "the rows of value")
        require_count(self, "counter", 0 if self.count is None else len(self.count), "the rows of count")
        require_count(self, "job", gpus, "the GPUs", or_none=True)
        require_count(self, "workload", gpus, "the GPUs", or_none=True)
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            domain="row-1",
            ts_ns=1_700_000_000_000_000_000,
            node="node-0",
            boot_id="b1",
            seq=7,
            uuid=("GPU-0", "GPU-1"),
            metric=("power_w", "power_limit_w", "sm_clock_mhz"),
            counter=("energy_mj", "progress"),
            progress_unit="tokens",
            job=("chat", "chat"),
            workload=("decode", "decode"),
            value=np.array([[273.5, 281.25], [700, 700], [1980, 1980]], np.float32),
            count=np.array([[812_345_678, 798_112_004], [1_200_345, 1_199_870]], np.uint64),
        )


class PowerTopology(Frame):
    """The GPUs of a domain, their limits, and the tree of power budgets above them.

    Each GPU is in a node; a node may be in an inner budget, such as a rack's; inner budgets may be in others, and what has no
    parent (-1) is in the domain. Only GPUs with `opt_in` 1 are ever given a target; without the array none is. A domain that
    divides its budget among others has `child` in place of GPUs and nodes.
    """

    domain: Name = Field(description="the power domain that one plan covers")
    ts_ns: TimeNs = Field(default=0, description="when it was described, ns since 1970")
    budget_w: Watts = Field(description="watts that the domain may draw")
    parent: str = Field(default="", max_length=200, description="the domain that allots the budget; empty: none")
    rev: Count = Field(default=0, description="revision of the description")
    node: Names = Field(default=(), description="the nodes, each once")
    uuid: Names = Field(default=(), description="the GPUs, each once")
    child: Names = Field(default=(), description="domains that get their budgets from this one; then it has no GPUs")
    model: Names = Field(default=(), description="GPU models, which `model_of_gpu` points to")
    inner: Names = Field(default=(), description="budgets between nodes and domain, such as racks")
    qpu: Names = Field(default=(), description="quantum processors or simulator pools of the domain")
    node_of_gpu: Annotated[NDArray[np.int32], Axes("gpus")] = Field(default_factory=_no_rows, description="node of each GPU")
    limit_min_w: Gpus = Field(default_factory=_no_watts, description="lowest power limit that may be set; -1 unknown")
    limit_max_w: Gpus = Field(default_factory=_no_watts, description="highest power limit that may be set; -1 unknown")
    limit_default_w: Gpus = Field(default_factory=_no_watts, description="power limit without any plan; -1 unknown")
    model_of_gpu: Annotated[NDArray[np.int32], Axes("gpus")] | None = Field(default=None, description="model of each GPU")
    idle_w: Gpus | None = Field(default=None, description="watts without work")
    parked_w: Gpus | None = Field(
        default=None,
        description="watts while parked, with its model loaded; absent or -1: as idle_w, else 15 % of the default limit",
    )
    opt_in: Annotated[NDArray[np.uint8], Axes("gpus")] | None = Field(default=None, description="1: may be given targets")
    mig: Annotated[NDArray[np.uint8], Axes("gpus")] | None = Field(
        default=None, description="1: partitioned or shared; advice only, never a target"
    )
    inner_of_node: Annotated[NDArray[np.int32], Axes("nodes")] | None = Field(
        default=None, description="inner budget of each node; -1 the domain"
    )
    node_budget_w: Annotated[NDArray[np.float32], Axes("nodes")] | None = Field(
        default=None, description="watts that each node may draw; -1 no limit of its own"
    )
    overhead_w: Annotated[NDArray[np.float32], Axes("nodes")] | None = Field(
        default=None, description="watts of each node besides its GPUs"
    )
    inner_parent: Annotated[NDArray[np.int32], Axes("inner")] | None = Field(
        default=None, description="the inner budget above each; -1 the domain"
    )
    inner_budget_w: Annotated[NDArray[np.float32], Axes("inner")] | None = Field(
        default=None, description="watts of each inner budget; -1 no limit of its own"
    )
    sm_clock_mhz: Annotated[NDArray[np.float32], Axes("models", "clocks")] | None = Field(
        default=None, description="supported SM clocks of each model, padded with -1"
    )
    qpu_idle_w: Annotated[NDArray[np.float32], Axes("qpus")] | None = Field(default=None, description="watts of each, idle")
    qpu_active_w: Annotated[NDArray[np.float32], Axes("qpus")] | None = Field(default=None, description="watts of each, at work")
    qpu_slots: Annotated[NDArray[np.int32], Axes("qpus")] | None = Field(default=None, description="jobs that each takes at once")
    child_w: Annotated[NDArray[np.float32], Axes("children")] | None = Field(
        default=None, description="watts that each child may draw before it is given a budget"
    )
    inner_of_child: Annotated[NDArray[np.int32], Axes("children")] | None = Field(
        default=None, description="inner budget of each child; -1 the domain"
    )
    nvlink_mode_w: Annotated[NDArray[np.float32], Axes("gpus", "modes")] | None = Field(
        default=None, description="watts of each NVLink bandwidth mode, the fullest first"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        gpus = len(self.uuid)
        if not (gpus or self.child) or gpus > MAX_GPUS:
            raise ValueError(must_be("length of uuid", f"1 to {MAX_GPUS} GPUs", gpus))
        self._check_children()
        for field in ("uuid", "node", "child", "model", "inner", "qpu"):
            require_distinct(self, field)
            if len(getattr(self, field)) > MAX_GPUS:
                raise ValueError(must_be(f"length of {field}", f"at most {MAX_GPUS}", len(getattr(self, field))))
        for field, rows, what in (
            ("node_of_gpu", gpus, "the GPUs"),
            ("limit_min_w", gpus, "the GPUs"),
            ("inner_of_node", len(self.node), "the nodes"),
            ("node_budget_w", len(self.node), "the nodes"),
            ("overhead_w", len(self.node), "the nodes"),
            ("inner_parent", len(self.inner), "the inner budgets"),
            ("inner_budget_w", len(self.inner), "the inner budgets"),
            ("sm_clock_mhz", len(self.model), "the models"),
            ("qpu_idle_w", len(self.qpu), "the quantum processors"),
            ("qpu_active_w", len(self.qpu), "the quantum processors"),
            ("qpu_slots", len(self.qpu), "the quantum processors"),
        ):
            require_count(self, field, rows, what)
        require(self, "node_of_gpu", 0, len(self.node) - 1, f"0 to {len(self.node) - 1}, a node of `node`")
        require(self, "model_of_gpu", -1, len(self.model) - 1)
        require(self, "inner_of_node", -1, len(self.inner) - 1)
        require(self, "inner_parent", -1, len(self.inner) - 1)
        for field in ("opt_in", "mig"):
            require(self, field, 0, 1)
        require(self, "qpu_slots", 0)
        self._check_limits()
        self._check_tree()
        return self

    def _check_children(self) -> None:
        """A domain has GPUs or children; what each of these may draw is known."""
        if self.child and (self.uuid or self.node):
            raise ValueError(must_be("child", "empty in a domain that has GPUs or nodes", self.child[0]))
        if self.domain in (*self.child, self.parent):
            raise ValueError(must_be("child and parent", "other domains than this one", self.domain))
        if self.parent in self.child:
            raise ValueError(must_be("parent", "a domain that is not a child of this one", self.parent))
        if self.child and self.child_w is None:
            raise ValueError(must_be("child_w", "given where there are children", None))
        for field in ("child_w", "inner_of_child"):
            require_count(self, field, len(self.child), "the children")
        require(self, "inner_of_child", -1, len(self.inner) - 1)
        if self.child_w is not None and (self.child_w < 0).any():
            raise ValueError(must_be("child_w", "at least 0 W", float(self.child_w.min())))

    def _check_limits(self) -> None:
        """Known limits are in order; no quantity is below 0 unless it is -1."""
        for field in QUANTITIES:
            array = getattr(self, field)
            if array is not None and (bad := (array < 0) & (array != -1)).any():
                raise ValueError(must_be(field, "at least 0, or -1", float(array[bad][0])))
        least, most, default = self.limit_min_w, self.limit_max_w, self.limit_default_w
        for name, limit in (("limit_min_w", least), ("limit_max_w", most), ("limit_default_w", default)):
            if (limit > MOST_LIMIT_W).any():
                raise ValueError(must_be(name, f"in watts, at most {MOST_LIMIT_W:.0f}", float(limit.max())))
        for name, lower, upper, above in (
            ("limit_min_w", least, most, "limit_max_w"),
            ("limit_default_w", default, most, "limit_max_w"),
            ("limit_min_w", least, default, "limit_default_w"),
        ):
            wrong = (lower > upper) & (lower >= 0) & (upper >= 0)
            if wrong.any():
                at = int(wrong.argmax())
                rule = f"at most {above}, {float(upper[at]):g} W, of {self.uuid[at]}"
                raise ValueError(must_be(name, rule, float(lower[at])))

    def _check_tree(self) -> None:
        """No inner budget is above itself."""
        parent = np.full(len(self.inner), -1) if self.inner_parent is None else self.inner_parent
        above = parent.copy()
        for _ in range(len(parent)):
            above = np.where(above >= 0, parent[above], -1)
        if (above >= 0).any():
            at = self.inner[int((above >= 0).argmax())]
            raise ValueError(must_be("inner_parent", "a tree", Shown(f"a cycle above {at!r}")))

    def model_name(self, gpu: int) -> str:
        """The model of a GPU by its row; empty where it is not known."""
        at = -1 if self.model_of_gpu is None else int(self.model_of_gpu[gpu])
        return self.model[at] if at >= 0 else ""

    @classmethod
    def example(cls) -> Self:
        return cls(
            domain="row-1",
            ts_ns=1_700_000_000_000_000_000,
            budget_w=2600.0,
            rev=1,
            node=("node-0", "node-1"),
            uuid=("GPU-0", "GPU-1", "GPU-2", "GPU-3"),
            model=("h100",),
            inner=("rack-1",),
            node_of_gpu=np.array([0, 0, 1, 1], np.int32),
            limit_min_w=np.full(4, 200, np.float32),
            limit_max_w=np.full(4, 700, np.float32),
            limit_default_w=np.full(4, 700, np.float32),
            model_of_gpu=np.zeros(4, np.int32),
            idle_w=np.full(4, 70, np.float32),
            opt_in=np.array([1, 1, 1, 0], np.uint8),
            inner_of_node=np.array([0, 0], np.int32),
            node_budget_w=np.array([1400, -1], np.float32),
            overhead_w=np.array([150, 150], np.float32),
            inner_parent=np.array([-1], np.int32),
            inner_budget_w=np.array([2600], np.float32),
            sm_clock_mhz=np.array([[1185, 1380, 1590, 1785, 1980]], np.float32),
        )


class PowerBudget(Frame):
    """Watts that a domain may draw for a time. Of all that are valid the lowest holds; a source's newest replaces its older."""

    domain: Name = Field(description="the power domain that is limited")
    ts_ns: TimeNs = Field(default=0, description="when it was decided, ns since 1970")
    budget_w: Watts = Field(description="watts that the domain may draw")
    valid_from_ns: TimeNs = Field(default=0, description="from when, ns since 1970")
    valid_until_ns: TimeNs | None = Field(default=None, description="until when, ns since 1970; none: until it is replaced")
    source: Name = Field(default="operator", description="who limits: an operator, the grid, a parent domain")
    ramp_w_s: float | None = Field(default=None, gt=0, description="watts a second by which the domain's power may change")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.valid_until_ns is not None and self.valid_until_ns <= self.valid_from_ns:
            rule = f"later than valid_from_ns, {self.valid_from_ns}"
            raise ValueError(must_be("valid_until_ns", rule, self.valid_until_ns))
        return self

    @classmethod
    def example(cls) -> Self:
        begin = 1_700_000_000_000_000_000
        return cls(domain="row-1", ts_ns=begin, budget_w=2080.0, valid_from_ns=begin, source="grid", ramp_w_s=500.0)


class PowerDemand(Frame):
    """What watts are worth to a child domain: a concave curve, from which its parent allots budgets."""

    domain: Name = Field(description="the parent, which allots")
    ts_ns: TimeNs = Field(description="when it was computed, ns since 1970")
    child: Name = Field(description="the domain that asks")
    least_w: Watts = Field(description="watts below which the child cannot go")
    upper_w: Watts = Field(default=0.0, description="watts that the child may draw at most now, by what is enforced")
    held_w: Watts = Field(default=0.0, description="the lowest budget that the child keeps to")
    held_ns: TimeNs = Field(default=0, description="`ts_ns` of the parent's budget that the child holds; 0: none")
    watts: Annotated[NDArray[np.float64], Axes("points")] = Field(description="watts, rising")
    value: Annotated[NDArray[np.float64], Axes("points")] = Field(description="work a second at each, in the child's measure")

    @model_validator(mode="after")
    def _concave(self) -> Self:
        if not 1 <= len(self.watts) <= MAX_POINTS:
            raise ValueError(must_be("length of watts", f"1 to {MAX_POINTS} points", len(self.watts)))
        if self.child == self.domain:
            raise ValueError(must_be("child", "another domain than its parent", self.child))
        if self.watts[0] < 0:
            raise ValueError(must_be("watts", "at least 0", float(self.watts[0])))
        step, gain = np.diff(self.watts), np.diff(self.value)
        if (step <= 0).any():
            raise ValueError(
                must_be("watts", "rising", Shown(f"{float(self.watts[int(step.argmin()) + 1]):g} after a higher one"))
            )
        if (gain < 0).any():
            raise ValueError(must_be("value", "not falling", Shown(f"a fall by {-float(gain.min()):g}")))
        slope = gain / step
        if len(slope) > 1 and (np.diff(slope) > 1e-9 * slope.max()).any():
            raise ValueError(must_be("value", "concave in watts", Shown("a slope that rises")))
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            domain="site",
            ts_ns=1_700_000_000_000_000_000,
            child="row-1",
            least_w=1100.0,
            upper_w=2500.0,
            held_w=2600.0,
            held_ns=1_699_999_990_000_000_000,
            watts=np.array([1100, 1800, 2600], np.float64),
            value=np.array([2.0, 3.4, 4.0], np.float64),
        )


class ServingLoad(Frame):
    """Demand on one served model in one window, and what its replicas can do."""

    domain: Name = Field(description="the power domain of the replicas")
    ts_ns: TimeNs = Field(description="end of the window, ns since 1970")
    model: Name = Field(description="the model that is served")
    window_s: float = Field(gt=0, description="length of the window")
    tokens_s: float = Field(ge=0, description="tokens a second that were asked for")
    capacity_tokens_s: float = Field(gt=0, description="tokens a second that one replica serves within its objective")
    itl_p95_ms: float = Field(default=-1.0, ge=-1, description="95 % quantile of the time between tokens, ms; -1 not reported")
    slo_itl_ms: float = Field(default=-1.0, ge=-1, description="the objective for it, ms; -1 none")
    replicas: Count = Field(description="replicas that were active")
    most_replicas: Count = Field(default=0, description="replicas that can be active; 0: as many as the domain's GPUs allow")
    gpus_per_replica: int = Field(default=1, ge=1, le=MAX_GPUS, description="GPUs of one replica")

    @classmethod
    def example(cls) -> Self:
        return cls(
            domain="row-1",
            ts_ns=1_700_000_000_000_000_000,
            model="chat",
            window_s=10.0,
            tokens_s=5400.0,
            capacity_tokens_s=1500.0,
            itl_p95_ms=31.5,
            slo_itl_ms=50.0,
            replicas=4,
            gpus_per_replica=2,
        )
