"""What the loop counts of every module's plans: outcome, age, fallback and the time of the solver."""

import time
from typing import Any

import pytest
from prometheus_client import REGISTRY

from qstream.contract import Event
from qstream.stream.decode import Rejected
from qstream.stream.observe import count_delivered
from schemas import DeadLetter, DispatchShares, PlacementPlan, TokenBatch
from schemas.plan import SkipReason
from schemas.solver import Reason
from schemas.topics import DISPATCH_SHARES, PLACEMENT_PLAN, TOKENS_BATCH, Topic


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"qstream_{name}", labels)


def delivered(agent: str, topic: Topic, *changes: dict[str, Any], solver_s: float | None = None) -> None:
    plans = [topic.frame.example().model_copy(update=change) for change in changes]
    count_delivered(agent, [Event(topic, "m", f"t/0/0/{n}", plan, None, solver_s) for n, plan in enumerate(plans)], [])


def test_plans_are_counted_by_outcome():
    delivered("a1", PLACEMENT_PLAN, {}, {}, {"skip_reason": SkipReason.PLANNING_FAILED}, {"skip_reason": SkipReason.NO_ANSWER})
    delivered("a1", DISPATCH_SHARES, {})
    found = [
        value("plans_total", agent="a1", topic=PLACEMENT_PLAN.name, outcome=word) for word in ("published", "planning_failed")
    ]
    assert found == [2, 1]
    assert value("plans_total", agent="a1", topic=DISPATCH_SHARES.name, outcome="published") == 1


def test_the_age_is_that_of_the_newest_plan_of_a_topic():
    delivered("a2", PLACEMENT_PLAN, {"ts_ns": time.time_ns() + 10**15}, {"ts_ns": 1})
    assert value("plan_age_seconds", agent="a2", topic=PLACEMENT_PLAN.name) == 0
    delivered("a2", PLACEMENT_PLAN, {"ts_ns": time.time_ns() - 90 * 10**9})
    age_s = value("plan_age_seconds", agent="a2", topic=PLACEMENT_PLAN.name)
    assert age_s is not None
    assert age_s >= 90


def test_fallbacks_are_counted_by_reason():
    delivered("a3", PLACEMENT_PLAN, {"fallback_reason": Reason.TIMEOUT}, {})
    assert value("fallbacks_total", agent="a3", reason="timeout") == 1


def test_the_time_of_a_solver_is_that_of_the_plan_or_of_its_event():
    solver = PlacementPlan.example().solver
    delivered("a4", PLACEMENT_PLAN, {"solver": solver.model_copy(update={"wall_ms": 1500.0})}, solver_s=9.0)
    delivered("a4", PLACEMENT_PLAN, {"solver": solver.model_copy(update={"wall_ms": None})}, solver_s=2.0)
    delivered("a4", PLACEMENT_PLAN, {"solver": solver.model_copy(update={"wall_ms": None})})
    assert value("solver_seconds_count", agent="a4", solver=solver.solver) == 2
    assert value("solver_seconds_sum", agent="a4", solver=solver.solver) == 3.5


def test_events_that_are_not_plans_are_not_counted_as_plans():
    count_delivered("a5", [Event(TOKENS_BATCH, "m", "t/0/0/0", TokenBatch.example(), None)], [])
    assert value("plans_total", agent="a5", topic=TOKENS_BATCH.name, outcome="published") is None
    assert isinstance(DispatchShares.example().outcome, str)


def test_dead_letters_are_logged_with_the_first_one(caplog: pytest.LogCaptureFixture):
    letters = [Rejected(DeadLetter.example().model_copy(update={"offset": n}), None, None, ()) for n in (7, 8)]
    count_delivered("counted.dead", [], letters)
    first = letters[0].letter
    assert caplog.messages == [f"counted.dead: 2 records became dead letters, the first is {first.id}: {first.error_message}"]
