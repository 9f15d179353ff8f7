"""The plan of one job: its ranks placed in blocks, then on GPUs, ways of their bytes, and what that is worth in the model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from qstream.nvlink.blocks import Blocks, blocks_of, domains_of
from qstream.nvlink.contention import ContentionModel
from qstream.nvlink.crossing import crossing
from qstream.nvlink.formats.schedulers import directives
from qstream.nvlink.ground import Traffic, ground_of
from qstream.nvlink.job_paths import job_paths
from qstream.nvlink.job_transfers import JobTransfers, job_transfers
from qstream.nvlink.job_tries import Fastest, Stage
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.placing import RankPlacement, place_ranks
from qstream.nvlink.profile import job_traffic
from schemas.fabric import FabricPlan, FabricScore, FabricTopology, JobProfile
from schemas.plan import SkipReason
from schemas.solver import Reason, SolverRecord
from schemas.wording import Shown, must_be

Ints = NDArray[np.int32]
Columns = Mapping[str, Any]  # arrays of the plan by their names
_PERIOD_US = 1e6  # of a job that does not say how often it sends its bytes


def place_job(
    profile: JobProfile,
    topology: FabricTopology,
    *,
    current: ArrayLike | None = None,
    options: NvlinkOptions | None = None,
    others: Sequence[tuple[Traffic, ArrayLike]] = (),
    model: ContentionModel | None = None,
    seed: int = 0,
    plan_id: str = "offline",
    ts_ns: int = 0,
    version: int = 1,
    base_version: int = 0,
) -> FabricPlan:
    """Return the plan of a job on the free GPUs of a fabric. Modelled, not measured.

    Parameters
    ----------
    profile
        The job: its traffic, sets of ranks that share a domain, pins, how many slices it may have.
    topology
        The fabric; `node_free` says where jobs may be placed. GPUs on which this job runs now are free to it.
    current
        int [ranks], the GPU of each rank now, a node of the topology; by default the profile's.
    options
        By default `NvlinkOptions()`; a plan that wins less than `min_gain` over the current placement, moves included, leaves
        it; it is published even so where pieces or transfers help.
    others, model
        With `classifier`: what other jobs send, each with the GPU of each of its ranks, and what foresees contention. Without a
        model, layouts are ranked by their analytic bound, and `fallback_reason` says so.
    seed
        Of everything that is drawn.
    plan_id, ts_ns, version, base_version
        Of the plan.

    Raises
    ------
    ProblemError
        Sets, pins or current GPUs that the fabric cannot keep.
    """
    terms = options or NvlinkOptions()
    now = _current(profile, topology, current)
    fabric = _free_for(topology, now)
    blocks = blocks_of(fabric)
    plan = _Plan(profile, topology, terms, plan_id, ts_ns, version, base_version)
    room = _room(profile, blocks)
    if room is None:
        return plan.skipped(SkipReason.TOO_FEW_GPUS, now)
    if blocks.skip_reason is not None:
        gpus = now if now is not None else _gpus(np.zeros(profile.num_ranks, np.int32), blocks, fabric, None, {})
        return plan.same(blocks.skip_reason, gpus)
    site = _Site(fabric, blocks, room, now, _pins(profile, blocks, fabric))
    priced = _Priced(*job_traffic(profile), blocks, topology)
    found = _found(profile, site, priced, terms, seed)
    tries = _tries(profile, site, priced, found, others, model, terms, seed) if terms.classifier else None
    if tries is not None:
        plan = replace(plan, fallback=Reason.MODEL_MISSING if model is None else None)
    return _settled(plan, site, priced, found, tries)


@dataclass(frozen=True, slots=True, eq=False)
class _Site:
    """Where a job may go: blocks of a fabric, with `room` for its ranks in each, and the GPUs where it runs now and is pinned."""

    fabric: FabricTopology
    blocks: Blocks
    room: NDArray[np.int64]
    now: Ints | None
    pins: dict[int, int]

    def gpus(self, block: Ints) -> Ints:
        """The GPU of each rank, given its block."""
        return _gpus(block, self.blocks, self.fabric, self.now, self.pins)

    def before(self, ranks: int) -> Ints:
        """The blocks of the placement in force, else of the linear order."""
        return _linear(ranks, self.room) if self.now is None else _block_of(self.blocks, self.now)

    def gpus_before(self, ranks: int) -> Ints:
        """The GPUs of the same."""
        return _gpus(_linear(ranks, self.room), self.blocks, self.fabric, None, {}) if self.now is None else self.now


def _found(profile: JobProfile, site: _Site, priced: _Priced, options: NvlinkOptions, seed: int) -> RankPlacement:
    """The cheapest placement in blocks."""
    return place_ranks(
        priced.src,
        priced.dst,
        priced.nbytes,
        site.room,
        site.blocks.distance,
        ranks=profile.num_ranks,
        atomic=_atomic(profile, site.blocks, priced.topology),
        pins={rank: int(_block_of(site.blocks, np.array([gpu]))[0]) for rank, gpu in site.pins.items()},
        current=None if site.now is None else _block_of(site.blocks, site.now),
        move_cost=_move_cost(profile, options),
        options=options,
        deadline_s=None if options.deadline_ms is None else options.deadline_ms / 1000,
        seed=seed,
    )


def _tries(
    profile: JobProfile,
    site: _Site,
    priced: _Priced,
    found: RankPlacement,
    others: Sequence[tuple[Traffic, ArrayLike]],
    model: ContentionModel | None,
    options: NvlinkOptions,
    seed: int,
) -> Fastest | None:
    """Layouts drawn from the placement found, simulated; None where traffic has no choice of a spine."""
    ground = ground_of(priced.topology, site.blocks)
    if ground is None:
        return None
    stage = Stage(
        ground,
        (priced.src, priced.dst, priced.nbytes),
        site.room,
        np.unique(found.block_of_rank[list(site.pins)]).tolist(),
        priced.cost,
        site.gpus,
        _move_cost(profile, options) / 1e3,
        site.before(profile.num_ranks),
        site.now,
    )
    return stage.fastest(found, others, model, options, seed)


def _settled(plan: _Plan, site: _Site, priced: _Priced, found: RankPlacement, tries: Fastest | None) -> FabricPlan:
    """The plan of what was found, or of what is in force where that would win too little."""
    options, ranks = plan.options, plan.profile.num_ranks
    found = found if tries is None else tries.found
    before = site.before(ranks)
    score = priced.score(found, before)
    faster = tries is not None and tries.gain >= options.min_gain
    stays = site.now is not None and score.gain < options.min_gain and not faster
    gpus = site.now if site.now is not None and stays else site.gpus(found.block_of_rank)
    traffic = priced.transfers(gpus, site.gpus_before(ranks), options)
    score = (priced.score(found, before, stays=True) if stays else score).model_copy(update=traffic.score)
    columns = {**priced.paths(gpus, options), **({} if tries is None else {"layout_time_us": tries.time_us})}
    if stays and not traffic.help:
        return plan.same(SkipReason.GAIN_TOO_SMALL, gpus, score, found, columns, traffic.directives)
    return plan.published(gpus, score, found, {**columns, **traffic.columns}, traffic.directives)


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What all outcomes of planning a job have in common."""

    profile: JobProfile
    topology: FabricTopology
    options: NvlinkOptions
    plan_id: str
    ts_ns: int
    version: int
    base_version: int
    fallback: Reason | None = None

    def published(
        self, gpus: Ints, score: FabricScore, found: RankPlacement, columns: Columns, more: Mapping[str, str]
    ) -> FabricPlan:
        return self._frame(self.version, gpus, None, score, found.solver, found.candidates, columns, more)

    def same(
        self,
        reason: SkipReason,
        gpus: Ints,
        score: FabricScore | None = None,
        found: RankPlacement | None = None,
        paths: Columns | None = None,
        more: Mapping[str, str] | None = None,
    ) -> FabricPlan:
        record = SolverRecord(solver="kept", n=self.profile.num_ranks, objective=None if score is None else score.cost_us)
        candidates = () if found is None else found.candidates
        return self._frame(self.base_version, gpus, reason, score, record, candidates, paths or {}, more or {})

    def skipped(self, reason: SkipReason, now: Ints | None) -> FabricPlan:
        return self._frame(
            self.base_version, now, reason, None, SolverRecord(solver="kept", n=self.profile.num_ranks), (), {}, {}
        )

    def _frame(
        self,
        version: int,
        gpus: Ints | None,
        reason: SkipReason | None,
        score: FabricScore | None,
        solver: SolverRecord,
        candidates: tuple[SolverRecord, ...],
        columns: Columns,
        more: Mapping[str, str],
    ) -> FabricPlan:
        domain, count = (None, None) if gpus is None else np.unique(self.topology.node_domain[gpus], return_counts=True)
        return FabricPlan(
            plan_id=self.plan_id,
            ts_ns=self.ts_ns,
            ttl_s=self.options.ttl_s,
            solver=solver,
            version=version,
            base_version=self.base_version,
            skip_reason=reason,
            fallback_reason=self.fallback,
            fabric=self.topology.fabric,
            job=self.profile.job,
            topology_digest=self.topology.digest(),
            score=score,
            candidates=candidates,
            directives={} if gpus is None else {**directives(gpus, self.topology), **more},
            gpu_of_rank=gpus,
            slice_domain=None if domain is None else domain.astype(np.int32),
            slice_ranks=None if count is None else count.astype(np.int32),
            **columns,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Priced:
    """The traffic of a job and what bytes cost between blocks."""

    src: Ints
    dst: Ints
    nbytes: NDArray[np.float64]
    blocks: Blocks
    topology: FabricTopology

    def score(self, found: RankPlacement, before: Ints, *, stays: bool = False) -> FabricScore:
        """What the placement found is worth, or, if it `stays`, the one before."""
        after = before if stays else found.block_of_rank
        cost, cost_before = self.cost(after), self.cost(before)
        return FabricScore(
            cost_us=cost,
            cost_before_us=cost_before,
            bound_us=min(found.bound / 1e3, cost),
            cross_domain_bytes=self._crossing(after),
            cross_domain_bytes_before=self._crossing(before),
            gain=1 - cost / cost_before if cost_before > 0 else 0.0,
        )

    def paths(self, gpus: Ints, options: NvlinkOptions) -> Columns:
        """The paths inside boxes whose GPUs are joined directly; none elsewhere."""
        return job_paths(self.topology, gpus, self.src, self.dst, self.nbytes, relay=options.relay)

    def transfers(self, gpus: Ints, before: Ints, options: NvlinkOptions) -> JobTransfers:
        """How bytes go between servers, with the ranks on `gpus`, and what that was worth with those of `before`."""
        after, first = (crossing(self.topology, self.blocks, each, self.src, self.dst, self.nbytes) for each in (gpus, before))
        return job_transfers(self.topology, after, first, options)

    def cost(self, block: Ints) -> float:
        """Bytes times us/KB, in us."""
        return float(self.nbytes @ self.blocks.distance[block[self.src], block[self.dst]]) / 1e3

    def _crossing(self, block: Ints) -> float:
        """Bytes between domains."""
        domain = domains_of(self.topology, self.blocks)[block]
        return float(self.nbytes[domain[self.src] != domain[self.dst]].sum())


def _current(profile: JobProfile, topology: FabricTopology, current: ArrayLike | None) -> Ints | None:
    """The GPU of each rank now; None if it runs nowhere, or on GPUs that work no more."""
    given = profile.gpu_of_rank if current is None else np.asarray(current)
    if given is None:
        return None
    nodes = len(topology.node_type)
    if given.shape != (profile.num_ranks,) or given.dtype.kind not in "iu" or given.min() < 0 or given.max() >= nodes:
        rule = f"a node of the topology, 0 to {nodes - 1}, for each of {profile.num_ranks} ranks"
        raise ProblemError(must_be("gpu_of_rank", rule, Shown(f"{given.dtype} of shape {given.shape}")))
    wrong = np.flatnonzero(topology.node_type[given] != 0)
    if len(wrong):
        raise ProblemError(must_be("gpu_of_rank", "GPUs", topology.node_name[int(given[wrong[0]])]))
    if len(np.unique(given)) < len(given):
        raise ProblemError(must_be("gpu_of_rank", "a GPU of its own for each rank", Shown("one twice")))
    return None if (topology.node_health[given] == 2).any() else given.astype(np.int32)


def _free_for(topology: FabricTopology, now: Ints | None) -> FabricTopology:
    """The fabric with the GPUs of the job itself free."""
    if now is None or topology.node_free[now].all():
        return topology
    free = topology.node_free.copy()
    free[now] = True
    return topology.model_copy(update={"node_free": free})


def _room(profile: JobProfile, blocks: Blocks) -> NDArray[np.int64] | None:
    """Ranks that each block takes, by `max_slices` and `balanced`; None where the job does not fit."""
    room, ranks = blocks.capacity.copy(), profile.num_ranks
    most = min(profile.max_slices or len(room), len(room))
    largest = np.argsort(-room, kind="stable")
    if not profile.balanced:
        room[largest[most:]] = 0
        return room if room.sum() >= ranks else None
    for slices in range(1, most + 1):
        each, rest = divmod(ranks, slices)
        if not rest and room[largest[slices - 1]] >= each:
            room[largest[:slices]] = each
            room[largest[slices:]] = 0
            return room
    return None


def _pins(profile: JobProfile, blocks: Blocks, fabric: FabricTopology) -> dict[int, int]:
    if profile.pin_rank is None or profile.pin_gpu is None:
        return {}
    usable = blocks.gpu[(blocks.block_of_gpu >= 0) & fabric.node_free[blocks.gpu]]
    for gpu in profile.pin_gpu.tolist():
        if gpu not in usable:
            shown = fabric.node_name[gpu] if gpu < len(fabric.node_name) else Shown(f"node {gpu}")
            raise ProblemError(must_be("pin_gpu", "free GPUs that work", shown))
    return dict(zip(profile.pin_rank.tolist(), profile.pin_gpu.tolist(), strict=True))


def _atomic(profile: JobProfile, blocks: Blocks, topology: FabricTopology) -> list[list[int]]:
    """Sets of ranks that must share a block: none where all blocks are parts of one domain, which is what sets must share."""
    if profile.atomic_first is None or profile.atomic_rank is None:
        return []
    domains = topology.node_domain[blocks.gpu]
    if len(np.unique(domains)) == 1 and domains[0] >= 0:
        return []
    first = profile.atomic_first.tolist()
    return [profile.atomic_rank[a:b].tolist() for a, b in itertools.pairwise(first)]


def _block_of(blocks: Blocks, gpus: NDArray[np.integer]) -> Ints:
    return blocks.block_of_gpu[np.searchsorted(blocks.gpu, gpus)]


def _move_cost(profile: JobProfile, options: NvlinkOptions) -> float:
    """What a moved rank costs a period, in bytes times us/KB."""
    periods = options.horizon_s * 1e6 / (profile.period_us or _PERIOD_US)
    return 1e3 * options.restart_us / max(periods, 1.0)


def _linear(ranks: int, room: NDArray[np.int64]) -> Ints:
    return np.repeat(np.arange(len(room)), room)[:ranks].astype(np.int32)


def _gpus(block: Ints, blocks: Blocks, fabric: FabricTopology, now: Ints | None, pins: dict[int, int]) -> Ints:
    """The GPU of each rank: pinned ones first, then where it is already if it stays in its block, then the free ones in order."""
    found = np.full(len(block), -1, np.int32)
    for rank, gpu in pins.items():
        found[rank] = gpu
    if now is not None:
        stays = (found < 0) & (_block_of(blocks, now) == block) & ~np.isin(now, list(pins.values()))
        found[stays] = now[stays]
    taken = set(found[found >= 0].tolist())
    for number in np.unique(block[found < 0]).tolist():
        ranks = np.flatnonzero((block == number) & (found < 0))
        members = blocks.gpu[(blocks.block_of_gpu == number) & fabric.node_free[blocks.gpu]]
        left = [gpu for gpu in members.tolist() if gpu not in taken]
        found[ranks] = left[: len(ranks)]
    return found
