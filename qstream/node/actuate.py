"""Actuate: plans of a domain from Kafka to the actuator of a node, and its acknowledgements back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from qstream.errors import Transient
from qstream.node.actuator import Actuator
from qstream.node.telemetry import confirm
from qstream.node.trouble import Troubles
from qstream.stream.client import PlanSubscriber, Publisher
from schemas.energy import EnergyAck, EnergyPlan
from schemas.topics import ENERGY_ACK

POLL_S: Final = 0.2  # for which a plan is waited for before the clock is looked at
CONFIRM_S: Final = 0.5
RETRY_S: Final = 1.0
EVERY_PLAN_NS: Final = 1  # the subscriber drops no plan as expired: the actuator answers that itself

Plans = PlanSubscriber[EnergyPlan]
Shown = Callable[[EnergyPlan | None, EnergyAck], None]


def run_actuator(
    actuator: Actuator,
    open_plans: Callable[[], Plans],
    publisher: Publisher,
    troubles: Troubles,
    *,
    stop: threading.Event,
    show: Shown,
    clock_ns: Callable[[], int] = time.time_ns,
) -> None:
    """Take plans until `stop` is set, then put the defaults back, also if it ends by an error.

    While Kafka is away the clock goes on: when the plan in force is over, the defaults come back. `open_plans` is asked again
    each second while it raises `Transient`. `show` is given each acknowledgement, with its plan if one came.
    """
    plans: Plans | None = None
    try:
        if actuator.restored is not None:
            _answer(actuator.restored.model_copy(update={"ts_ns": clock_ns()}), None, publisher, troubles, show)
        while not stop.is_set():
            if plans is None:
                plans = _opened(open_plans, troubles)
            if plans is None:
                stop.wait(RETRY_S)
                plan = None
            else:
                plan = plans.poll(POLL_S, now_ns=EVERY_PLAN_NS)
            for ack in act(actuator, plan, clock_ns()):
                _answer(ack, plan, publisher, troubles, show)
    finally:
        _answer(actuator.close(clock_ns()), None, publisher, troubles, show)
        if plans is not None:
            plans.close()


def act(actuator: Actuator, plan: EnergyPlan | None, now_ns: int) -> list[EnergyAck]:
    """Put the defaults back if the plan in force is over, then take the new one. Returns the acknowledgements."""
    acks = [actuator.tick(now_ns), None if plan is None else actuator.take(plan, now_ns)]
    return [ack for ack in acks if ack is not None]


def _opened(open_plans: Callable[[], Plans], troubles: Troubles) -> Plans | None:
    try:
        plans = open_plans()
    except Transient as exc:
        troubles.note("plans", f"no plans: {exc}")
        return None
    troubles.over("plans", "plans are read")
    return plans


def _answer(ack: EnergyAck | None, plan: EnergyPlan | None, publisher: Publisher, troubles: Troubles, show: Shown) -> None:
    """Show and publish an acknowledgement; that the broker is away delays the clock by `CONFIRM_S` at most."""
    if ack is None:
        return
    show(plan if plan is not None and plan.plan_id == ack.plan_id else None, ack)
    publisher.publish(ENERGY_ACK, ack, timestamp_ms=max(1, ack.ts_ns // 1_000_000))
    confirm(publisher, troubles, CONFIRM_S)
