"""The frames of the energy module as lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from qstream.cli.output import counted, joined, solver_text
from schemas.energy import EnergyAck, EnergyPlan
from schemas.frame import Frame
from schemas.power import GpuTelemetry, PowerBudget, PowerDemand, PowerTopology, ServingLoad
from schemas.tasks import EnergySchedule, TaskGraph


def line(frame: Frame) -> str | None:
    """What matters of the frame, None for one of another module."""
    text = LINES.get(type(frame))
    return None if text is None else text(frame)


def _plan(plan: EnergyPlan) -> str:
    if plan.skip_reason is not None:
        return joined(plan.domain, f"v{plan.base_version} stays", plan.skip_reason)
    score = plan.expected
    return joined(
        plan.domain,
        f"v{plan.version}",
        plan.mode,
        counted(len(plan.uuid), "target"),
        _budget(plan),
        None if score is None else f"saves {score.saved_w:.0f} W ({100 * score.saved_ratio:.1f} %)",
        None if score is None else f"slowest {100 * score.slowdown_worst:.1f} %",
        f"{plan.missing_w:.0f} W missing" if plan.status == "infeasible" else None,
        _reasons(plan),
        _served(plan),
        solver_text(plan.solver),
    )


def _budget(plan: EnergyPlan) -> str | None:
    if plan.budget_w is None or plan.planned_w is None or plan.domain not in plan.budget_of:
        return None
    at = plan.budget_of.index(plan.domain)
    return f"at most {plan.planned_w[at]:.0f} of {plan.budget_w[at]:.0f} W"


def _reasons(plan: EnergyPlan) -> str | None:
    if plan.reason_of is None or not len(plan.reason_of):
        return None
    counts = np.bincount(plan.reason_of, minlength=len(plan.reason)).tolist()
    return ", ".join(f"{count} {reason}" for reason, count in zip(plan.reason, counts, strict=True) if count)


def _served(plan: EnergyPlan) -> str | None:
    if plan.active_replicas is None or not plan.served:
        return None
    return "replicas: " + ", ".join(f"{n} {name}" for name, n in zip(plan.served, plan.active_replicas.tolist(), strict=True))


def _load(load: ServingLoad) -> str:
    return joined(
        load.domain,
        load.model,
        f"{load.tokens_s:.0f} tokens/s of {load.capacity_tokens_s:.0f} a replica",
        counted(load.replicas, "active replica"),
    )


def _ack(ack: EnergyAck) -> str:
    results = ", ".join(f"{count} {result}" for result, count in sorted(Counter(ack.result).items()))
    return joined(ack.domain, ack.node, "dry run" if ack.dry_run else None, results or "no target here", ack.detail or None)


def _telemetry(frame: GpuTelemetry) -> str:
    power = frame.value[frame.metric.index("power_w")] if "power_w" in frame.metric else np.empty(0)
    watts = f"{float(np.maximum(power, 0).sum()):.0f} W" if len(power) else "no power"
    return joined(frame.domain, frame.node, counted(len(frame.uuid), "GPU"), watts)


def _topology(frame: PowerTopology) -> str:
    held = [counted(len(frame.child), "child domain")] if frame.child else []
    held = held or [counted(len(frame.node), "node"), counted(len(frame.uuid), "GPU")]
    return joined(frame.domain, *held, f"budget {frame.budget_w:.0f} W")


def _given(budget: PowerBudget) -> str:
    return joined(budget.domain, f"at most {budget.budget_w:.0f} W", f"by {budget.source}")


def _demand(frame: PowerDemand) -> str:
    return joined(
        frame.child,
        f"asks {frame.domain} for {frame.watts[0]:.0f} to {frame.watts[-1]:.0f} W",
        f"draws {frame.upper_w:.0f} W at most",
        f"holds {frame.held_w:.0f} W",
    )


def _schedule(plan: EnergySchedule) -> str:
    score = f"peak {plan.peak_w:.0f} W, at least {plan.bound_w:.0f}, as soon as possible {plan.simple_peak_w:.0f}"
    return joined(
        plan.domain,
        plan.graph_id,
        f"v{plan.version}",
        plan.skip_reason,
        plan.status,
        counted(len(plan.task), "task"),
        f"on {counted(len(plan.node), 'node')}" if plan.node else None,
        score,
        f"{plan.missing_w:.0f} W above the budget" if plan.missing_w else None,
        f"too late: {', '.join(plan.at_fault)}" if plan.at_fault else None,
        solver_text(plan.solver),
    )


def _graph(frame: TaskGraph) -> str:
    edges = 0 if frame.edges is None else len(frame.edges)
    window = f"{frame.slots} slots of {frame.slot_s:g} s"
    return joined(frame.domain, frame.graph_id, counted(len(frame.task), "task"), counted(edges, "edge"), window)


LINES: Final[Mapping[type[Frame], Callable[[Any], str]]] = {
    EnergyPlan: _plan,
    EnergyAck: _ack,
    GpuTelemetry: _telemetry,
    PowerTopology: _topology,
    PowerBudget: _given,
    PowerDemand: _demand,
    EnergySchedule: _schedule,
    TaskGraph: _graph,
    ServingLoad: _load,
}
