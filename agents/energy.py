"""The energy agent: telemetry, topology and budgets of power domains in, power limits and clock caps of GPUs out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.registry import Agent
from agents.runtime import quantum_runtime
from schemas import topics

if TYPE_CHECKING:
    from qstream.config import Settings
    from qstream.energy.processor import EnergyProcessor


def processor(settings: Settings) -> EnergyProcessor:
    """The processor with the options that the worker starts with."""
    from qstream.ahead import Ahead
    from qstream.energy.options import EnergyOptions
    from qstream.energy.processor import EnergyProcessor

    return EnergyProcessor(EnergyOptions().changed(settings.options), quantum_runtime(settings), Ahead())


AGENT = Agent(
    name="energy",
    purpose="decides the power limit and clock cap of each GPU, under the power budgets of nodes, racks and rows",
    topics=(
        *(topics.GPU_TELEMETRY, topics.POWER_TOPOLOGY, topics.POWER_BUDGET, topics.POWER_DEMAND, topics.ENERGY_ACK),
        *(topics.TASK_GRAPH, topics.SERVING_LOAD, topics.ENERGY_PLAN, topics.TASK_SCHEDULE),
        *(topics.LEARN_COMMAND, topics.LEARN_DECISION, topics.MODELS),
    ),
    processor=processor,
    options="qstream.energy.options:EnergyOptions",
    examples="qstream.energy.examples:records",
    example_options={"mode": "apply", "measure_s": 5, "settle_s": 1, "plan_s": 2, "ttl_s": 6, "max_lowered": 0.5}
    | {"gnn": True, "meta": True},
    commands="qstream.cli.energy.commands:app",
    lines="qstream.cli.energy.lines:line",
    observe="qstream.energy.metrics:observe",
    scenes={"energy": "qstream.demo.energy.scene:EnergyScene"},
    trainers={"gnn": "qstream.energy.train_gnn:train_gnn", "meta": "qstream.energy.train_meta:train_meta"},
    settings={"port": 6071, "max_keys": 1000, "batch_window_ms": 50.0},  # domains; nodes send one after the other
)
