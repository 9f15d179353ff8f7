"""The routing agent: token batches and expert loads in, placements, dispatch shares and routing plans out."""

from __future__ import annotations

import atexit
import functools

from agents.app import Agent
from qstream import metrics
from qstream.ahead import Ahead
from qstream.config import Settings
from qstream.contract import Event
from qstream.quantum.runtime import QuantumRuntime
from qstream.routing.options import RoutingOptions
from qstream.routing.processor import RoutingProcessor
from schemas.placement import PlacementPlan
from schemas.routing import RoutingPlan
from schemas.shares import DispatchShares


def processor(settings: Settings) -> RoutingProcessor:
    """The processor with the options that the worker starts with."""
    return RoutingProcessor(RoutingOptions().changed(settings.options), quantum_runtime, Ahead())


@functools.cache
def quantum_runtime() -> QuantumRuntime:
    """The runtime of this worker's devices, started when the option `device` names one."""
    runtime = QuantumRuntime()
    atexit.register(runtime.close)
    return runtime


def observe(event: Event) -> None:
    """Note a delivered plan in the metrics."""
    plan = event.frame
    if isinstance(plan, RoutingPlan):
        copies = plan.metrics.cross_node_copies_per_token
        if copies is not None:
            metrics.ROUTING_COPIES.labels(plan.model).set(copies)
    elif isinstance(plan, DispatchShares):
        metrics.ROUTING_SHARES_BALANCEDNESS.labels(plan.model).set(plan.score.balancedness)
    elif isinstance(plan, PlacementPlan):
        skipped = plan.skip_reason is not None
        expected = plan.expected
        metrics.ROUTING_PLANS.labels(plan.model, "skipped" if skipped else "published").inc()
        metrics.ROUTING_BALANCEDNESS.labels(plan.model).set(expected.balancedness_before if skipped else expected.balancedness)
        if not skipped:
            metrics.ROUTING_WORST_LAYER.labels(plan.model).set(expected.worst_layer_balancedness)
            metrics.ROUTING_MOVED.labels(plan.model).inc(expected.moved_experts)


AGENT = Agent(processor, observe)
