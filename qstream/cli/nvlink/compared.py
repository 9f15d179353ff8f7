"""Placements of a job side by side: random, linear, by METIS, the one in force, and ours; in the units of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.nvlink import metis
from qstream.nvlink.blocks import Blocks, blocks_of, domains_of
from qstream.nvlink.job_plan import place_job
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.profile import job_traffic
from qstream.nvlink.units import units_of
from schemas.fabric import HEALTH, FabricPlan, FabricTopology, JobProfile
from schemas.plan import SkipReason
from schemas.wording import Shown, must_be

OURS: Final = "qstream"
METIS_SEEDS: Final = 2
DOWN: Final = HEALTH.index("down")


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A placement and what it costs in the model.

    `block` int32 [ranks]; `gpus` int32 [ranks], None where only blocks are known; `cost_us` is bytes times us/KB, no time;
    `crossing_bytes` those of a step between domains; `domains` how many it takes; `moved` ranks that leave their GPU.
    """

    name: str
    block: NDArray[np.int32]
    gpus: NDArray[np.int32] | None
    cost_us: float
    over_linear: float
    crossing_bytes: float
    domains: int
    moved: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """A plan, the rows of the table, and what they were made of."""

    profile: JobProfile
    topology: FabricTopology
    blocks: Blocks
    plan: FabricPlan
    rows: tuple[Row, ...]
    traffic: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]
    lost: bool  # whether the placement in force is on GPUs that are down

    def row(self, *names: str) -> Row:
        """The first row that has one of these names, the first name first."""
        return next(row for name in names for row in self.rows if row.name == name)

    def as_data(self) -> dict[str, Any]:
        """All of it, for machines."""
        plan = self.plan
        gpus = None if plan.gpu_of_rank is None else [self.topology.node_name[gpu] for gpu in plan.gpu_of_rank.tolist()]
        return {
            "fabric": self.topology.fabric,
            "job": self.profile.job,
            "ranks": self.profile.num_ranks,
            "free_gpus": int(self.blocks.capacity.sum()),
            "bytes": float(self.traffic[2].sum()),
            "modelled": True,
            "placements": [
                {
                    "name": row.name,
                    "cost_us": row.cost_us,
                    "over_linear": row.over_linear,
                    "cross_domain_bytes": row.crossing_bytes,
                    "domains": row.domains,
                    "moved": row.moved,
                }
                for row in self.rows
            ],
            "score": None if plan.score is None else plan.score.model_dump(exclude_none=True),
            "skip_reason": None if plan.skip_reason is None else str(plan.skip_reason),
            "fallback_reason": plan.fallback_reason,
            "solver": plan.solver.model_dump(exclude_none=True),
            "candidates": [each.model_dump(exclude_none=True) for each in plan.candidates],
            "directives": dict(plan.directives),
            "gpu_of_rank": gpus,
        }


def compared(
    profile: JobProfile, topology: FabricTopology, current: NDArray[np.int32] | None, options: NvlinkOptions
) -> Compared:
    """The plan of a job, next to what others would do with the same free GPUs.

    Raises
    ------
    ProblemError
        More ranks than free GPUs, or a rule that the fabric cannot keep.
    """
    plan = place_job(profile, topology, current=current, options=options, seed=options.seed)
    now = profile.gpu_of_rank if current is None else current
    if plan.gpu_of_rank is None or plan.skip_reason == SkipReason.TOO_FEW_GPUS:
        raise ProblemError(_too_few(profile, topology))
    fabric, lost = topology, False
    if now is not None and (topology.node_health[now] == DOWN).any():
        lost, now = True, None  # it runs there no more: the plan is a fresh one
    if now is not None:
        free = topology.node_free.copy()
        free[now] = True
        fabric = topology.model_copy(update={"node_free": free})
    blocks, traffic = blocks_of(fabric), job_traffic(profile)
    fresh = profile.model_copy(update={"gpu_of_rank": None})
    linear = place_job(fresh, fabric, options=NvlinkOptions(placement="off")).gpu_of_rank
    assert linear is not None
    rng = np.random.default_rng(options.seed)
    gpus: dict[str, NDArray[np.int32]] = {"random": rng.permutation(linear), "linear": linear}
    if now is not None:
        gpus["in force"] = np.asarray(now, np.int32)
    gpus[OURS] = plan.gpu_of_rank
    block: dict[str, NDArray[np.int32]] = {name: _block_of(blocks, at) for name, at in gpus.items()}
    if (by_metis := _by_metis(traffic, blocks, profile.num_ranks)) is not None:
        block = {name: at for name, at in block.items() if name != OURS} | {"METIS": by_metis, OURS: block[OURS]}
    base = _cost(traffic, blocks, block["linear"])
    rows = []
    for name, at in block.items():
        cost = _cost(traffic, blocks, at)
        over = cost / base if base > 0 else 1.0
        domains = domains_of(topology, blocks)[at]
        moved = None if now is None or name not in gpus else int(np.count_nonzero(gpus[name] != now))
        rows.append(Row(name, at, gpus.get(name), cost, over, _crossing(traffic, domains), len(np.unique(domains)), moved))
    return Compared(profile, topology, blocks, plan, tuple(rows), traffic, lost)


def _too_few(profile: JobProfile, topology: FabricTopology) -> str:
    """Why the job does not fit."""
    blocks = blocks_of(topology)
    free, largest = int(blocks.capacity.sum()), int(blocks.capacity.max())
    if profile.num_ranks > free:
        return must_be("ranks", f"at most the {free} GPUs that are free", profile.num_ranks)
    slices = f"{'equal ' if profile.balanced else ''}slices"
    most = slices if profile.max_slices is None else f"at most {profile.max_slices} {slices}"
    rule = f"such that {most} hold them, each in a block of free GPUs (the largest has {largest})"
    return must_be("ranks", rule, profile.num_ranks)


def _block_of(blocks: Blocks, gpus: NDArray[np.int32]) -> NDArray[np.int32]:
    found = blocks.block_of_gpu[np.searchsorted(blocks.gpu, gpus)]
    if (found < 0).any():
        raise ProblemError(must_be("GPUs of a placement", "working", Shown(f"node {int(gpus[found < 0][0])}, which is down")))
    return found.astype(np.int32)


def _cost(traffic: tuple[Any, Any, NDArray[np.float64]], blocks: Blocks, block: NDArray[np.int32]) -> float:
    src, dst, nbytes = traffic
    return float(nbytes @ blocks.distance[block[src], block[dst]]) / 1e3


def _crossing(traffic: tuple[Any, Any, NDArray[np.float64]], domain: NDArray[np.int64]) -> float:
    src, dst, nbytes = traffic
    return float(nbytes[domain[src] != domain[dst]].sum())


def _by_metis(
    traffic: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]], blocks: Blocks, ranks: int
) -> NDArray[np.int32] | None:
    """METIS with sizes repaired, the better of two seeds, where it is installed; it knows no pins and no atomic sets."""
    src, dst, nbytes = traffic
    if not metis.is_installed() or not len(src) or int((blocks.capacity > 0).sum()) < 2:
        return None
    alone = np.arange(ranks)
    units = units_of(src.astype(np.int64), dst.astype(np.int64), nbytes, np.full(ranks, -1, np.int32), alone)
    found = [metis.partition(units, blocks.capacity, seed) for seed in range(METIS_SEEDS)]
    known = [block for block in found if block is not None]
    return min(known, key=lambda block: _cost(traffic, blocks, block), default=None)
