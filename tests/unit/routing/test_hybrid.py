"""HQC and the race: the deterministic plan is always there, nothing becomes worse, and what did not answer says why."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from qstream.errors import OptionError
from qstream.quantum.devices.pool import DevicePool, DeviceSpec
from qstream.quantum.record import SolveRequest, SolveResult
from qstream.quantum.runtime import QuantumRuntime
from qstream.quantum.solvers import solve
from qstream.routing.hybrid import Planned, hqc, improve_placement, placement_record
from qstream.routing.pack import place_window
from qstream.routing.partitions import gpu_partitions, gpu_plan
from qstream.routing.score import violations
from qstream.routing.window_model import Partition
from qstream.routing.windows import WindowSettings, improve
from schemas.solver import Reason, SolverRecord

SETTINGS = WindowSettings(size=8, count=6)


class Ticking:
    """A clock that goes on by a step each time it is read."""

    def __init__(self, step: float) -> None:
        self.step, self.now = step, 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Refusing:
    """A runtime that solves some windows with its solver of choice and answers the rest as a runtime does that cannot."""

    def __init__(self, answers: int, pool: DevicePool) -> None:
        self.answers, self.pool = answers, pool
        self.asked: list[SolveRequest] = []

    def solve(self, request: SolveRequest, solver: str = "auto") -> SolveResult:
        self.asked.append(request)
        device = "default.qubit" if len(self.asked) <= self.answers else "absent"
        return solve(replace(request, device=None), f"device:{device}")


GIVEN = SolverRecord(solver="swap-annealing")  # of the deterministic plan


def plan_and_parts(seed: int = 0) -> tuple[np.ndarray, tuple[Partition, ...]]:
    rng = np.random.default_rng(seed)
    past = rng.lognormal(3, 1, (1, 2, 24)) * rng.lognormal(0, 0.5, (5, 2, 24))
    plan = place_window(past[-1], 4, 28)
    return plan, gpu_partitions(plan, past, 4)


def total(partitions: tuple[Partition, ...]) -> float:
    return sum(partition.objective() for partition in partitions)


def run(deadline_s: float = math.inf, step: float = 0.0, settings: WindowSettings = SETTINGS, **arms: bool) -> Planned:
    given = {"qaoa": False, "hqc_turns": False, **arms}
    return improve_placement(plan_and_parts()[1], settings, deadline_s=deadline_s, clock=Ticking(step), **given)


def test_hqc_ends_with_the_turn_that_no_longer_improves_and_is_never_worse() -> None:
    _, parts = plan_and_parts()
    turns = hqc(parts, SETTINGS, threshold=0.01)
    assert turns.reason is None
    assert total(turns.partitions) < total(parts)
    falls = [(before - after) / before for before, after in pairwise(turns.expectations)]
    assert all(fall >= 0.01 for fall in falls[:-1])
    assert falls[-1] < 0.01
    assert len(turns.records) == 2 * 6 * len(turns.expectations)


def test_a_classical_turn_expects_what_it_reached_and_a_circuit_s_mean_sample_is_above_it() -> None:
    _, parts = plan_and_parts()
    classical = hqc(parts, SETTINGS, max_turns=1)
    assert classical.expectations == (pytest.approx(total(classical.partitions)),)
    circuits = hqc(parts, replace(SETTINGS, solver="qaoa"), max_turns=1)
    assert circuits.expectations[0] > total(circuits.partitions)


def test_a_stricter_threshold_takes_more_turns_and_reaches_no_worse_a_plan() -> None:
    _, parts = plan_and_parts()
    loose, strict = (hqc(parts, SETTINGS, threshold=threshold) for threshold in (0.5, 1e-6))
    assert len(loose.expectations) == 2
    assert len(strict.expectations) > 2
    assert total(strict.partitions) <= total(loose.partitions)


def test_hqc_starts_its_circuits_around_the_plan() -> None:
    _, parts = plan_and_parts()
    settings = replace(SETTINGS, solver="qaoa")
    turn = hqc(parts, settings, max_turns=1)
    assert turn.records == improve(parts, replace(settings, warm=True)).records
    assert turn.records != improve(parts, settings).records


@pytest.mark.parametrize("arms", list(itertools.product([False, True], repeat=3)))
def test_every_set_of_arms_returns_a_valid_plan_that_is_no_worse(arms: tuple[bool, bool, bool]) -> None:
    qaoa, turns, deterministic = arms
    if not any(arms):
        with pytest.raises(OptionError, match="no arm is left"):
            run(deterministic=False)
        return
    plan, parts = plan_and_parts()
    outcome = run(qaoa=qaoa, hqc_turns=turns, deterministic=deterministic)
    asked = [name for name, on in zip(("qaoa", "hqc", "deterministic"), arms, strict=True) if on]
    assert [tried.name for tried in outcome.race.tried] == [name for name in asked if name != "deterministic"]
    assert violations(gpu_plan(outcome.race.answer, plan), 24, 4) == 0
    assert outcome.race.fallback_reason is None
    assert outcome.race.answered
    if qaoa or turns:
        assert total(outcome.race.answer) < total(parts)
        assert outcome.race.winner in asked
    else:
        assert total(outcome.race.answer) == total(parts)
        assert outcome.records == ()


def test_the_toggles_choose_who_solves_the_windows() -> None:
    for qaoa, turns, solvers in ((True, False, {"qaoa"}), (False, True, {"exact"}), (True, True, {"qaoa"})):
        assert {record.solver for record in run(qaoa=qaoa, hqc_turns=turns).records} == solvers
    for given, solver in (("greedy", "greedy"), ("qaoa", "exact")):
        without = run(hqc_turns=True, settings=replace(SETTINGS, solver=given))
        assert {record.solver for record in without.records} == {solver}


def test_equal_arguments_give_equal_outcomes() -> None:
    first, again = (run(qaoa=True, hqc_turns=True) for _ in range(2))
    assert first.records == again.records
    for one, other in zip(first.race.answer, again.race.answer, strict=True):
        np.testing.assert_array_equal(one.bin_of, other.bin_of)
    assert placement_record(first, SETTINGS, GIVEN) == placement_record(again, SETTINGS, GIVEN)


def test_without_any_time_the_deterministic_plan_is_the_answer_and_says_why() -> None:
    _, parts = plan_and_parts()
    outcome = run(deadline_s=1.0, step=2.0, qaoa=True, hqc_turns=True)
    assert [p.bin_of.tolist() for p in outcome.race.answer] == [p.bin_of.tolist() for p in parts]
    assert (outcome.race.winner, outcome.race.fallback_reason, outcome.race.answered) == (None, Reason.TIMEOUT, True)
    assert [tried.step.reason for tried in outcome.race.tried] == [Reason.TIMEOUT, Reason.TIMEOUT]


def test_without_any_time_and_without_the_deterministic_plan_nobody_answered() -> None:
    assert not run(deadline_s=1.0, step=2.0, qaoa=True, deterministic=False).race.answered


def test_the_deadline_keeps_what_windows_have_gained_and_leaves_time_to_hqc() -> None:
    outcome = run(deadline_s=1.0, step=0.02, qaoa=True, hqc_turns=True, settings=replace(SETTINGS, count=50))
    assert total(outcome.race.answer) < total(plan_and_parts()[1])
    assert outcome.race.fallback_reason is None
    assert outcome.race.wall_s is not None
    qaoa, turns = outcome.race.tried
    assert qaoa.step.reason == turns.step.reason == Reason.TIMEOUT
    assert min(qaoa.step.tried, turns.step.tried) > 0
    assert qaoa.wall_s == pytest.approx(0.5, abs=0.15)


def test_a_missing_runtime_or_device_leaves_the_deterministic_plan_with_the_reason() -> None:
    nowhere = replace(SETTINGS, device="lightning.qubit")
    outcome = run(qaoa=True, settings=nowhere)
    assert (outcome.race.winner, outcome.race.fallback_reason) == (None, Reason.UNAVAILABLE)
    absent = replace(SETTINGS, device="absent", runtime=Refusing(0, DevicePool()))
    outcome = run(qaoa=True, settings=absent, deterministic=False)
    assert (outcome.race.answered, outcome.race.fallback_reason) == (False, Reason.UNAVAILABLE)


def test_hqc_goes_on_by_enumeration_where_the_device_failed_and_does_not_ask_it_again() -> None:
    pytest.importorskip("pennylane")
    runtime = Refusing(2, DevicePool())
    outcome = run(qaoa=True, hqc_turns=True, settings=replace(SETTINGS, size=4, device="default.qubit", runtime=runtime))
    assert outcome.race.fallback_reason == Reason.UNAVAILABLE
    assert len(runtime.asked) == 3
    assert [record.solver for record in outcome.records[:3]] == ["qaoa", "qaoa", "exact"]
    assert outcome.race.winner == "hqc"
    assert [tried.step.tried for tried in outcome.race.tried] == [2, len(outcome.records) - 2]


def test_windows_run_on_a_device_of_the_runtime_and_say_so() -> None:
    pytest.importorskip("pennylane")
    pool = DevicePool(devices=(DeviceSpec(name="plain", pennylane="default.qubit", seeded=True, mode="inline"),))
    settings = WindowSettings(size=6, count=3, shots=128, device="plain")
    with QuantumRuntime(pool) as runtime:
        outcome = run(qaoa=True, settings=replace(settings, runtime=runtime))
        assert outcome.race.fallback_reason is None
        circuits = [record.circuit for record in outcome.records if record.circuit is not None]
        assert {circuit.execution for circuit in circuits} == {"simulated-statevector"}
        assert all(circuit.optimum - 1e-9 <= circuit.found for circuit in circuits)
        assert total(outcome.race.answer) < total(plan_and_parts()[1])
        record = placement_record(outcome, settings, GIVEN)
        assert (record.execution, record.shots, record.depth) == ("simulated-statevector", 128, 2)


def test_a_device_without_a_sample_of_the_window_s_weight_is_refused_as_invalid() -> None:
    class Constant:
        """Answers with all spins at +1, whatever is asked."""

        def solve(self, request: SolveRequest, solver: str = "auto") -> SolveResult:
            answered = solve(replace(request, device=None), "exact")
            spins = np.ones((1, len(answered.solution)), np.int8)
            return replace(answered, samples=spins, energies=np.zeros(1), counts=np.ones(1, np.int64))

    outcome = run(qaoa=True, settings=replace(SETTINGS, device="constant", runtime=Constant()))
    assert outcome.race.fallback_reason == Reason.INVALID_OUTPUT


def test_the_record_holds_the_deterministic_plan_and_the_control_beside_the_answer() -> None:
    outcome = run(qaoa=True, hqc_turns=True)
    record = placement_record(outcome, SETTINGS, GIVEN)
    assert record.twin == pytest.approx(total(plan_and_parts()[1]))
    assert record.objective == pytest.approx(total(outcome.race.answer))
    assert record.control is not None
    assert record.control <= record.twin
    assert (record.execution, record.n, record.depth, record.shots) == ("simulated-subspace", 8, 2, 32)
    assert record.asked == ("qaoa", "hqc")
    assert (record.tried, record.kept) == (len(outcome.records), sum(each.gain > 0 for each in outcome.records))
    assert record.wall_ms is None
    classical = placement_record(run(hqc_turns=True), SETTINGS, GIVEN)
    assert (classical.execution, classical.control, classical.shots) == ("classical", None, None)
    alone = placement_record(run(), SETTINGS, GIVEN)
    assert (alone.solver, alone.asked, alone.objective) == ("swap-annealing", (), alone.twin)


def test_a_fault_of_the_program_is_not_taken_for_a_refusal() -> None:
    class Faulty:
        def solve(self, request: SolveRequest, solver: str = "auto") -> SolveResult:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(qaoa=True, settings=replace(SETTINGS, device="faulty", runtime=Faulty()))
