"""Begin: metrics whose labels are known beforehand are exported from an agent's start, at 0."""

from __future__ import annotations

import inspect
from typing import Any, Final

from qstream import errors
from qstream.contract import Processor
from qstream.metrics import (
    BATCH_SECONDS,
    CONFLICTS,
    CONSUMED,
    DEAD_LETTERS,
    END_TO_END_SECONDS,
    EVICTED,
    FALLBACKS,
    PLAN_AGE,
    PLANS,
    PROCESS_SECONDS,
    PRODUCED,
    REBALANCES,
    RESTARTED,
    RETRIES,
    SOLVER_SECONDS,
    STATE_BYTES,
    TICK_SECONDS,
    WRONG_CLOCKS,
    begin_at_zero,
    begin_unknown,
)
from schemas.plan import Plan
from schemas.solver import Reason

# Errors of a module itself have classes that are not known beforehand.
REJECTIONS: Final = (("decode", "FrameError"), ("process", "Poison"), ("process", "StateLimit"))
WAITS: Final = [name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, errors.Transient)]


def begin(processor: Processor[Any]) -> None:
    """Export at 0 what the agent of this processor may count."""
    agent = [processor.name]
    inputs = [topic.name for topic in processor.inputs]
    for by_agent in (BATCH_SECONDS, PROCESS_SECONDS, TICK_SECONDS, END_TO_END_SECONDS, STATE_BYTES, EVICTED):
        begin_at_zero(by_agent, agent)
    for by_input in (CONSUMED, WRONG_CLOCKS, RESTARTED):
        begin_at_zero(by_input, agent, inputs)
    begin_at_zero(PRODUCED, agent, [topic.name for topic in processor.outputs])
    for stage, error in REJECTIONS:
        begin_at_zero(DEAD_LETTERS, agent, [stage], [error])
    begin_at_zero(RETRIES, agent, WAITS)
    begin_at_zero(REBALANCES, agent, ["assigned", "revoked", "lost"])
    begin_at_zero(CONFLICTS, agent, ["stale_epoch", "version", "unreadable"])
    begin_at_zero(FALLBACKS, agent, Reason)
    outcomes = {topic.name: topic.frame.OUTCOMES for topic in processor.outputs if issubclass(topic.frame, Plan)}
    # Without plans, panels over all agents show that the agent has none.
    for topic, known in (outcomes or {"": Plan.OUTCOMES}).items():
        begin_at_zero(PLANS, agent, [topic], known)
        begin_unknown(PLAN_AGE, agent, [topic])
    if not outcomes:
        begin_at_zero(SOLVER_SECONDS, agent, [""])
