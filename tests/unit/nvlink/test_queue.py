"""Jobs by the stream: planned in turn on what others leave, due by records or ticks, acknowledged, moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qstream.ahead import Ahead
from qstream.nvlink import generate, job_profile
from qstream.nvlink.memory import FabricState
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.processor import NvlinkProcessor
from qstream.state.fields import pack
from qstream.testing.feed import Feed
from schemas.fabric import GPU, FabricPlan, FabricReport, FabricTopology, JobProfile
from schemas.plan import SkipReason

BOXES = generate("hgx-h100", hosts=4)
FABRIC = BOXES.fabric
GPUS = np.flatnonzero(BOXES.node_type == GPU)


def job(name: str, dp: int = 2, **changes: Any) -> JobProfile:
    profile = job_profile({"tp": 8, "dp": dp}, volumes={"tp": 4e9, "dp": 1e9}, fabric=FABRIC, job=name)
    return profile.model_copy(update=changes)


def report(name: str, version: int) -> FabricReport:
    fields: dict[str, Any] = {"step": 1, "t0_ns": 1, "t1_ns": 2, "bytes": 1, "comm_us": 1.0}
    return FabricReport(fabric=FABRIC, job=name, applied_version=version, **fields)


def started(**options: Any) -> Feed[FabricState]:
    feed = Feed(NvlinkProcessor(NvlinkOptions(**options)))
    feed.send(BOXES, at_ms=0)
    return feed


def state(feed: Feed[FabricState]) -> FabricState:
    found = feed.state(FABRIC)
    assert found is not None
    return found


def plans(feed: Feed[FabricState]) -> list[FabricPlan]:
    return feed.frames(FabricPlan)


def test_a_plan_comes_with_the_first_record_that_is_late_enough() -> None:
    feed = started(plan_ms=500)
    feed.send(job("a"), at_ms=1000)
    feed.send(job("b"), at_ms=1400)
    assert plans(feed) == []
    feed.send(job("b", priority=5), at_ms=1600)
    (plan,) = plans(feed)
    assert plan.job == "a"
    assert plan.ts_ns == 1_600_000_000
    assert plan.gpu_of_rank is not None


def test_without_further_records_ticks_publish_what_is_due() -> None:
    feed = started(plan_ms=500)
    for name in "ab":
        feed.send(job(name), at_ms=1000)
    for at_ms in (2000, 3000, 4000, 5000):
        feed.tick(at_ms)
    assert [plan.job for plan in plans(feed)] == ["a", "b"]
    first, second = (set(np.asarray(plan.gpu_of_rank).tolist()) for plan in plans(feed))
    assert not first & second


def test_jobs_come_in_order_of_priority_and_name() -> None:
    feed = started(plan_ms=500)
    for name, priority in (("running", 9), ("z", 0), ("c", 1), ("b", 1)):
        feed.send(job(name, 1, priority=priority), at_ms=1000)
    for at_ms in range(2000, 9000, 1000):
        feed.tick(at_ms)
    assert [plan.job for plan in plans(feed)] == ["running", "z", "b", "c"]  # the first was begun at once


def test_a_job_that_finds_too_few_gpus_is_planned_when_another_ends() -> None:
    feed = started(plan_ms=0)
    feed.send(job("a", 3), at_ms=1000)
    feed.send(job("b", 2), at_ms=2000)
    feed.send(job("a", 3, ended=True), at_ms=3000)
    told = [(plan.job, plan.skip_reason) for plan in plans(feed)]
    assert told == [("a", None), ("b", SkipReason.TOO_FEW_GPUS), ("b", None)]
    assert [held.job for held in state(feed).jobs] == ["b"]


def test_the_same_profile_again_changes_nothing_and_versions_rise() -> None:
    feed = started(plan_ms=0)
    feed.send(job("a"), at_ms=1000)
    feed.send(job("a"), at_ms=2000)
    assert len(plans(feed)) == 1
    feed.send(job("a", 3), at_ms=3000)
    first, second = plans(feed)
    assert second.version > first.version


def test_a_report_puts_a_version_in_force_and_one_of_another_version_is_a_dead_letter() -> None:
    feed = started(plan_ms=0)
    feed.send(job("a"), at_ms=1000)
    (plan,) = plans(feed)
    assert state(feed).jobs[0].in_force.waiting
    feed.send(report("a", plan.version), at_ms=1100)
    assert state(feed).jobs[0].in_force.version == plan.version
    feed.send(report("a", 12), at_ms=1200)
    feed.send(report("nobody", plan.version), at_ms=1300)
    assert [field in str(dead) for field, dead in zip(("applied_version", "job"), feed.dead, strict=True)] == [True, True]


def test_one_tier_says_so_and_keeps_the_job_where_it_runs() -> None:
    rack = generate("gb200-nvl72")
    feed = Feed(NvlinkProcessor(NvlinkOptions(plan_ms=0)))
    feed.send(rack, at_ms=0)
    gpus = np.flatnonzero(rack.node_type == GPU)[::-1][:16].astype(np.int32)
    feed.send(job("a", fabric=rack.fabric, gpu_of_rank=gpus), at_ms=1000)
    (plan,) = plans(feed)
    assert plan.skip_reason == SkipReason.SINGLE_TIER
    assert plan.gpu_of_rank is not None
    assert plan.gpu_of_rank.tolist() == gpus.tolist()


def test_a_changed_topology_finds_gpus_by_name_and_moves_jobs_off_what_broke() -> None:
    feed = started(plan_ms=0)
    feed.send(job("a"), at_ms=1000)
    (plan,) = plans(feed)
    assert plan.gpu_of_rank is not None
    health = BOXES.node_health.copy()
    health[plan.gpu_of_rank[0]] = 2
    feed.send(FabricTopology(**(dict(BOXES) | {"node_health": health})), at_ms=2000)
    again = plans(feed)[-1]
    assert again.gpu_of_rank is not None
    assert plan.gpu_of_rank[0] not in again.gpu_of_rank
    assert again.topology_digest != plan.topology_digest


def test_a_job_whose_server_leaves_is_placed_on_the_others_wherever_it_said_that_it_ran() -> None:
    feed = started(plan_ms=0)
    feed.send(job("a", gpu_of_rank=GPUS[16:32].astype(np.int32)), at_ms=1000)
    left = generate("hgx-h100", hosts=3).model_copy(update={"fabric": FABRIC})
    feed.send(left, at_ms=2000)
    plan = plans(feed)[-1]
    assert plan.skip_reason is None
    assert plan.gpu_of_rank is not None
    assert (left.node_type[plan.gpu_of_rank] == GPU).all()


def test_too_many_jobs_are_refused_by_name() -> None:
    feed = started()
    for number in range(65):
        feed.send(job(f"job-{number}", 1), at_ms=1000)
    assert [str(dead) for dead in feed.dead if "jobs of a fabric" in str(dead)]
    assert len(state(feed).jobs) == 64


def test_a_plan_whose_pins_cannot_be_kept_is_told_as_failed_and_the_next_job_is_planned() -> None:
    feed = started(plan_ms=0)
    pinned = job("a", pin_rank=np.array([0], np.int32), pin_gpu=np.array([10_000], np.int32))
    feed.send(pinned, at_ms=1000)
    feed.send(job("b"), at_ms=2000)
    assert [(plan.job, plan.skip_reason) for plan in plans(feed)] == [("a", SkipReason.PLANNING_FAILED), ("b", None)]


@pytest.mark.parametrize("ahead", [False, True])
def test_any_split_into_batches_gives_the_same_bytes_beside_the_records_too(ahead: bool) -> None:
    found = []
    for size in (1, 2, 100):
        beside: Ahead[Any] | None = Ahead() if ahead else None
        feed = Feed(NvlinkProcessor(NvlinkOptions(plan_ms=300), beside))
        records = [feed.record(BOXES, 0)]
        for number, name in enumerate("abcdabcdaa"):
            records.append(feed.record(job(name, 1 + number % 2), 1000 + 200 * number))
        for at in range(0, len(records), size):
            feed.send_batch(records[at : at + size])
            while beside is not None and feed.waiting(FABRIC) is not None:
                assert beside.settle(60)
                feed.send_batch([])
        found.append(([(event.id, event.frame.encode()) for event in feed.events], pack(state(feed))))
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) >= 3
