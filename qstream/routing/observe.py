"""What of the plans stands in the metrics."""

from __future__ import annotations

import time
from functools import partial

from qstream import metrics
from qstream.contract import Event
from schemas.placement import PlacementPlan
from schemas.routing import RoutingPlan
from schemas.shares import DispatchShares


def observe(event: Event) -> None:
    """Note a delivered plan in the metrics."""
    plan = event.frame
    if isinstance(plan, RoutingPlan):
        copies = plan.metrics.cross_node_copies_per_token
        if copies is not None:
            metrics.ROUTING_COPIES.labels(plan.model).set(copies)
    elif isinstance(plan, DispatchShares):
        metrics.ROUTING_SHARES_EVEN.labels(plan.model).set(plan.score.balancedness_even)
        metrics.ROUTING_SHARES_BALANCEDNESS.labels(plan.model).set(plan.score.balancedness)
    elif isinstance(plan, PlacementPlan):
        _observe_placement(plan)


def _observe_placement(plan: PlacementPlan) -> None:
    skipped = plan.skip_reason is not None
    expected, solver = plan.expected, plan.solver
    metrics.ROUTING_PLANS.labels(plan.model, "skipped" if skipped else "published").inc()
    metrics.ROUTING_PLAN_AGE.labels(plan.model).set_function(partial(_age_s, plan.ts_ns))
    if plan.fallback_reason is not None:
        metrics.ROUTING_FALLBACKS.labels(plan.fallback_reason).inc()
    if expected is None:
        return
    metrics.ROUTING_BALANCEDNESS_BEFORE.labels(plan.model).set(expected.balancedness_before)
    metrics.ROUTING_BALANCEDNESS.labels(plan.model).set(expected.balancedness_before if skipped else expected.balancedness)
    if not skipped:
        metrics.ROUTING_WORST_LAYER.labels(plan.model).set(expected.worst_layer_balancedness)
        metrics.ROUTING_MOVED.labels(plan.model).inc(expected.moved_experts)
    if solver.control and solver.objective is not None:
        metrics.ROUTING_QAOA_GAIN.labels(plan.model).set((solver.control - solver.objective) / solver.control)


def _age_s(ts_ns: int) -> float:
    """Seconds since the record that a plan was made at."""
    return max(0.0, time.time() - ts_ns / 1e9)
