"""Lines of an agent's metrics are there before anything happened, so that the first event is seen as a change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import REGISTRY

from qstream.contract import Processor
from qstream.stream.begin import begin
from schemas.topics import PLACEMENT_PLAN, TENSOR_RESTORED, TOKENS_BATCH, Topic

AGENT = "begins"


@dataclass
class Quiet(Processor[Any]):
    """Reads tokens, writes placement plans, and does neither here."""

    name: str = AGENT
    inputs: tuple[Topic, ...] = (TOKENS_BATCH,)
    outputs: tuple[Topic, ...] = (PLACEMENT_PLAN,)
    state = None


@pytest.mark.parametrize(
    ("metric", "labels"),
    [
        ("records_consumed_total", {"topic": TOKENS_BATCH.name}),
        ("records_produced_total", {"topic": PLACEMENT_PLAN.name}),
        ("wrong_clocks_total", {"topic": TOKENS_BATCH.name}),
        ("dead_letters_total", {"stage": "decode", "error": "FrameError"}),
        ("batch_retries_total", {"error": "NotAllowed"}),
        ("state_conflicts_total", {"kind": "stale_epoch"}),
        ("rebalances_total", {"kind": "lost"}),
        ("states_evicted_total", {}),
        ("tick_seconds_count", {}),
        ("plans_total", {"topic": PLACEMENT_PLAN.name, "outcome": "planning_failed"}),
        ("plans_total", {"topic": PLACEMENT_PLAN.name, "outcome": "reset"}),
        ("fallbacks_total", {"reason": "timeout"}),
    ],
)
def test_what_never_happened_stands_at_0(metric: str, labels: dict[str, str]) -> None:
    begin(Quiet())
    assert REGISTRY.get_sample_value(f"qstream_{metric}", {"agent": AGENT, **labels}) == 0


def test_an_agent_without_plans_says_that_it_made_none() -> None:
    begin(Quiet("planless", outputs=(TENSOR_RESTORED,)))
    none = {"agent": "planless", "topic": "", "outcome": "published"}
    assert REGISTRY.get_sample_value("qstream_plans_total", none) == 0
    assert REGISTRY.get_sample_value("qstream_solver_seconds_count", {"agent": "planless", "solver": ""}) == 0
    assert REGISTRY.get_sample_value("qstream_plans_total", none | {"topic": TENSOR_RESTORED.name}) is None
