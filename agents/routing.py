"""The routing agent: token batches and expert loads in, placements, dispatch shares and routing plans out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.registry import Agent
from agents.runtime import quantum_runtime
from qstream.config import Settings
from schemas.topics import (
    DISPATCH_SHARES,
    EXPERTS_LOAD,
    EXPERTS_TOPOLOGY,
    LEARN_COMMAND,
    PLACEMENT_ACK,
    PLACEMENT_PLAN,
    ROUTING_PLAN,
    TOKENS_BATCH,
)

if TYPE_CHECKING:
    from qstream.routing.processor import RoutingProcessor


def processor(settings: Settings) -> RoutingProcessor:
    """The processor with the options that the worker starts with."""
    from qstream.ahead import Ahead
    from qstream.routing.options import RoutingOptions
    from qstream.routing.processor import RoutingProcessor

    return RoutingProcessor(RoutingOptions().changed(settings.options), quantum_runtime(settings), Ahead())


AGENT = Agent(
    name="routing",
    purpose="decides where experts and their replicas live, and which of them serve each token and request",
    topics=(
        TOKENS_BATCH,
        EXPERTS_LOAD,
        EXPERTS_TOPOLOGY,
        PLACEMENT_ACK,
        LEARN_COMMAND,
        ROUTING_PLAN,
        PLACEMENT_PLAN,
        DISPATCH_SHARES,
    ),
    processor=processor,
    options="qstream.routing.options:RoutingOptions",
    examples="qstream.routing.examples:records",
    example_options={"window_tokens": 2048, "windows": 4, "steps": 200, "min_gain": 0.005, "labels": 6, "colocate": True}
    | {"plan_ms": 2, "plan_every_s": 0.001},
    commands="qstream.cli.routing.commands:app",
    lines="qstream.cli.routing.lines:line",
    observe="qstream.routing.metrics:observe",
    settings={"max_keys": 1000},  # models
    scenes={"routing": "qstream.demo.routing.scene:RoutingScene"},
)
