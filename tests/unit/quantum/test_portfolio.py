"""The portfolio: the best so far always stands, arms share one deadline, and what did not answer says why."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qstream.quantum.portfolio import Arm, Race, Step, race, race_record
from qstream.quantum.record import Remaining
from schemas.solver import Reason, SolverRecord

GIVEN = SolverRecord(solver="lpt-swap", variant="colocation")


class Clock:
    """A clock that stands still but where it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def to(name: str, value: float | None, reason: Reason | None = None, **more: object) -> Arm[float]:
    """An arm that always comes to this value."""
    return Arm(name, lambda best, circuits, left: Step(value, best if value is None else value, reason=reason, **more))


STEPS = st.tuples(st.none() | st.floats(-10, 10), st.none() | st.sampled_from(Reason))


@given(start=st.floats(-10, 10), steps=st.lists(STEPS, max_size=5), stands=st.booleans())
def test_the_answer_is_the_lowest_and_the_record_agrees(
    start: float, steps: list[tuple[float | None, Reason | None]], stands: bool
) -> None:
    arms = [to(f"arm-{i}", value, reason) for i, (value, reason) in enumerate(steps)]
    found = race(start, start, arms, may_stand=stands)
    values = [value for value, _ in steps if value is not None]
    assert found.answer == found.objective == min([start, *values])
    assert found.answered == (stands or bool(values))
    assert (found.winner is None) == (found.objective == start)
    failed = [why for value, why in steps if why and (value is None or why not in (Reason.TIMEOUT, Reason.DEADLINE_INSUFFICIENT))]
    assert found.fallback_reason == (failed[0] if failed else None)
    record = race_record(found, GIVEN, seed=3)
    assert record.solver == (found.winner or "lpt-swap")
    assert record.asked == tuple(arm.name for arm in arms)
    assert (record.objective, record.variant, record.wall_ms) == (found.objective, "colocation", None)


def test_each_arm_starts_from_the_best_so_far_and_of_equal_answers_the_first_stands() -> None:
    seen: list[float] = []

    def improve(best: float, circuits: bool, left: Remaining) -> Step[float]:
        seen.append(best)
        return Step(best, best)

    found = race(5.0, 5.0, [Arm("a", improve), to("b", 3.0), to("c", 4.0), Arm("d", improve)])
    assert seen == [5.0, 3.0]
    assert (found.winner, found.given) == ("b", 5.0)


def test_circuits_that_failed_are_not_asked_again() -> None:
    asked: list[bool] = []

    def ask(best: float, circuits: bool, left: Remaining) -> Step[float]:
        asked.append(circuits)
        return Step(best, best)

    race(1.0, 1.0, [Arm("a", ask), to("b", None, Reason.UNAVAILABLE), Arm("c", ask), Arm("d", ask)])
    assert asked == [True, False, False]
    asked.clear()
    race(1.0, 1.0, [to("late", 0.5, Reason.TIMEOUT), Arm("c", ask)])
    assert asked == [True]


def test_arms_share_one_deadline() -> None:
    clock, lefts = Clock(), []

    def spend(best: float, circuits: bool, left: Remaining) -> Step[float]:
        lefts.append(left())
        clock.now += 2.0
        return Step(best - 1, best - 1)

    found = race(
        9.0, 9.0, [Arm("a", spend, share=0.5), Arm("b", spend, share=0.25), Arm("c", spend)], deadline_s=10.0, clock=clock
    )
    assert lefts == pytest.approx([5.0, 2.0, 6.0])
    assert found.wall_s == pytest.approx(6.0)
    assert race_record(found, GIVEN, seed=0).wall_ms == pytest.approx(6000.0)
    assert [tried.wall_s for tried in found.tried] == pytest.approx([2.0, 2.0, 2.0])


def test_without_a_deadline_arms_have_all_time_and_no_time_is_told() -> None:
    def all_time(best: float, circuits: bool, left: Remaining) -> Step[float]:
        assert left() == math.inf
        return Step(best, best)

    found: Race[float] = race(1.0, 1.0, [Arm("a", all_time)])
    assert found.wall_s is None


def test_the_record_says_how_the_winner_ran_and_what_circuits_were_asked() -> None:
    circuit = to("qaoa", 2.0, execution="simulated-subspace", depth=3, shots=64, tried=5, kept=1)
    record = race_record(race(4.0, 4.0, [circuit, to("hqc", 3.0, tried=2, kept=2)]), GIVEN, seed=1, control=3.5, twin=4.0)
    assert (record.solver, record.execution, record.depth, record.shots) == ("qaoa", "simulated-subspace", 3, 64)
    assert (record.tried, record.kept, record.control, record.twin) == (7, 3, 3.5, 4.0)
    lost = race_record(race(1.0, 1.0, [circuit]), GIVEN, seed=1)
    assert (lost.solver, lost.execution, lost.depth) == ("lpt-swap", "classical", 3)
