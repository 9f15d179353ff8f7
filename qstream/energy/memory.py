"""What the energy agent remembers of a power domain."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from qstream.energy.arms import MetaState
from qstream.energy.children import Children, carried_children, fresh_children
from qstream.energy.held import HeldGraph
from qstream.energy.outcomes import UnseenState
from qstream.energy.outlook import Outlook
from qstream.energy.serving import Served
from qstream.learn.state import LearningState
from qstream.module.draft import Draft
from qstream.module.inforce import InForce
from schemas.frame import Axes, Count, Inner, Name, TimeNs
from schemas.power import MaybeNames, PowerBudget, PowerTopology

LEVELS: Final = 12  # caps of a GPU that may be measured, the default last
RECENT: Final = 3  # maxima of power that are kept, each of `RECENT_S` seconds
RECENT_S: Final = 10.0
MAX_SOURCES: Final = 64  # of budgets
MAX_PUBLISHED: Final = 4
KEPT: Final = (  # whatever the topology
    "in_force", "fence", "watermark_ns", "since_ns", "planned_ns", "published_ns", "applied_ns", "budgets", "published",
    "schedules", "graphs", "served", "frozen", "commands", "meta", "unseen", "outlook",
)  # fmt: skip
Float32 = Annotated[NDArray[np.float32], Axes("gpus")]
Int64 = Annotated[NDArray[np.int64], Axes("gpus")]
Uint64 = Annotated[NDArray[np.uint64], Axes("gpus")]
Uint8 = Annotated[NDArray[np.uint8], Axes("gpus")]
Int8 = Annotated[NDArray[np.int8], Axes("gpus")]


class HeldBudget(BaseModel):
    """The newest budget of one source."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    source: Name
    ts_ns: TimeNs = 0
    budget_w: float
    valid_from_ns: TimeNs
    valid_until_ns: TimeNs | None = None
    ramp_w_s: float | None = None

    @classmethod
    def of(cls, budget: PowerBudget) -> Self:
        """What holds of a frame."""
        fields = {name: getattr(budget, name) for name in cls.model_fields}
        return cls(**fields)

    def holds(self, now_ns: int, until_ns: int) -> bool:
        """Whether it is valid at some time from now on until then."""
        return self.valid_from_ns <= until_ns and (self.valid_until_ns is None or now_ns < self.valid_until_ns)


