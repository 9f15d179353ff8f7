"""What routing plans say about the cluster, as metrics; what all plans have in common is counted by the loop."""

from __future__ import annotations

import time
from functools import cache, partial

from prometheus_client import Counter, Gauge

from qstream.contract import Event
from qstream.metrics import begin_at_zero, begin_unknown, bounded_label
from schemas.placement import PlacementPlan
from schemas.routing import RoutingPlan
from schemas.shares import DispatchShares

BALANCEDNESS = Gauge(
    "qstream_routing_balancedness", "Mean over maximum GPU load that the placement in force is expected to give", ["model"]
)
BALANCEDNESS_BEFORE = Gauge(
    "qstream_routing_balancedness_before",
    "Mean over maximum GPU load of the placement that the newest plan was compared with",
    ["model"],
)
WORST_LAYER = Gauge(
    "qstream_routing_worst_layer_balancedness", "Mean over maximum GPU load of the worst layer of the newest plan", ["model"]
)
SHARES_BALANCEDNESS = Gauge(
    "qstream_routing_shares_balancedness", "Mean over maximum GPU load of the newest tokens under their shares", ["model"]
)
SHARES_EVEN = Gauge(
    "qstream_routing_shares_even_balancedness",
    "Mean over maximum GPU load of the newest tokens, split evenly over replicas",
    ["model"],
)
COPIES = Gauge("qstream_routing_cross_node_copies_per_token", "Copies of a token sent to other nodes", ["model"])
MOVED = Counter("qstream_routing_moved_experts_total", "Experts that plans asked a GPU to load", ["model"])
PLAN_AGE = Gauge("qstream_routing_plan_age_seconds", "Since the newest placement plan, published or skipped", ["model"])
QAOA_GAIN = Gauge(
    "qstream_routing_qaoa_gain_over_control",
    "How far the newest plan's circuits are below as many samples at p = 0, as a fraction of the objective",
    ["model"],
)


def observe(event: Event) -> None:
    """Note a delivered plan in the metrics."""
    plan = event.frame
    if not isinstance(plan, RoutingPlan | DispatchShares | PlacementPlan):
        return
    model = bounded_label("model", plan.model)
    _begin(model)
    if isinstance(plan, RoutingPlan):
        copies = plan.metrics.cross_node_copies_per_token
        if copies is not None:
            COPIES.labels(model).set(copies)
    elif isinstance(plan, DispatchShares):
        SHARES_EVEN.labels(model).set(plan.score.balancedness_even)
        SHARES_BALANCEDNESS.labels(model).set(plan.score.balancedness)
    else:
        _observe_placement(plan, model)


@cache
def _begin(model: str) -> None:
    """The lines of a model are there from its first plan of any kind, those without a value yet as not a number."""
    begin_at_zero(MOVED, [model])
    for gauge in (BALANCEDNESS, BALANCEDNESS_BEFORE, WORST_LAYER, SHARES_BALANCEDNESS, SHARES_EVEN, COPIES, PLAN_AGE, QAOA_GAIN):
        begin_unknown(gauge, [model])


def _observe_placement(plan: PlacementPlan, model: str) -> None:
    skipped = plan.skip_reason is not None
    expected, solver = plan.expected, plan.solver
    PLAN_AGE.labels(model).set_function(partial(_age_s, plan.ts_ns))
    if expected is None:
        return
    BALANCEDNESS_BEFORE.labels(model).set(expected.balancedness_before)
    BALANCEDNESS.labels(model).set(expected.balancedness_before if skipped else expected.balancedness)
    if not skipped:
        WORST_LAYER.labels(model).set(expected.worst_layer_balancedness)
        MOVED.labels(model).inc(expected.moved_experts)
    if solver.control and solver.objective is not None:
        QAOA_GAIN.labels(model).set((solver.control - solver.objective) / solver.control)


def _age_s(ts_ns: int) -> float:
    """Seconds since the record that a plan was made at."""
    return max(0.0, time.time() - ts_ns / 1e9)
