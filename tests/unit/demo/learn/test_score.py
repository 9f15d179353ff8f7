"""The score of the learning scene: what the death of the worker cost stands apart, and a model next to the incumbent."""

from __future__ import annotations

import pytest

from qstream.demo.learn.score import Score
from qstream.testing.readings import Outlook, Reading


def answer(number: int, **changes: object) -> Outlook:
    return Outlook.build(**dict(Outlook.example()) | {"number": number, "updates": number + 1} | changes)


def played(count: int, killed_at: int | None = None, again_s: float = 0.0, **changes: object) -> Score:
    """Readings at each 0.1 s, answered after 0.02 s, or at `again_s` if they come while there is no worker."""
    score, held = Score(), []
    for number in range(count):
        at_s = number / 10
        score.published(Reading.of("host-3", number, float(number % 2)), at_s)
        if killed_at is not None and number >= killed_at and at_s < again_s:
            held.append(number)
        else:
            for late in held:
                score.received(answer(late, **changes), again_s)
            held = []
            score.received(answer(number, **changes), at_s + 0.02)
        if number == killed_at:
            score.killed()
    return score


def test_latency_is_of_readings_that_a_worker_was_there_for_and_the_gap_has_a_name() -> None:
    figures = played(100, killed_at=50, again_s=8.25).figures(10.0, 0)
    assert figures["latency_ms"] == {"p50": pytest.approx(20), "p99": pytest.approx(20), "worst": pytest.approx(3250)}
    assert figures["gap_ms"] == pytest.approx(3250)
    assert figures["waited_in_gap"] == 33
    assert (figures["updates_lost"], figures["updates_twice"], figures["lost"]) == (0, 0, 0)


def test_without_a_death_there_is_no_gap() -> None:
    figures = played(20).figures(2.0, 0)
    assert (figures["gap_ms"], figures["waited_in_gap"]) == (0.0, 0)
    assert figures["latency_ms"]["worst"] == pytest.approx(20)


def test_a_model_is_judged_by_the_seconds_that_came() -> None:
    score = played(30, offered_by=7, offered=0.25, incumbent=0.375, wealth=2.0)
    score.published_models[7] = "a network"
    (model,) = score.figures(3.0, 0)["models"]
    assert (model["scored"], model["error_over_incumbent"], model["wealth"]) == (20, pytest.approx(2), 2.0)
    assert not model["answered"]


def test_a_step_that_is_missing_and_one_that_was_done_twice_are_counted() -> None:
    score = played(10, updates=9, repeated=1)
    figures = score.figures(1.0, 0)
    assert (figures["updates_lost"], figures["updates_twice"]) == (2, 1)


def test_a_forecast_is_shown_next_to_what_came_once_its_second_is_over() -> None:
    assert played(10).last_second() is None
    assert played(11, mean=0.25, bound=0.75).last_second() == (0.25, 0.75, 0.5)
