"""Fabrics as lines."""

from __future__ import annotations

from qstream.cli.nvlink.lines import line
from schemas.fabric import FabricTopology, LinkTelemetry, RouteShares
from schemas.hpo import StudySpec


def test_each_frame_says_what_matters() -> None:
    assert line(FabricTopology.example()) == "pod-1  4 GPUs  2 domains  16 links"
    assert line(LinkTelemetry.example()) == "pod-1  collector-0  window 17  2 links  2 pairs of leaves"
    assert line(RouteShares.example()) == "pod-1  mix  2 pairs of leaves  fullest link 0.870, wcmp 0.920 (modelled)"
    assert line(StudySpec.example()) is None
