"""Fabrics, jobs and their plans: what breaks a rule is refused by field, rule and value, and digests are of the arrays."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.fabric import (
    FabricPlan,
    FabricReport,
    FabricTopology,
    JobProfile,
    LinkTelemetry,
    ParallelSizes,
    RouteShares,
    words,
)
from schemas.frame import SAFETENSORS, FrameError
from schemas.plan import SkipReason
from tests.frames import at, changed

T, J, P = FabricTopology.example(), JobProfile.example(), FabricPlan.example()
W, S = LinkTelemetry.example(), RouteShares.example()


@pytest.mark.parametrize(
    ("frame", "fields", "message"),
    [
        (T, {"node_type": np.where(T.node_type == 7, 3, T.node_type).astype(np.uint8)}, "node_host must be nodes of type host"),
        (T, {"node_type": np.where(T.node_type == 0, 3, T.node_type).astype(np.uint8)}, "node_type must be of at least one GPU"),
        (T, {name: getattr(T, name)[:0] for name in T.arrays if name.startswith("link") and getattr(T, name) is not None},
         "link_src must be of at least one link"),
        (T, {"link_dst": at(T.link_dst, 3, 10)}, "link_dst must be a node, 0 to 9, got values from 0 to 10"),
        (T, {"link_src": at(T.link_src, 0, -1)}, "link_src must be a node, 0 to 9"),
        (T, {"link_gb_s": at(T.link_gb_s, 2, np.nan)}, "link_gb_s must be finite numbers"),
        (T, {"link_gb_s": at(T.link_gb_s, 2, -3)}, "link_gb_s must be above 0, got -3"),
        (T, {"link_effective_gb_s": at(T.link_gb_s, 2, 0)}, "link_effective_gb_s must be above 0, got 0"),
        (T, {"link_gb_s": at(T.link_gb_s, 5, 400e3)}, "link_gb_s must be at most 10000 GB/s a link, in bytes, got 400000"),
        (T, {"link_count": at(T.link_count, 0, 0)}, "link_count must be >= 1"),
        (T, {"node_health": at(T.node_health, 0, 3)}, "node_health must be 0 to 2"),
        (T, {"node_domain": at(T.node_domain, 0, 2)}, "node_domain must be -1 to 1"),
        (T, {"node_name": (*T.node_name[:9], "host-a")}, "node_name must be distinct names, got 'host-a' twice"),
        (T, {"node_name": T.node_name[:9]}, "length of node_name must be 10"),
        (J, {"parallel": {"tp": 5}}, "num_ranks must be tp \\* cp \\* dp \\* pp, 5, got 4"),
        (J, {"order": "tp-dp"}, "order must be tp, cp, ep, dp, pp in any order"),
        (J, {"traffic_bytes": None}, "traffic_bytes must be given where traffic_src is"),
        (J, {"traffic_src": np.array([0, 4], np.int32)}, "traffic_src must be a rank, 0 to 3, got values from 0 to 4"),
        (J, {"traffic_bytes": np.array([0, -1], np.int64)}, "traffic_bytes must be >= 0"),
        (J, {"group_first": np.array([0, 2, 4, 6, 7], np.int32)}, "group_first must be from 0 to 8, the length of group_rank"),
        (J, {"group_first": np.array([0, 8], np.int32)}, "length of group_first must be 5"),
        (J, {"group_kind": np.array([0, 0, 0, 5], np.uint8)}, "group_kind must be 0 to 4"),
        (J, {"atomic_first": np.array([0, 3, 2], np.int32), "atomic_rank": np.array([0, 1], np.int32)}, "nowhere falling"),
        (J, {"pin_rank": np.array([0, 0], np.int32), "pin_gpu": np.array([0, 1], np.int32)}, "pin_rank must be distinct"),
        (J, {"gpu_of_rank": np.array([0, 1, 2], np.int32)}, "length of gpu_of_rank must be 4"),
        (J, {"parallel": {"tp": 2, "dp": 2, "ep": 3}}, "ep must be a divisor of tp \\* cp \\* dp, 4, got 3"),
        (W, {"t1_ns": W.t0_ns}, "t1_ns must be after t0_ns"),
        (W, {"link": np.array([4, 4], np.int32)}, "link must be distinct numbers, got 4 twice"),
        (W, {"link_bytes": np.array([-1, 0], np.int64)}, "link_bytes must be >= 0"),
        (W, {"link_ecn": np.array([0.5, 1.5], np.float32)}, "link_ecn must be 0 to 1"),
        (W, {"pair_dst": None}, "pair_dst must be given where pair_src is"),
        (W, {"topology_digest": "xyz"}, "topology_digest"),
        (P, {"gpu_of_rank": None}, "gpu_of_rank must be given in a plan that is not skipped"),
        (P, {"gpu_of_rank": np.array([2, 3, 2, 1], np.int32)}, "gpu_of_rank must be distinct numbers, got 2 twice"),
        (P, {"slice_ranks": None}, "slice_ranks must be given where slice_domain is"),
        (P, {"directives": {f"d{i}": "x" for i in range(21)}}, "directives must be at most 20 entries"),
        (S, {"share": np.array([[0.75, 0.2], [1, 0]], np.float32)}, "share of pair 0 must be parts that sum to 1"),
        (S, {"share": np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)}, "share must be 0 where via is -1, got 0.5"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_refused_by_field_rule_and_value(frame, fields, message):
    with pytest.raises(FrameError, match=message):
        changed(frame, **fields)


def test_a_host_may_be_named_as_something_else_is_and_a_plan_without_a_placement_says_why():
    assert changed(T, node_name=(*T.node_name[:8], "a0", "host-b")).node_name[8] == "a0"
    skipped = changed(P, gpu_of_rank=None, skip_reason=SkipReason.TOO_FEW_GPUS)
    assert FabricPlan.decode(skipped.encode()) == skipped
    assert words(("gpu", "host"), np.array([1, 0])) == ["host", "gpu"]
    assert SkipReason.SINGLE_TIER == "single tier, nothing blocks"


def test_digests_follow_the_arrays_and_not_the_names():
    digest = T.digest()
    assert len(digest) == 16
    assert FabricTopology.decode(T.encode(SAFETENSORS)).digest() == digest
    assert changed(T, fabric="other", ts_ns=1, warnings=("odd",)).digest() == digest
    others = [
        changed(T, node_free=at(T.node_free, 0, value=False)),
        changed(T, link_gb_s=at(T.link_gb_s, 0, 899)),
        changed(T, link_effective_gb_s=T.link_gb_s),
        changed(T, link_latency_us=T.link_gb_s),
    ]
    assert len({digest, *(other.digest() for other in others)}) == 5
    assert changed(J, job="other", ts_ns=1, priority=3).digest() == J.digest()
    assert len({J.digest(), changed(J, balanced=True).digest(), changed(J, max_slices=2).digest()}) == 3


def test_plans_use_the_effective_speed_where_it_is_known():
    assert T.speed_gb_s is T.link_gb_s
    assert changed(T, link_effective_gb_s=T.link_gb_s * np.float32(0.5)).speed_gb_s[0] == 450


def test_a_report_is_of_a_time_that_passed():
    report = FabricReport.example()
    with pytest.raises(FrameError, match="comm_us must be greater than 0"):
        changed(report, comm_us=0.0)
    with pytest.raises(FrameError, match="t1_ns must be after t0_ns"):
        changed(report, t1_ns=report.t0_ns)
    assert ParallelSizes(tp=2, pp=3, dp=4).ranks == 24
