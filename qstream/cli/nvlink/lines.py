"""The frames of the nvlink module as lines for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from qstream.cli.output import counted, joined, solver_text
from schemas.fabric import GPU, FabricPlan, FabricReport, FabricTopology, JobProfile, LinkTelemetry, RouteShares
from schemas.frame import Frame


def line(frame: Frame) -> str | None:
    """What matters of the frame, None for one of another module."""
    text = LINES.get(type(frame))
    return None if text is None else text(frame)


def _topology(found: FabricTopology) -> str:
    gpus = int(np.count_nonzero(found.node_type == GPU))
    return joined(
        found.fabric,
        counted(gpus, "GPU"),
        counted(len(found.domain_name), "domain") if found.domain_name else None,
        counted(len(found.link_src), "link"),
        counted(len(found.warnings), "warning") if found.warnings else None,
    )


def _telemetry(found: LinkTelemetry) -> str:
    pairs = counted(0 if found.pair_src is None else len(found.pair_src), "pair")
    links = counted(len(found.link), "link")
    return joined(found.fabric, found.source, f"window {found.window_id}", links, f"{pairs} of leaves")


def _job(found: JobProfile) -> str:
    return joined(found.fabric, found.job, counted(found.num_ranks, "rank"), "has ended" if found.ended else None)


def _report(found: FabricReport) -> str:
    version = None if found.applied_version is None else f"runs v{found.applied_version}"
    return joined(found.fabric, found.job, f"step {found.step}", f"{found.comm_us / 1000:.1f} ms of communication", version)


def _plan(found: FabricPlan) -> str:
    if found.skip_reason is not None:
        return joined(found.fabric, found.job, f"v{found.base_version} stays", found.skip_reason)
    score, slices = found.score, found.slice_ranks
    return joined(
        found.fabric,
        found.job,
        f"v{found.version}",
        None if score is None else f"cost {score.cost_us:.4g}, before {score.cost_before_us:.4g} (modelled)",
        None if slices is None else counted(len(slices), "slice"),
        None if found.piece_src is None else counted(len(found.piece_src), "piece"),
        None if found.transfer_src is None else counted(len(found.transfer_src), "transfer"),
        solver_text(found.solver),
        found.fallback_reason,
    )


def _shares(found: RouteShares) -> str:
    score = found.score
    return joined(
        found.fabric,
        found.planner,
        None if found.guard == "ours" else found.guard,
        f"{counted(len(found.pair_src), 'pair')} of leaves",
        None if score is None else f"fullest link {score.planned:.3f}, wcmp {score.wcmp:.3f} (modelled)",
        found.fallback_reason,
    )


LINES: Final[dict[type[Frame], Callable[[Any], str]]] = {
    FabricPlan: _plan,
    FabricReport: _report,
    FabricTopology: _topology,
    JobProfile: _job,
    LinkTelemetry: _telemetry,
    RouteShares: _shares,
}
