"""The frames of a choice, of a release, and of a plan that stays; and which budgets are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.energy.acks import counted
from qstream.energy.guard import Age
from qstream.energy.levels import knobs_of
from qstream.energy.memory import MAX_SOURCES, HeldBudget, Memory
from qstream.energy.options import EnergyOptions
from qstream.energy.outlook import HORIZONS_S, Outlook
from qstream.energy.planner import Choice
from qstream.energy.readings import drawn_w
from schemas.energy import PARKED, RELEASED, EnergyPlan, EnergyScore, TargetReason
from schemas.plan import ResetReason, SkipReason
from schemas.power import PowerBudget
from schemas.solver import SolverRecord


def hold(memory: Memory, budget: PowerBudget) -> None:
    """Keep the newest budget of a source, and drop those that are over; of too many sources the highest, which binds least."""
    now = memory.now
    kept = [held for held in now.budgets if held.source != budget.source and not _over(held, now.watermark_ns)]
    kept.append(HeldBudget.of(budget))
    if len(kept) > MAX_SOURCES:
        kept.remove(max(kept, key=lambda held: held.budget_w))
    memory.set(budgets=tuple(kept))


def _over(held: HeldBudget, now_ns: int) -> bool:
    return held.valid_until_ns is not None and held.valid_until_ns <= now_ns


def plan_frame(
    choice: Choice, memory: Memory, options: EnergyOptions, *, plan_id: str, ts_ns: int, version: int, base_version: int
) -> EnergyPlan:
    """The frame of a choice."""
    topology, rows = memory.now.topology, np.flatnonzero(choice.named)
    reasons = sorted({choice.reason[row] for row in rows.tolist()})
    active = rows[choice.state[rows] < PARKED]
    bounded = np.isfinite(choice.view.tree.budget_w)
    return EnergyPlan(
        domain=topology.domain,
        plan_id=plan_id,
        ts_ns=ts_ns,
        ttl_s=options.ttl_s,
        version=version,
        base_version=base_version,
        reset_reason=ResetReason.TOPOLOGY_CHANGED if memory.now.reset else None,
        fence=memory.now.fence,
        mode=options.mode,
        status=choice.status,
        solver=_solver(choice, options),
        uuid=tuple(topology.uuid[row] for row in rows.tolist()),
        reason=tuple(reasons),
        reason_of=np.array([reasons.index(choice.reason[row]) for row in rows.tolist()], np.int32),
        expected=_score(choice),
        missing_w=choice.missing_w,
        active_gpus=max(0, len(active) - sum(each.spare_gpus for each in memory.now.served)),
        active_qpus=_active_qpus(memory, options),
        served=tuple(each.model for each in memory.now.served),
        active_replicas=np.array([each.active for each in memory.now.served], np.int32),
        active_nodes=len(np.unique(topology.node_of_gpu[active])),
        progress=float(memory.now.works[rows].mean()) if len(rows) else 0.0,
        drawn_w=drawn_w(memory.now, options.lost_s),
        stale_gpus=int((choice.view.age != Age.FRESH).sum()),
        acks=counted(memory),
        budget_of=tuple(np.array(choice.view.tree.names)[bounded].tolist()),
        budget_w=choice.view.tree.budget_w[bounded],
        planned_w=choice.view.tree.charged_w(choice.upper_w)[bounded],
        power_limit_w=_float32(choice.limit_w[rows]),
        sm_clock_mhz=_float32(choice.clock_mhz[rows]),
        state=choice.state[rows],
        predicted_w=_float32(choice.predicted_w[rows]),
        upper_w=_float32(choice.upper_w[rows]),
        slowdown=_float32(choice.slowdown[rows]),
        simple_power_limit_w=_float32(choice.simple_w[rows]),
        **_outlook(memory.now.outlook),
        simple_sm_clock_mhz=_float32(choice.simple_mhz[rows]),
    )


def released_frame(
    memory: Memory, options: EnergyOptions, *, plan_id: str, ts_ns: int, version: int, base_version: int
) -> EnergyPlan:
    """A plan that lets go of every target, since nothing is heard of the domain."""
    topology = memory.now.topology
    rows = np.flatnonzero(knobs_of(topology).targetable)
    none = np.full(len(rows), -1, np.float32)
    return EnergyPlan(
        domain=topology.domain,
        plan_id=plan_id,
        ts_ns=ts_ns,
        ttl_s=options.ttl_s,
        version=version,
        base_version=base_version,
        solver=SolverRecord(solver="released", n=len(rows)),
        fence=memory.now.fence,
        mode=options.mode,
        uuid=tuple(topology.uuid[row] for row in rows.tolist()),
        reason=(TargetReason.LOST,),
        reason_of=np.zeros(len(rows), np.int32),
        power_limit_w=none,
        sm_clock_mhz=none,
        state=np.full(len(rows), RELEASED, np.uint8),
    )


def failed_frame(memory: Memory, options: EnergyOptions, *, plan_id: str, ts_ns: int) -> EnergyPlan:
    """The plan in force stays, since planning another one failed."""
    now, none = memory.now, np.empty(0, np.float32)
    return EnergyPlan(
        domain=now.topology.domain,
        plan_id=plan_id,
        ts_ns=ts_ns,
        ttl_s=options.ttl_s,
        version=now.in_force.version,
        base_version=now.in_force.version,
        skip_reason=SkipReason.PLANNING_FAILED,
        solver=SolverRecord(solver="kept"),
        fence=now.fence,
        mode=options.mode,
        uuid=(),
        power_limit_w=none,
        sm_clock_mhz=none,
    )


def _active_qpus(memory: Memory, options: EnergyOptions) -> int:
    """One while a graph is being solved by circuits on a device, of those that the domain has."""
    asked = options.device is not None and any(graph.planning.active for graph in memory.now.graphs)
    return min(int(asked), len(memory.now.topology.qpu))


def _float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return values.astype(np.float32)


def _outlook(outlook: Outlook | None) -> dict[str, Any]:
    """What is forecast of the domain's watts."""
    if outlook is None or not outlook.steps:
        return {}
    return {
        "horizon_s": np.array(HORIZONS_S, np.int32),
        "forecast_w": _float32(outlook.mean_w),
        "forecast_upper_w": _float32(outlook.upper_w),
        "forecast_error": _float32(outlook.error_ratio),
        "forecast_coverage": _float32(outlook.coverage),
    }


