"""What travels: temperatures, flows, and the state of a rack."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from schemas.frame import Axes, Count, Frame, Name, TimeNs
from schemas.plan import Plan
from schemas.solver import SolverRecord
from schemas.topics import Topic


class RackHeat(Frame):
    """Inlet temperatures of one rack in degrees Celsius."""

    rack: Name
    ts_ns: TimeNs
    inlet_c: Annotated[NDArray[np.float32], Axes("sensors")]

    @classmethod
    def example(cls) -> Self:
        return cls(rack="r1", ts_ns=1_700_000_000_000_000_000, inlet_c=np.array([24.5, 26.0], np.float32))


class PumpPlan(Plan):
    """The flow that the pump of one rack should give, in litres a minute."""

    rack: Name
    flow_lpm: float = Field(ge=0)

    @classmethod
    def example(cls) -> Self:
        record = SolverRecord(solver="proportional")
        return cls(plan_id="x/0/1/0", ts_ns=1_700_000_000_000_000_000, solver=record, rack="r1", flow_lpm=12.5)


class RackState(Frame):
    """What is known of a rack: reports so far, and the mean temperature with a memory of ten reports."""

    reports: Count = 0
    mean_c: float = 0.0

    @classmethod
    def example(cls) -> Self:
        return cls(reports=3, mean_c=25.0)


RACK_HEAT = Topic("pumps.rack.heat.v1", RackHeat, "rack", "input", "inlet temperatures of racks", partitions=2)
PUMP_PLAN = Topic("pumps.pump.plan.v1", PumpPlan, "rack", "plan", "the flow of each rack's pump", partitions=2)
