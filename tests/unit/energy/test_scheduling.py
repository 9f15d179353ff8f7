"""Schedules: always within every limit, at the lowest peak where that is known, never below their bound; circuits only help."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.energy import TaskWindow, schedule, select_nodes
from qstream.energy.refine import choose, refined, sample
from qstream.energy.window import tasks_of
from qstream.errors import ProblemError

CIRCUITS = SimpleNamespace(deterministic=True, qaoa=True, hqc=False, circuit_layers=2, shots=64, circuit_slots=4, device=None)


def random_window(seed: int, tasks: int, slots: int = 10, modes: int = 1) -> TaskWindow:
    """Tasks with modes, edges from lower to higher numbers, pairs that start together, and limits that mostly can be met."""
    rng = np.random.default_rng(seed)
    duration = rng.integers(1, 4, (tasks, modes))
    power = np.round(rng.uniform(50, 400, (tasks, modes)) / duration)
    power[:, 1:][rng.random((tasks, modes - 1)) < 0.3] = -1
    edges = [(i, i + int(rng.integers(1, 4))) for i in range(tasks - 4) if rng.random() < 0.4]
    together = [(0, tasks - 1)] if tasks > 4 and rng.random() < 0.3 else []
    release = rng.integers(0, 3, tasks)
    return TaskWindow(
        slots, duration, power, release, rng.integers(slots - 4, slots, tasks), edges, rng.uniform(0, 200, slots), together
    )


def best_peak(window: TaskWindow) -> float:
    """The lowest peak of all starts and modes, infinite without a feasible one."""
    tasks = len(window.unit)
    options = [
        [(s, m) for m in np.flatnonzero(window.duration[i] > 0) for s in range(window.release[i], window.latest[i] + 1)]
        for i in range(tasks)
    ]
    best = np.inf
    for chosen in product(*options):
        start, mode = np.array(chosen).T
        if window.fits(start, mode):
            best = min(best, float(window.load_w(start, mode).max()))
    return best


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 16), st.integers(1, 3))
def test_a_schedule_keeps_every_limit_and_stands_between_its_bound_and_the_simple_one(seed: int, tasks: int, modes: int) -> None:
    window = random_window(seed, tasks, 14, modes)
    plan = schedule(window, deadline_s=0.02)
    if plan.status == "infeasible":
        assert plan.at_fault
        return
    assert window.fits(plan.start, plan.mode)
    assert plan.peak_w == pytest.approx(window.load_w(plan.start, plan.mode).max())
    assert plan.bound_w <= plan.peak_w <= plan.simple_peak_w
    assert (plan.status == "optimal") == (plan.peak_w <= plan.bound_w * (1 + 1e-9))
    assert plan.solver.execution == "classical"


@pytest.mark.parametrize("seed", range(5))
def test_few_tasks_with_modes_get_the_lowest_peak_of_all_combinations(seed: int) -> None:
    window = random_window(seed, 4, 7, 2)
    plan, best = schedule(window), best_peak(window)
    assert (plan.status == "infeasible") == (best == np.inf)
    if best < np.inf:
        assert plan.peak_w == pytest.approx(best)
        assert plan.bound_w <= best + 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_twenty_tasks_get_the_peak_that_cp_sat_proves(seed: int) -> None:
    cp_model = pytest.importorskip("ortools.sat.python.cp_model")
    given = random_window(seed, 20, 20)
    window = TaskWindow(20, given.duration, given.power_w, given.release, given.latest, given.edges, None, given.together)
    model, long = cp_model.CpModel(), window.duration[:, 0].tolist()
    ends = zip(window.release.tolist(), window.latest.tolist(), long, strict=True)
    start = [model.new_int_var(low, min(high, window.slots - d), "") for low, high, d in ends]
    for i, j in window.edges.tolist():
        model.add(start[j] >= start[i] + long[i])
    for i, j in window.together.tolist():
        model.add(start[i] == start[j])
    peak = model.new_int_var(0, 100_000, "")
    tasks = [model.new_fixed_size_interval_var(s, d, "") for s, d in zip(start, long, strict=True)]
    model.add_cumulative(tasks, window.power_w[:, 0].astype(int).tolist(), peak)
    model.minimize(peak)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    assert solver.solve(model) == cp_model.OPTIMAL
    assert schedule(window).peak_w == pytest.approx(solver.value(peak))


def test_tasks_that_start_together_are_in_the_bound_together() -> None:
    plan = schedule(TaskWindow(6, [2, 3, 1], [400.0, 300.0, 200.0], [0] * 3, [3] * 3, together=[(0, 1)]))
    assert (plan.peak_w, plan.bound_w, plan.status) == (700.0, 700.0, "optimal")


def test_equal_arguments_give_equal_plans_and_a_spent_deadline_the_simple_one() -> None:
    window = random_window(3, 25, 20)
    one, two = schedule(window, seed=4), schedule(window, seed=4)
    assert one.start.tobytes() == two.start.tobytes()
    assert one.solver == two.solver
    late = schedule(window, deadline_s=0.0)
    assert late.peak_w == one.simple_peak_w
    assert late.solver.wall_ms is not None
    assert one.solver.wall_ms is None


def test_a_deadline_that_cannot_be_met_names_the_tasks() -> None:
    plan = schedule(TaskWindow(10, [3, 3, 1], [10.0, 10.0, 10.0], [0, 0, 0], [5, 2, 9], [(0, 1)]))
    assert plan.status == "infeasible"
    assert plan.at_fault == (1,)
    assert schedule(TaskWindow(4, [5], [10.0], [0], [3])).at_fault == (0,)
    assert schedule(TaskWindow(9, [5], [10.0], [3], [2])).at_fault == (0,)


@pytest.mark.parametrize("hqc", [False, True])
def test_circuits_never_raise_the_peak_and_say_that_they_are_simulated(hqc: bool) -> None:
    window = TaskWindow(8, [2] * 6, [100.0] * 6, [0] * 6, [6] * 6)
    tasks, _ = tasks_of(window)
    soonest = (tasks.release.copy(), window.fastest())
    record = schedule(window, deadline_s=0.0).solver
    (start, mode), said, reason = refined(
        window, tasks, soonest, record, CIRCUITS, turns=None if hqc else 1, seed=1, remaining_s=lambda: np.inf, runtime=None
    )
    assert reason is None
    assert window.fits(start[window.unit], mode)
    peak = window.load_w(start[window.unit], mode).max()
    assert peak < 600.0
    assert said.solver == ("hqc" if hqc else "qaoa")
    assert said.execution == "simulated-subspace"
    assert (said.twin, said.objective, said.depth, said.shots) == (600.0, peak, 2, 64)
    assert said.control is not None
    plan = schedule(window, options=SimpleNamespace(**(vars(CIRCUITS) | {"hqc": hqc})))
    assert plan.peak_w == plan.solver.twin == 200.0
    assert plan.solver.asked == (said.solver,)
    assert (plan.solver.solver, plan.solver.execution) == ("list", "classical")


def test_a_device_that_does_not_answer_is_a_reason_in_the_plan_and_the_classical_schedule_stands() -> None:
    window = TaskWindow(8, [2] * 6, [100.0] * 6, [0] * 6, [6] * 6)
    plan = schedule(window, options=SimpleNamespace(**(vars(CIRCUITS) | {"device": "absent"})))
    assert plan.fallback_reason == "unavailable"
    assert (plan.peak_w, plan.solver.solver, plan.solver.asked) == (200.0, "list", ("qaoa",))
    assert schedule(window, options=CIRCUITS).fallback_reason is None


def test_samples_are_ranked_by_the_true_peak_and_those_that_break_an_edge_are_out() -> None:
    window = random_window(8, 6, 12)
    tasks, _ = tasks_of(window)
    plan = schedule(window)
    choice = choose(window, tasks, (plan.start[tasks.task[tasks.first[:-1]]], plan.mode), 4, np.random.default_rng(0))
    found = sample(choice, CIRCUITS, seed=2)
    assert found.reason is None
    assert found.count.sum() == 64
    broken = 0
    for levels, peak in zip(found.levels, found.peak_w, strict=True):
        start = plan.start[tasks.task[tasks.first[:-1]]].copy()
        start[choice.unit] = choice.start[np.arange(4), levels]
        fits = window.fits(start[window.unit], plan.mode)
        broken += not fits
        assert np.isfinite(peak) == fits
        if fits:
            assert peak == pytest.approx(window.load_w(start[window.unit], plan.mode).max())
    assert 0 < broken < len(found.levels) or not choice.broken


@settings(max_examples=6)
@given(st.integers(0, 2**32 - 1))
def test_no_node_runs_more_than_its_gpus_and_every_active_one_runs_something(seed: int) -> None:
    rng = np.random.default_rng(seed)
    window = random_window(seed, 10, 16)
    gpus, free = rng.integers(1, 5, 10), rng.integers(2, 9, 5)
    found = select_nodes(window, gpus, free, rng.uniform(100, 500, 5))
    plan = found.plan
    if plan.status == "infeasible":
        assert plan.at_fault
        assert (found.node_of_task == -1).all()
        return
    assert window.fits(plan.start, plan.mode)
    assert sorted(set(found.node_of_task.tolist())) == found.active.tolist()
    long = window.duration[np.arange(10), plan.mode]
    for slot in range(16):
        on = (plan.start <= slot) & (slot < plan.start + long)
        assert (np.bincount(found.node_of_task[on], gpus[on], minlength=5) <= free).all()


def test_the_fewest_and_cheapest_nodes_are_chosen() -> None:
    window = TaskWindow(8, [2] * 4, [100.0] * 4, [0] * 4, [6] * 4)
    found = select_nodes(window, [4] * 4, [4, 4, 8], [300.0, 100.0, 200.0])
    assert found.active.tolist() == [1]
    assert found.plan.peak_w == 100.0
    tight = select_nodes(TaskWindow(2, [2] * 4, [100.0] * 4, [0] * 4, [0] * 4), [4] * 4, [4, 4, 8], [300.0, 100.0, 200.0])
    assert tight.active.tolist() == [0, 1, 2]
    none = select_nodes(window, [4, 4, 4, 9], [4, 4, 8], [300.0, 100.0, 200.0])
    assert (none.plan.status, none.plan.at_fault) == ("infeasible", (3,))


ONE: dict[str, Any] = {"slots": 6, "duration": [1, 2], "power_w": [10.0, 20.0], "release": [0, 0], "latest": [4, 4]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"slots": 0}, "slots must be a whole number from 1 to 10000, got 0"),
        ({"duration": [0, 2]}, r"duration\[0\] must be 1 slot or more, got \[0\]"),
        ({"power_w": [10.0, -1.0]}, r"power_w\[1\] must be 0 W or more in 1 or more modes, got \[-1.0\]"),
        ({"power_w": [10.0, -5.0]}, r"power_w\[1\] must be finite and 0 W or more, or -1 for no such mode, got \[-5.0\]"),
        ({"power_w": [10.0]}, r"power_w must be of shape \(2, 1\), as duration, got shape \(1, 1\)"),
        ({"release": [0]}, "release must be of 2 slots, one for each task, got 1 slots"),
        ({"edges": [(0, 2)]}, r"edges\[0\] must be two different tasks from 0 to 1, got \[0, 2\]"),
        ({"edges": [(0, 1), (1, 0)]}, r"edges must be without a cycle, got a cycle of the tasks \[(0, 1|1, 0)\]"),
        ({"edges": [(0, 1)], "together": [(0, 1)]}, r"edges must be without a cycle, got a cycle of the tasks \[0, 1\]"),
        ({"together": [(1, 1)]}, r"together\[0\] must be two different tasks from 0 to 1"),
        ({"base_w": [1.0]}, r"base_w must be of 6 watts, one for each slot, got shape \(1,\)"),
        ({"base_w": [1.0, -1.0, 0.0, 0.0, 0.0, 0.0]}, r"base_w\[1\] must be finite and 0 W or more, got -1"),
        ({"duration": np.zeros(0, int), "power_w": []}, "duration must be of 1 to 10000 tasks, got 0 tasks"),
    ],
)
def test_a_wrong_window_is_named_with_its_value_and_rule(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        TaskWindow(**(ONE | changed))


def test_arguments_of_another_class_are_named() -> None:
    with pytest.raises(ProblemError, match="window must be of class TaskWindow, got 5"):
        schedule(5)  # type: ignore[arg-type]
    with pytest.raises(ProblemError, match=r"options must be EnergyOptions, or None, got \{\}"):
        schedule(TaskWindow(**ONE), options={})  # type: ignore[arg-type]


def test_wrong_nodes_are_named() -> None:
    window = TaskWindow(**ONE)
    with pytest.raises(ProblemError, match="gpus must be of 2 counts, one for each task, got 1 counts"):
        select_nodes(window, [1], [4], [100.0])
    with pytest.raises(ProblemError, match="idle_w must be 1 finite numbers of 0 W or more, one for each node"):
        select_nodes(window, [1, 1], [4], [-1.0])


def test_many_tasks_come_near_their_bound_too() -> None:
    rng = np.random.default_rng(1)
    window = TaskWindow(100, rng.integers(1, 4, 800), rng.uniform(50, 600, 800), np.zeros(800, int), np.full(800, 100))
    plan = schedule(window)
    assert plan.peak_w < 1.25 * plan.bound_w
