"""Queue: jobs of a fabric are planned one at a time, next to the records, each on the GPUs that the others leave."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.ahead import Ahead
from qstream.contract import Event
from qstream.errors import ProblemError
from qstream.learn.model import Model
from qstream.learn.registry import Models
from qstream.module.inforce import InForce
from qstream.module.planning import Planned, Planning, or_skipped, planned, start
from qstream.module.stamp import Stamp
from qstream.nvlink.blocks import blocks_of
from qstream.nvlink.contention import MODEL, ContentionModel
from qstream.nvlink.ground import Traffic, ground_of, traffic_of
from qstream.nvlink.job_plan import place_job
from qstream.nvlink.memory import HeldJob, Memory
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.outcomes import with_outcome
from qstream.nvlink.trained import chosen
from schemas.fabric import MAX_RANKS, FabricPlan, FabricReport, FabricTopology, JobProfile
from schemas.plan import SkipReason
from schemas.solver import SolverRecord
from schemas.topics import FABRIC_PLAN
from schemas.wording import Shown, must_be

MOST_JOBS: Final = 64  # of a fabric, which its state carries
Name = Callable[[int], Stamp]  # the n-th event of a record or tick


@dataclass(frozen=True, slots=True)
class Queue:
    """Plans jobs as the options say: next to the records with `ahead`, else with the record that is due."""

    options: NvlinkOptions
    ahead: Ahead[Planned[FabricPlan]] | None
    models: Models

    def take(self, stamp: Stamp, profile: JobProfile, memory: Memory) -> None:
        """Have a job planned; nothing for one that is known. A job that has ended frees its GPUs, for those that had too few.

        Raises
        ------
        ProblemError
            The fabric has too many jobs.
        """
        others = tuple(job for job in memory.now.jobs if job.job != profile.job)
        before = next((job for job in memory.now.jobs if job.job == profile.job), None)
        if profile.ended:
            memory.set(jobs=tuple(_queued(job, None) if job.gpu_of_rank is None else job for job in others))
            return
        digest = profile.digest()
        if before is not None and before.digest == digest and before.priority == profile.priority:
            return
        ranks = profile.num_ranks + sum(job.profile.num_ranks for job in others)
        if len(others) >= MOST_JOBS or ranks > MAX_RANKS:
            got = Shown(f"{len(others) + 1} with {ranks} ranks")
            raise ProblemError(must_be("jobs of a fabric", f"at most {MOST_JOBS} at a time, of {MAX_RANKS} ranks in all", got))
        gpus = None if before is None else before.gpu_of_rank
        held = HeldJob(
            job=profile.job,
            digest=digest,
            priority=profile.priority,
            queued=True,
            in_force=InForce() if before is None else before.in_force,
            profile=profile,
            gpu_of_rank=gpus if gpus is not None and len(gpus) == profile.num_ranks else profile.gpu_of_rank,
        )
        memory.set(jobs=tuple(sorted((*others, held), key=lambda job: (job.priority, job.job))))

    def requeue(self, memory: Memory, before: FabricTopology) -> None:
        """After a change of the topology: GPUs are found again by name, and all jobs are planned anew."""
        place = {name: at for at, name in enumerate(memory.now.topology.node_name)}
        memory.set(jobs=tuple(_queued(job, _renumbered(job.gpu_of_rank, before, place)) for job in memory.now.jobs))

    def acknowledge(self, memory: Memory, report: FabricReport) -> None:
        """Take in that a job runs on a version.

        Raises
        ------
        ProblemError
            The job is not known, or the version is none that was published for it.
        """
        if report.applied_version is None:
            return
        job = next((job for job in memory.now.jobs if job.job == report.job), None)
        if job is None:
            raise ProblemError(must_be("job", "one that the fabric knows", report.job))
        versions = job.in_force
        if report.applied_version not in (versions.version, versions.proposed_version):
            rule = f"the version in force, {versions.version}, or proposed, {versions.proposed_version}"
            raise ProblemError(must_be("applied_version", rule, report.applied_version))
        if report.applied_version == versions.proposed_version:
            _replace(memory, job, job.model_copy(update={"in_force": versions.acknowledged()}))
        if self.options.classifier and not self.options.freeze:
            self._note(report, memory)

    def _note(self, report: FabricReport, memory: Memory) -> None:
        """Keep what a step took, with the layout of all jobs: what a model of contention is learnt from."""
        ground = ground_of(memory.now.topology, blocks_of(memory.now.topology))
        if ground is not None:
            layout = ground.layout(_placed(memory))
            memory.set(outcomes=with_outcome(memory.now.outcomes, layout, report.comm_us))

    def due(self, name: Name, first: int, now_ns: int, memory: Memory) -> list[Event]:
        """Plans that are due at this time, and the next job begun; `NotYet` while one is not ready."""
        events: list[Event] = []
        while True:
            active = next((job for job in memory.now.jobs if job.planning.active), None)
            if active is None and not self._begin(name(first + len(events)), now_ns, memory):
                return events
            if active is not None:
                if not active.planning.is_due(now_ns, self.options.plan_ms):
                    return events
                events.append(self._publish(name(first + len(events)), active, memory))

    def _begin(self, stamp: Stamp, now_ns: int, memory: Memory) -> bool:
        """Begin to plan the next job; whether there is one."""
        job = next((job for job in memory.now.jobs if job.queued), None)
        if job is None:
            return False
        begun = job.model_copy(update={"queued": False, "planning": Planning().begun(now_ns, job.in_force.version)})
        _replace(memory, job, begun)
        start(self.ahead, stamp.key, self._snapshot(begun, memory), lambda: self._planner(begun, memory))
        return True

    def _publish(self, stamp: Stamp, job: HeldJob, memory: Memory) -> Event:
        def published() -> Event:
            found = planned(self.ahead, stamp.key, self._snapshot(job, memory), lambda: self._planner(job, memory))
            return self._event(stamp, job, found.value, found.seconds, memory)

        def failed() -> Event:
            plan = FabricPlan(
                plan_id=stamp.id,
                solver=SolverRecord(solver="kept", n=job.profile.num_ranks),
                version=job.in_force.version,
                base_version=job.in_force.version,
                skip_reason=SkipReason.PLANNING_FAILED,
                fabric=memory.now.topology.fabric,
                job=job.job,
                topology_digest=memory.now.digest,
                gpu_of_rank=job.gpu_of_rank,
                ts_ns=stamp.ts_ns,
            )
            return self._event(stamp, job, plan, None, memory)

        return or_skipped(memory, stamp.key, published, failed)

    def _event(self, stamp: Stamp, job: HeldJob, plan: FabricPlan, seconds: float | None, memory: Memory) -> Event:
        """The plan under its id, time and version, and the job with it in force, or proposed."""
        due_ns = job.planning.due_ns(self.options.plan_ms)
        versions = job.in_force
        base = versions.version
        version = base if plan.skip_reason is not None else versions.next_version(due_ns)
        fields = {"plan_id": stamp.id, "ts_ns": stamp.ts_ns, "version": version, "base_version": base}
        if plan.skip_reason is None:
            versions = versions.proposed(version, due_ns)
        gpus = job.gpu_of_rank if plan.gpu_of_rank is None else plan.gpu_of_rank
        update = {"planning": job.planning.ended(), "in_force": versions, "gpu_of_rank": gpus}
        _replace(memory, job, job.model_copy(update=update))
        return Event(FABRIC_PLAN, stamp.key, stamp.id, plan.model_copy(update=fields), stamp.cause, seconds)

    def _snapshot(self, job: HeldJob, memory: Memory) -> Hashable:
        gpus = None if job.gpu_of_rank is None else job.gpu_of_rank.tobytes()
        free = _free(job, memory).tobytes()
        others = tuple((other.job, other.digest) for other in memory.now.jobs if self.options.classifier)
        model = self._model()
        version = None if model is None else model.version
        return memory.now.digest, job.job, job.digest, gpus, free, job.planning.begun_ns, self.options, others, version

    def _model(self) -> Model | None:
        """The model of contention that answers, if one is asked for and there is one."""
        options = self.options
        return chosen(self.models, MODEL, options.model) if options.classifier and not options.freeze else None

    def _planner(self, job: HeldJob, memory: Memory) -> Callable[[], FabricPlan]:
        topology = memory.now.topology.model_copy(update={"node_free": _free(job, memory)})
        options, current = self.options, job.gpu_of_rank
        # Where it said that it runs was taken in when it came, and may be of another topology.
        profile = job.profile.model_copy(update={"gpu_of_rank": None})
        model, others = self._model(), _placed(memory, job) if options.classifier else []
        known = None if model is None else ContentionModel(model)
        return lambda: place_job(
            profile, topology, current=current, options=options, others=others, model=known, seed=options.seed
        )


def _free(job: HeldJob, memory: Memory) -> NDArray[np.bool_]:
    """The nodes on which a job may be placed: those that are free, but for the GPUs of other jobs."""
    free = memory.now.topology.node_free.copy()
    for other in memory.now.jobs:
        if other.job != job.job and other.gpu_of_rank is not None:
            free[other.gpu_of_rank] = False
    return free


def _placed(memory: Memory, but: HeldJob | None = None) -> list[tuple[Traffic, NDArray[np.int32]]]:
    """What jobs send, but for one of them, and the GPUs on which they are."""
    jobs = [job for job in memory.now.jobs if but is None or job.job != but.job]
    return [(traffic_of(job.profile), job.gpu_of_rank) for job in jobs if job.gpu_of_rank is not None]


def _queued(job: HeldJob, gpu_of_rank: NDArray[np.int32] | None) -> HeldJob:
    return job.model_copy(update={"queued": True, "planning": job.planning.ended(), "gpu_of_rank": gpu_of_rank})


def _renumbered(gpus: NDArray[np.int32] | None, before: FabricTopology, place: dict[str, int]) -> NDArray[np.int32] | None:
    """The same GPUs by their numbers in another topology; None if one is gone."""
    if gpus is None:
        return None
    found = [place.get(before.node_name[gpu], -1) for gpu in gpus.tolist()]
    return None if -1 in found else np.array(found, np.int32)


def _replace(memory: Memory, job: HeldJob, by: HeldJob) -> None:
    memory.set(jobs=tuple(by if each.job == job.job else each for each in memory.now.jobs))
