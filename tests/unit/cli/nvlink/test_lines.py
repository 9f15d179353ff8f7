"""Fabrics as lines."""

from __future__ import annotations

from qstream.cli.nvlink.lines import line
from schemas.fabric import FabricPlan, FabricReport, FabricTopology, JobProfile, LinkTelemetry, RouteShares
from schemas.hpo import StudySpec
from schemas.plan import SkipReason


def test_each_frame_says_what_matters() -> None:
    assert line(FabricTopology.example()) == "pod-1  4 GPUs  2 domains  16 links"
    assert line(LinkTelemetry.example()) == "pod-1  collector-0  window 17  2 links  2 pairs of leaves"
    assert line(RouteShares.example()) == "pod-1  mix  2 pairs of leaves  fullest link 0.870, wcmp 0.920 (modelled)"
    assert line(JobProfile.example()) == "pod-1  moe-16b  4 ranks"
    assert line(FabricReport.example()) == "pod-1  moe-16b  step 120  48.2 ms of communication  runs v3"
    plan = FabricPlan.example()
    assert line(plan) == "pod-1  moe-16b  v3  cost 17, before 89 (modelled)  2 slices  2 pieces  swap-annealing"
    skipped = plan.model_copy(update={"skip_reason": SkipReason.SINGLE_TIER, "base_version": 3})
    assert line(skipped) == "pod-1  moe-16b  v3 stays  single tier, nothing blocks"
    assert line(StudySpec.example()) is None
