"""Planning: when plans begin and are due, and that a fault costs a plan."""

from typing import Self

import pytest

from qstream.ahead import Ahead
from qstream.errors import NotYet
from qstream.module.draft import Draft
from qstream.module.planning import Planning, or_skipped, planned, start
from schemas.frame import Frame

S = 1_000_000_000


class Count(Frame):
    plans: int = 0

    @classmethod
    def example(cls) -> Self:
        return cls()


def test_a_plan_is_due_once_its_time_has_passed_and_until_it_is_ended():
    begun = Planning().begun(5 * S, base_version=3)
    assert [begun.is_due(at, 500) for at in (5 * S, begun.due_ns(500) - 1, begun.due_ns(500), 9 * S)] == [
        False,
        False,
        True,
        True,
    ]
    assert begun.base_version == 3
    assert not begun.ended().is_due(9 * S, 500)
    assert Planning().is_due(9 * S, 0) is False


@pytest.mark.parametrize(("at_s", "may"), [(5.0, True), (5.5, False), (6.0, True), (1.0, True), (4.5, False)])
def test_plans_begin_at_intervals_whatever_clocks_say(at_s: float, may: bool):
    """A second apart; a clock that stands still, or was wrong once, ends no planning."""
    assert Planning().begun(5 * S, 0).may_begin(int(at_s * S), 1.0) is may


def test_a_plan_is_computed_once_wherever_and_its_time_is_taken():
    calls = []
    ahead = Ahead()

    def prepare():
        calls.append("prepared")
        return lambda: calls.append("made") or 7

    start(ahead, "a", 1, prepare)
    assert ahead.settle(60)
    assert [planned(ahead, "a", 1, prepare).value for _ in range(2)] == [7, 7]
    assert calls == ["prepared", "made"]
    assert planned(None, "a", 1, prepare).seconds >= 0
    assert calls == ["prepared", "made"] * 2


def test_a_fault_skips_the_plan_and_takes_back_what_it_changed(caplog):
    draft = Draft(Count())

    def publish() -> str:
        draft.set(plans=1)
        raise ValueError("no such number")

    assert or_skipped(draft, "model-7", publish, lambda: "skipped") == "skipped"
    assert draft.now.plans == 0
    assert "planning for 'model-7' failed" in caplog.text
    assert "no such number" in caplog.text


def test_a_plan_that_is_not_ready_is_not_a_fault():
    def publish() -> str:
        raise NotYet("not ready")

    with pytest.raises(NotYet):
        or_skipped(Draft(Count()), "a", publish, lambda: "skipped")


def test_a_fault_while_a_plan_is_started_shows_when_it_is_due_and_not_before(caplog):
    def prepare():
        raise ValueError("nothing to plan from")

    start(Ahead(), "a", 1, prepare)
    assert "nothing to plan from" in caplog.text
    with pytest.raises(ValueError, match="nothing to plan from"):
        planned(Ahead(), "a", 1, prepare)