def _solver(choice: Choice, options: EnergyOptions) -> SolverRecord:
    name = "hull-greedy" if options.deterministic else "simple"
    n = int(choice.named.sum())
    return SolverRecord(solver=name, n=n, seed=options.seed, objective=choice.answer.value, bound=choice.answer.bound)


def _score(choice: Choice) -> EnergyScore:
    """What the plan and the simple scheduler are expected to do, over the GPUs that they may limit."""
    moved = choice.named & (choice.state < RELEASED)
    free = float(choice.free_w[moved].sum())
    saved = float(choice.gain_w[moved].sum())
    slow = np.maximum(1 / np.maximum(choice.view.speed_at(choice.simple_w), 1e-6) - 1, 0.0)
    simple = choice.free_w - np.minimum(choice.free_w, choice.simple_w) * (1 + slow)
    simple_saved = float(simple[moved].sum())
    return EnergyScore(
        saved_w=saved,
        saved_ratio=min(1.0, saved / free) if free > 0 else 0.0,
        slowdown_worst=float(choice.slowdown[moved].max(initial=0.0)),
        peak_upper_w=float(choice.view.tree.charged_w(choice.upper_w)[0]),
        simple_saved_w=simple_saved,
        simple_saved_ratio=min(1.0, simple_saved / free) if free > 0 else 0.0,
        simple_slowdown_worst=float(slow[moved].max(initial=0.0)),
        simple_peak_upper_w=float(choice.view.tree.charged_w(np.where(choice.named, choice.simple_w, choice.upper_w))[0]),
    )
