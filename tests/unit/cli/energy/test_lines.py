"""`qstream watch tasks`, `energy` and their inputs: what a line says of a frame."""

from __future__ import annotations

import pytest

from qstream.cli.energy.lines import line
from qstream.cli.names import find_topic
from schemas.energy import EnergyPlan
from schemas.plan import SkipReason
from schemas.power import ServingLoad
from schemas.tasks import EnergySchedule, TaskGraph
from schemas.topics import TASK_SCHEDULE


def test_tasks_are_the_schedules():
    assert find_topic("tasks") is TASK_SCHEDULE


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (
            EnergySchedule.example(),
            "row-1  night-7  v2  optimal  3 tasks  on 1 node  peak 1900 W, at least 1900, as soon as possible 2400  list",
        ),
        (TaskGraph.example(), "row-1  night-7  3 tasks  2 edges  12 slots of 60 s"),
        (ServingLoad.example(), "row-1  chat  5400 tokens/s of 1500 a replica  4 active replicas"),
    ],
)
def test_a_line_says_what_matters(frame, text):
    assert line(frame) == text


def test_a_schedule_says_what_is_late_above_the_budget_or_kept():
    late = EnergySchedule.example().model_copy(update={"status": "infeasible", "at_fault": ("train",), "missing_w": 150.0})
    assert "150 W above the budget  too late: train" in line(late)
    kept = EnergySchedule.example().model_copy(update={"skip_reason": SkipReason.PLANNING_FAILED})
    assert "v2  planning_failed  optimal" in line(kept)


def test_a_plan_says_how_many_replicas_to_keep():
    assert "replicas: 2 chat" in line(EnergyPlan.example())