class Published(BaseModel):
    """A plan that was published, so that an acknowledgement says which time it is of."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    plan_id: str
    ts_ns: TimeNs


class EnergyState(LearningState):
    """One power domain: its topology, the newest readings, what was measured of each GPU's caps, and the plan in force.

    Arrays are by GPU in the topology's order. `seen_ns` is when a GPU was heard last (0: never), `unfit` how many samples since
    could not be measurements, `changed_ns` when its target changed, `begin_ns` when the measurement that goes on began (0: none
    does). `time_s` and `draw_w` are seconds for a unit of work and watts at each level of its knob, -1 where it was not
    measured; `level` is the one in force, `accepted` the best one once probing is over, `error` the standard error of each time
    as a part of it, and `verified_ns` when the default was measured last. A measurement has `windows` from plan to plan, the
    newest begun at `mark_ns`, whose rates of work have the sums `rate_sum` and `rate_square`. `want_w` is the greatest power
    that it drew lately while no limit held it down. `since_ns` is when the domain was heard first (0: not
    yet, 1: no more nodes are awaited). `reset` says that the next plan is the first one under another topology.
    `children` are what a domain knows of those to which it allots budgets.
    `schedules` are the versions of the domain's task schedules, `graphs` those that hold or are being planned;
    `served` are the models that are served, `outlook` the forecasts of its watts. Learners are `meta`, which chooses what solves
    a graph, and `unseen`, which judges predictions of tasks, once they have begun.
    `applied_ns` is since when plans are in mode ``apply`` (0: the newest is not): what a dry run proposed was never set.
    `stuck_ns` is when an actuator last said that it could not set the GPU's target. `acked_ns` is the time of the newest plan
    that an actuator said it has taken (0: none, or it is over), `published` the newest plans. `acks` counts the targets that
    were acknowledged since the newest plan, in the order of the results; empty: none.
    """

    topology: Annotated[PowerTopology, Inner()]
    in_force: InForce = Field(default=InForce(), strict=False)
    fence: Count = 1
    watermark_ns: TimeNs = 0
    since_ns: TimeNs = 0
    planned_ns: TimeNs = 0
    published_ns: TimeNs = 0
    applied_ns: TimeNs = 0
    released: bool = False
    reset: bool = False
    budgets: Annotated[tuple[Annotated[HeldBudget, Field(strict=False)], ...], Field(strict=False)] = ()
    published: Annotated[tuple[Annotated[Published, Field(strict=False)], ...], Field(strict=False)] = ()
    acks: Annotated[tuple[Count, ...], Field(strict=False)] = ()
    children: Annotated[Children, Inner()] | None = None
    outlook: Annotated[Outlook, Inner()] | None = None
    schedules: Annotated[InForce, Field(strict=False)] = InForce()
    graphs: Annotated[tuple[Annotated[HeldGraph, Inner()], ...], Field(strict=False)] = ()
    served: Annotated[tuple[Annotated[Served, Inner()], ...], Field(strict=False)] = ()
    meta: MetaState | None = None
    unseen: UnseenState | None = None
    job: MaybeNames = ()
    boot: MaybeNames = ()
    node_ns: Annotated[NDArray[np.int64], Axes("nodes")]
    seen_ns: Int64
    unfit: Uint8
    hot: Uint8
    power_w: Float32
    want_w: Float32
    peak_w: Annotated[NDArray[np.float32], Axes("gpus", "recent")]
    limit_w: Float32
    clock_mhz: Float32
    active: Float32
    energy_mj: Uint64
    progress: Uint64
    works: Uint8
    begin_ns: Int64
    begin_energy_mj: Uint64
    begin_progress: Uint64
    power_sum: Annotated[NDArray[np.float64], Axes("gpus")]
    samples: Annotated[NDArray[np.int32], Axes("gpus")]
    time_s: Annotated[NDArray[np.float32], Axes("gpus", "levels")]
    draw_w: Annotated[NDArray[np.float32], Axes("gpus", "levels")]
    accepted: Int8
    probing: Uint8
    level: Int8
    target_w: Float32
    before_w: Float32
    target_mhz: Float32
    changed_ns: Int64
    stuck_ns: Int64
    acked_ns: Int64
    mark_ns: Int64
    mark_progress: Uint64
    windows: Annotated[NDArray[np.int32], Axes("gpus")]
    rate_sum: Annotated[NDArray[np.float64], Axes("gpus")]
    rate_square: Annotated[NDArray[np.float64], Axes("gpus")]
    error: Annotated[NDArray[np.float32], Axes("gpus", "levels")]
    verified_ns: Int64

    @classmethod
    def example(cls) -> Self:
        return cls(**dict(fresh(PowerTopology.example()).now))


Memory = Draft[EnergyState]


def fresh(topology: PowerTopology, version: int = 0) -> Memory:
    """A domain of which only the topology is known."""
    children = fresh_children(len(topology.child)) if topology.child else None
    arrays = empty(max(1, len(topology.uuid)), len(topology.node))  # a domain without GPUs has one row that nothing reads
    return Draft(EnergyState(topology=topology, in_force=InForce(version=version), children=children, **arrays))


def empty(gpus: int, nodes: int) -> dict[str, Any]:
    """The arrays of a state before the first reading."""
    int64, uint64, uint8 = (np.zeros(gpus, kind) for kind in (np.int64, np.uint64, np.uint8))
    unknown, int8 = np.full(gpus, -1, np.float32), np.full(gpus, -1, np.int8)
    none = np.full((gpus, LEVELS), -1, np.float32)
    return {
        "job": ("",) * gpus,
        "boot": ("",) * nodes,
        "node_ns": np.zeros(nodes, np.int64),
        "peak_w": np.full((gpus, RECENT), -1, np.float32),
        **dict.fromkeys(("power_sum", "rate_sum", "rate_square"), np.zeros(gpus)),
        **dict.fromkeys(("samples", "windows"), np.zeros(gpus, np.int32)),
        "error": np.zeros((gpus, LEVELS), np.float32),
        **dict.fromkeys(("time_s", "draw_w"), none),
        **dict.fromkeys(("seen_ns", "begin_ns", "changed_ns", "stuck_ns", "acked_ns", "mark_ns", "verified_ns"), int64),
        **dict.fromkeys(("energy_mj", "progress", "begin_energy_mj", "begin_progress", "mark_progress"), uint64),
        **dict.fromkeys(("unfit", "hot", "works", "probing"), uint8),
        **dict.fromkeys(("power_w", "want_w", "limit_w", "clock_mhz", "active", "target_w", "before_w", "target_mhz"), unknown),
        **dict.fromkeys(("accepted", "level"), int8),
    }


def carried(memory: Memory, topology: PowerTopology) -> Memory:
    """The memory under another topology. What is known of a GPU stays if its limits are the same; what was measured of it only
    if its clocks are too, and then if no GPU of its model has others."""
    now, new = memory.now, fresh(topology, memory.now.in_force.version)
    known = {uuid: row for row, uuid in enumerate(now.topology.uuid)}
    pairs = [(known[uuid], row) for row, uuid in enumerate(topology.uuid) if uuid in known]
    old_rows, rows = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    same = np.ones(len(rows), bool)
    for name in ("limit_min_w", "limit_max_w", "limit_default_w"):
        same &= getattr(now.topology, name)[old_rows] == getattr(topology, name)[rows]
    same &= _clocks(now.topology, old_rows) == _clocks(topology, rows)
    old_rows, rows = old_rows[same], rows[same]
    for name, axes in EnergyState.arrays.items():
        if axes[0] == "gpus":
            new.edit(name)[rows] = getattr(now, name)[old_rows]
    nodes = {name: at for at, name in enumerate(now.topology.node)}
    came = [at for at, name in enumerate(topology.node) if name in nodes]
    new.edit("node_ns")[came] = now.node_ns[[nodes[topology.node[at]] for at in came]]
    boots = tuple(now.boot[nodes[name]] if name in nodes else "" for name in topology.node)
    jobs = list(new.now.job)
    for old_row, row in zip(old_rows.tolist(), rows.tolist(), strict=True):
        jobs[row] = now.job[old_row]
    kept = {name: getattr(now, name) for name in KEPT}
    if now.children is not None and topology.child:
        new.set(children=carried_children(now.children, now.topology.child, topology.child))
    new.set(job=tuple(jobs), boot=boots, reset=topology.uuid != now.topology.uuid or not bool(same.all()), **kept)
    return new


def _clocks(topology: PowerTopology, rows: NDArray[np.int64]) -> NDArray[np.object_]:
    """The supported clocks of each GPU, as bytes to be compared."""
    if topology.sm_clock_mhz is None or topology.model_of_gpu is None:
        return np.full(len(rows), b"", object)
    each = np.array([clocks.tobytes() for clocks in topology.sm_clock_mhz], object)
    model = topology.model_of_gpu[rows]
    found: NDArray[np.object_] = np.where(model >= 0, each[model], b"")
    return found
