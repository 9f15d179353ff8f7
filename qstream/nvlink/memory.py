"""What the nvlink agent remembers of a fabric."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qstream.learn.state import LearningState
from qstream.module.draft import Draft
from qstream.module.inforce import InForce
from qstream.module.planning import Planning
from qstream.nvlink.leaves import LeafSpine, leaf_spine
from qstream.nvlink.outcomes import Outcomes
from qstream.nvlink.splits import SplitState
from schemas.fabric import FabricTopology, JobProfile
from schemas.frame import Axes, Count, Frame, Inner, Int64, Name, TimeNs
from schemas.power import MaybeNames

NO_WINDOW = -1
_TELEMETRY = frozenset({"source", "source_window", "heard_ns", "foreign", "late", "repeated", "stale", "window"})
_KEPT = _TELEMETRY | {"frame", "splits", "jobs", "outcomes", "frozen", "commands"}  # whatever the topology


class HeldJob(Frame):
    """A job of the fabric: its profile, where its ranks run or are to run (None: nowhere), and its plan's versions.

    `queued` says that it waits to be planned, `planning` that it is being planned. `digest` is the profile's.
    """

    job: Name
    digest: Name
    priority: Int64 = 0
    queued: bool = False
    in_force: Annotated[InForce, Field(strict=False)] = InForce()
    planning: Annotated[Planning, Field(strict=False)] = Planning()
    profile: Annotated[JobProfile, Inner()]
    gpu_of_rank: Annotated[NDArray[np.int32], Axes("ranks")] | None = None

    @classmethod
    def example(cls) -> Self:
        profile = JobProfile.example()
        return cls(job=profile.job, digest=profile.digest(), profile=profile)


class FabricState(LearningState):
    """One fabric: its topology, the window of telemetry that is open, and the shares in force.

    `digest` is the topology's. `source` are the collectors, and `source_window` the newest window of each, so that none
    counts twice. `window` is the number of the open window (-1: none yet): `link_bytes` is what links carried in it,
    `link_seen` whether any source reported it, `link_slow` whether it was reported as congested (1), or not (2), and
    `pair_bytes` what leaves offered to each other. `link_down` are links that do not work according to telemetry.
    `heard_ns` is the end of the newest reported window; `stale` says that shares went back to WCMP because reports stopped.
    `foreign` counts records of another topology, `late` those of a closed window, `repeated` those that came twice. `jobs`
    are in the order in which they are planned. `splits` is what was learnt of shares, once there is a choice of spines;
    `outcomes` are the newest layouts and what they took, to learn contention from.
    """

    topology: Annotated[FabricTopology, Inner()]
    digest: str = Field(max_length=16)
    jobs: Annotated[tuple[Annotated[HeldJob, Inner()], ...], Field(strict=False)] = ()
    splits: SplitState | None = None
    outcomes: Outcomes | None = None
    source: MaybeNames = ()
    window: Int64 = NO_WINDOW
    heard_ns: TimeNs = 0
    stale: bool = False
    foreign: Count = 0
    late: Count = 0
    repeated: Count = 0
    source_window: Annotated[NDArray[np.int64], Axes("sources")]
    link_bytes: Annotated[NDArray[np.float64], Axes("links")]
    link_seen: Annotated[NDArray[np.uint8], Axes("links")]
    link_slow: Annotated[NDArray[np.uint8], Axes("links")]
    link_down: Annotated[NDArray[np.uint8], Axes("links")]
    pair_bytes: Annotated[NDArray[np.float64], Axes("leaves", "leaves")] | None = None

    @classmethod
    def example(cls) -> Self:
        return cls(**dict(fresh(FabricTopology.example()).now))


Memory = Draft[FabricState]


def fresh(topology: FabricTopology) -> Memory:
    """A fabric of which nothing is known but its topology."""
    links = len(topology.link_src)
    flags = np.zeros(links, np.uint8)
    found = FabricState(
        topology=topology,
        digest=topology.digest(),
        source_window=np.zeros(0, np.int64),
        link_bytes=np.zeros(links),
        link_seen=flags,
        link_slow=flags,
        link_down=flags,
        pair_bytes=_no_pairs(topology),
    )
    return Draft(found)


def adopt(memory: Memory, topology: FabricTopology) -> None:
    """Another topology: the open window ends with the old one; what is learnt stays where leaves and spines are as many."""
    new, old = fresh(topology).now, memory.now
    memory.set(**{name: getattr(new, name) for name in type(new).model_fields if name not in _KEPT})
    before = None if old.splits is None else old.splits.up_factor.shape
    now = leaves_of(memory)
    if now is None or before != now.up_gb_s.shape:
        memory.set(splits=None)


def leaves_of(memory: Memory) -> LeafSpine | None:
    """The leaf-spine part of the fabric, without links that telemetry says do not work."""
    return leaf_spine(memory.now.topology, memory.now.link_down)


def _no_pairs(topology: FabricTopology) -> NDArray[np.float64] | None:
    leaves = leaf_spine(topology)
    return None if leaves is None else np.zeros((len(leaves.leaf), len(leaves.leaf)))
