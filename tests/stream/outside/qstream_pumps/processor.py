"""Temperatures of one rack and its state, to a flow and the next state."""

from __future__ import annotations

from qstream.contract import Batch, Event, Processor, Result
from qstream.errors import Poison
from qstream_pumps.frames import PUMP_PLAN, RACK_HEAT, PumpPlan, RackHeat, RackState
from schemas.solver import SolverRecord

TARGET_C = 22.0
LPM_PER_C = 4.0


class PumpProcessor(Processor[RackState]):
    """A flow in proportion to how far the mean temperature is above the target."""

    name = "pumps"
    inputs = (RACK_HEAT,)
    outputs = (PUMP_PLAN,)
    state = RackState

    def process(self, batch: Batch, state: RackState | None, now_ns: int) -> Result[RackState]:
        state = state or RackState()
        events = []
        for record in batch.records:
            heat = record.frame
            if not isinstance(heat, RackHeat) or not heat.inlet_c.size:
                raise Poison(record, "inlet_c must have at least one sensor, got none")
            weight = max(0.1, 1 / (state.reports + 1))
            mean_c = state.mean_c + weight * (float(heat.inlet_c.mean()) - state.mean_c)
            state = RackState(reports=state.reports + 1, mean_c=mean_c)
            plan = PumpPlan(
                plan_id=record.event_id(0),
                ts_ns=record.timestamp_ms * 1_000_000,
                solver=SolverRecord(solver="proportional"),
                rack=batch.key,
                flow_lpm=max(0.0, LPM_PER_C * (mean_c - TARGET_C)),
            )
            events.append(Event(PUMP_PLAN, batch.key, record.event_id(0), plan, record))
        return Result(events, (), state)
