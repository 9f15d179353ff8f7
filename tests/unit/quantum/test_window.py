"""One small problem under a deadline: the incumbent stands, the record is honest, and a device is held to the weight."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.quantum.devices.pool import DevicePool, DeviceSpec
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.qaoa.fixed_weight import weight_energies, weight_spins
from qstream.quantum.record import SolveRequest, SolveResult
from qstream.quantum.runtime import QuantumRuntime
from qstream.quantum.solvers import solve
from qstream.quantum.window import Circuits, WindowSolver, exchanges, solve_window
from schemas.solver import SOLVERS, Reason


def glass(seed: int, n: int) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n))


def worst(problem: IsingProblem, weight: int) -> np.ndarray:
    return weight_spins(problem.n, weight)[weight_energies(problem, weight).argmax()]


@given(
    n=st.integers(1, 8),
    weight=st.integers(0, 8),
    seed=st.integers(0, 99),
    solver=st.sampled_from(["exact", "qaoa", "greedy"]),
    at=st.integers(0, 10_000),
)
def test_no_solver_makes_a_window_worse_or_leaves_its_weight(
    n: int, weight: int, seed: int, solver: WindowSolver, at: int
) -> None:
    weight = min(n, weight)
    problem, every = glass(seed, n), weight_spins(n, weight)
    before = every[at % len(every)]
    found = solve_window(problem, before, solver, weight=weight, seed=seed, circuits=Circuits(1, 16))
    optimum = weight_energies(problem, weight).min()
    assert np.count_nonzero(found.solution < 0) == weight
    assert optimum - 1e-9 <= found.energy <= problem.energy(before) + 1e-9
    assert found.energy == pytest.approx(problem.energy(found.solution))
    record = found.record
    assert record.objective == found.energy
    assert record.exact == pytest.approx(optimum)
    assert (record.asked, record.solver in SOLVERS, found.fallback_reason) == ((solver,), True, None)
    if solver == "exact":
        assert found.energy == pytest.approx(optimum)


def test_circuits_have_their_twin_and_their_control_beside_them() -> None:
    problem = glass(1, 10)
    found = solve_window(problem, worst(problem, 5), "qaoa", weight=5, circuits=Circuits(4, 64), seed=3)
    record = found.record
    assert (record.solver, record.execution, record.depth, record.shots) == ("qaoa", "simulated-subspace", 4, 64)
    assert record.twin is not None
    assert record.twin >= found.energy
    assert record.control is not None
    assert record.control >= record.exact
    again = solve_window(problem, worst(problem, 5), "qaoa", weight=5, circuits=Circuits(4, 64), seed=3)
    assert again.record == record


def test_a_prior_is_where_the_grover_mixer_starts() -> None:
    problem = glass(2, 16)
    prior = np.zeros(560)
    prior[weight_energies(problem, 3).argsort()[:5]] = 1.0
    found = solve_window(
        problem, worst(problem, 3), "qaoa", weight=3, prior=prior, circuits=Circuits(1, 64, mixer="grover"), seed=0
    )
    assert found.energy == pytest.approx(found.record.exact)


def test_a_time_that_is_over_leaves_the_incumbent_or_the_first_descent_and_says_why() -> None:
    problem = glass(3, 12)
    before = worst(problem, 6)
    ticks = itertools.count()
    found = solve_window(problem, before, "qaoa", weight=6, deadline_s=0.5, clock=lambda: float(next(ticks)))
    assert found.fallback_reason == Reason.TIMEOUT
    assert found.energy < problem.energy(before)
    assert (found.record.solver, found.record.asked, found.record.depth) == ("greedy", ("qaoa",), None)


@pytest.mark.parametrize("solver", ["exact", "qaoa", "greedy"])
def test_spins_of_any_weight_and_levels_have_the_same_record(solver: WindowSolver) -> None:
    rows = OneHotProblem((3, 3), pair={(0, 1): 5 * np.eye(3)}, unary=([0, 1, 2], [0, 1, 2]))
    for problem, before in ((glass(4, 6), np.ones(6)), (rows, np.zeros(2))):
        found = solve_window(problem, before, solver, seed=1)
        assert found.energy <= problem.energy(before)
        assert found.record.exact == pytest.approx(found.energy)
        assert found.record.asked[0].startswith(solver)
        assert found.record.solver in SOLVERS


def test_a_device_answers_within_the_weight_and_is_named() -> None:
    pytest.importorskip("pennylane")
    spec = DeviceSpec(name="lab", pennylane="default.qubit", seeded=True, mode="inline", simulator=False)
    problem = glass(5, 6)
    with QuantumRuntime(DevicePool(devices=(spec,))) as runtime:
        circuits = Circuits(1, 256, device="lab", runtime=runtime)
        found = solve_window(problem, worst(problem, 3), "qaoa", weight=3, circuits=circuits)
        assert found.fallback_reason is None
        assert np.count_nonzero(found.solution < 0) == 3
        assert (found.record.solver, found.record.execution) == ("qaoa", "device:lab")
        assert found.record.control is not None
        free = solve_window(problem, worst(problem, 3), "qaoa", circuits=circuits)
        assert free.record.asked == ("device",)


def test_a_device_that_cannot_be_had_or_misses_the_weight_leaves_the_twin_with_the_reason() -> None:
    problem = glass(6, 6)
    before = worst(problem, 3)
    nowhere = solve_window(problem, before, "qaoa", weight=3, circuits=Circuits(device="lab"))
    assert (nowhere.fallback_reason, nowhere.record.solver) == (Reason.UNAVAILABLE, "greedy")

    class Constant:
        def solve(self, request: SolveRequest, solver: str = "auto") -> SolveResult:
            answered = solve(replace(request, device=None), "exact")
            return replace(answered, samples=np.ones((1, 6), np.int8), energies=np.zeros(1), counts=np.ones(1, np.int64))

    wrong = solve_window(problem, before, "qaoa", weight=3, circuits=Circuits(device="lab", runtime=Constant()))
    assert wrong.fallback_reason == Reason.INVALID_OUTPUT


def test_what_does_not_fit_is_named() -> None:
    problem = glass(7, 6)
    with pytest.raises(ProblemError, match="incumbent must be spins with 2 at -1"):
        solve_window(problem, worst(problem, 3), weight=2)
    with pytest.raises(ProblemError, match="incumbent"):
        solve_window(problem, np.zeros(6), weight=2)
    with pytest.raises(ProblemError, match="problem must be an IsingProblem where a weight is given, got OneHotProblem"):
        solve_window(OneHotProblem((2, 2)), np.zeros(2), weight=1)


def test_exchanges_are_all_neighbours_of_equal_weight() -> None:
    spins = np.array([1, -1, 1, -1, -1], np.int8)
    found = {tuple(row) for row in exchanges(spins).tolist()}
    every = weight_spins(5, 3)
    assert found == {tuple(row) for row in every[(every != spins).sum(1) == 2].tolist()}
    assert exchanges(np.ones(3, np.int8)).shape == (0, 3)
