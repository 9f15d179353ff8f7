"""The pumps agent, and what the conformance checks feed it."""

from __future__ import annotations

import numpy as np

from agents.registry import Agent
from qstream.config import Settings
from qstream.contract import Record
from qstream_pumps.frames import PUMP_PLAN, RACK_HEAT, PumpPlan, RackHeat
from qstream_pumps.processor import PumpProcessor
from schemas.frame import Frame


def processor(settings: Settings) -> PumpProcessor:
    """The processor with its options: it has none."""
    return PumpProcessor().configure(settings.options)


def examples() -> list[Record]:
    """Ten reports of one rack, one of them without sensors."""
    rng = np.random.default_rng(0)
    heats = [RackHeat(rack="r1", ts_ns=n, inlet_c=rng.normal(25, 2, 2 * (n != 4)).astype(np.float32)) for n in range(10)]
    return [Record(RACK_HEAT.name, 0, n, "r1", heat, 1000 + n) for n, heat in enumerate(heats)]


def line(frame: Frame) -> str | None:
    """A plan for people."""
    return f"{frame.rack}: {frame.flow_lpm:.1f} l/min" if isinstance(frame, PumpPlan) else None


AGENT = Agent(
    name="pumps",
    purpose="sets the pump of each rack by its temperature",
    topics=(RACK_HEAT, PUMP_PLAN),
    processor=processor,
    examples="qstream_pumps.agent:examples",
    lines="qstream_pumps.agent:line",
    settings={"max_batch_records": 50},
)
