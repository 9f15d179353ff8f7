"""One call solves by any solver, keeps its deadline, and its record tells who answered and what it was worth."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import sys
import time

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.quantum import solvers
from qstream.quantum.classical.exact import spectrum
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.order import with_means
from qstream.quantum.planted import planted_torus
from qstream.quantum.record import Answer, Refused, SolveRequest
from qstream.quantum.solvers import SOLVERS, solve, warm
from schemas.solver import Reason
from tests.unit.quantum.problems import glass, levels

SPIN_SOLVERS = ("exact", "greedy", "sa", "dsb", "qaoa", "rqaoa", "device:lightning.qubit")
LEVEL_SOLVERS = ("exact", "greedy", "sa", "qaoa-xy")


class Stub:
    """A solver that does what it is asked to."""

    name = "stub"
    path = "quantum"

    def __init__(self, solution=None, refused=None, estimate_ms=0.0, expectation=None):
        self.solution, self.refused, self.estimate, self.expectation = solution, refused, estimate_ms, expectation
        self.left: list[float] = []
        self.seen: list[SolveRequest] = []

    def refusal(self, request):
        return self.refused

    def estimate_ms(self, request):
        return self.estimate

    def run(self, request, remaining_s):
        self.left.append(remaining_s())
        self.seen.append(request)
        return Answer(self.solution, -1e9, "sample", "simulated-statevector", shots=10, expectation=self.expectation, p=1)


@pytest.fixture
def stub(monkeypatch):
    """Make the module that the name 'qaoa' stands for give this solver instead."""

    def put(solver):
        monkeypatch.setattr(solvers, "SOLVERS", {**SOLVERS, "qaoa": f"{__name__}_stub:IT"})
        monkeypatch.setitem(sys.modules, f"{__name__}_stub", type("Module", (), {"IT": solver}))
        return solver

    return put


@pytest.mark.parametrize("name", SPIN_SOLVERS)
def test_every_solver_of_spins_gives_the_optimum_and_a_whole_record(name):
    problem = glass(10)
    result = solve(problem, name, seed=7)
    meta = result.meta
    assert result.energy == pytest.approx(problem.diagonal().min())
    assert result.energy == problem.energy(result.solution)
    assert (meta.requested, meta.fallback, meta.n, meta.seed, meta.deadline_ms) == (name, None, 10, 7, None)
    assert meta.optimum == pytest.approx(result.energy)
    assert meta.digest == problem.digest()
    assert {arm.solver for arm in meta.tried} >= {"greedy", name}
    json.dumps(meta.as_dict())


@pytest.mark.parametrize("name", LEVEL_SOLVERS)
def test_every_solver_of_levels_gives_the_optimum(name):
    problem = levels((3, 4, 2, 3))
    result = solve(problem, name)
    assert result.energy == pytest.approx(problem.diagonal().min())
    assert (result.meta.fallback, result.meta.n) == (None, 4)


@pytest.mark.parametrize(("name", "problem"), [("qaoa", glass(8)), ("qaoa-xy", levels((3, 3, 3)))])
def test_a_quantum_solver_is_judged_by_the_optimum_its_twin_and_a_control(name, problem):
    meta = solve(problem, name, shots=64).meta
    energies = problem.diagonal()
    assert meta.label == "simulated"
    assert meta.solver == name
    assert meta.baseline.solver == "sa"
    assert meta.baseline.energy == pytest.approx(energies.min())
    assert meta.shots == 64
    assert meta.ratio == pytest.approx((energies.max() - meta.expectation) / np.ptp(energies), abs=1e-6)
    assert meta.ratio > (energies.max() - energies.mean()) / np.ptp(energies)
    assert meta.control.p_opt == pytest.approx(1 / energies.size)
    assert meta.p_opt > meta.control.p_opt
    assert meta.control.best_energy >= energies.min() - 1e-9


@pytest.mark.parametrize("name", ["auto", "sa", "dsb", "qaoa", "rqaoa"])
def test_without_a_deadline_the_same_seed_gives_the_same_bytes(name):
    first, second = (solve(glass(12), name, seed=5) for _ in range(2))
    assert first.solution.tobytes() == second.solution.tobytes()
    assert first.energy == second.energy
    if first.counts is not None:
        assert first.counts.tobytes() == second.counts.tobytes()


def test_auto_proves_the_optimum_where_it_can_and_searches_where_it_cannot():
    assert solve(glass(14)).meta.solver == "exact"
    assert solve(levels((4, 4, 4))).meta.solver == "exact"
    problem, ground = planted_torus(8, np.random.default_rng(0))
    result = solve(problem)
    assert result.energy == ground
    assert result.meta.solver in ("sa", "dsb")
    assert {arm.solver for arm in result.meta.tried} == {"greedy", "sa", "dsb"}
    assert result.meta.optimum is None
    assert result.meta.label == "classical"


def test_a_worse_answer_is_replaced_by_the_best_and_the_record_says_by_whom(stub):
    problem = glass(8)
    worst = 1 - 2 * (int(problem.diagonal().argmax()) >> np.arange(7, -1, -1) & 1)
    stub(Stub(worst, expectation=float(problem.diagonal().max())))
    result = solve(problem, "qaoa")
    assert result.energy == pytest.approx(problem.diagonal().min())
    assert result.meta.solver != "qaoa"
    assert (result.meta.path, result.meta.label, result.meta.fallback) == ("classical", "classical", None)
    assert result.meta.execution == "simulated-statevector"
    assert result.meta.ratio == pytest.approx(0)
    claimed = next(arm for arm in result.meta.tried if arm.solver == "qaoa")
    assert claimed.energy == pytest.approx(problem.diagonal().max())  # and not what it claimed


@pytest.mark.parametrize("solution", [None, [1] * 7, [0] * 8, "text", [[1] * 8], [math.nan] * 8])
def test_an_answer_that_is_no_solution_is_not_returned(stub, solution):
    stub(Stub(solution))
    fallback = solve(glass(8), "qaoa").meta.fallback
    assert (fallback.from_solver, fallback.to_solver, fallback.reason) == ("qaoa", "exact", Reason.INVALID_OUTPUT)


def test_a_refusal_is_told_and_another_answers(stub):
    stub(Stub(refused=Refused(Reason.UNHEALTHY, "too warm")))
    meta = solve(glass(8), "qaoa").meta
    assert (meta.fallback.reason, meta.fallback.detail) == (Reason.UNHEALTHY, "too warm")
    assert next(arm for arm in meta.tried if arm.solver == "qaoa").reason is Reason.UNHEALTHY
    assert meta.baseline.solver == "greedy"


def test_a_solver_that_needs_longer_than_there_is_is_not_started(stub):
    solver = stub(Stub(np.ones(8), estimate_ms=1e4))
    assert solve(glass(8), "qaoa", deadline_s=1.0).meta.fallback.reason is Reason.DEADLINE_INSUFFICIENT
    assert solver.left == []


def test_a_quantum_solver_leaves_its_twin_as_much_time_as_it_has(stub):
    solver = stub(Stub(np.ones(8)))
    solve(glass(8), "qaoa", deadline_s=10.0)
    assert 0 < solver.left[0] <= 5.0


def test_the_incumbent_is_returned_if_nothing_beats_it_and_no_solver_sees_it(stub):
    problem, _ = planted_torus(16, np.random.default_rng(3))
    rng = np.random.default_rng(0)
    best = min((solve(problem, "sa", seed=seed).solution for seed in range(3)), key=problem.energy)
    solver = stub(Stub(rng.choice([-1, 1], 256)))
    result = solve(problem, "qaoa", incumbent=best, deadline_s=0.02)
    assert result.energy <= problem.energy(best)
    assert (result.meta.solver, result.meta.produced_by) == ("incumbent", "incumbent")
    assert solver.seen[0].incumbent is None
    poor = solve(glass(8), "exact", incumbent=np.ones(8))
    assert poor.meta.solver == "exact"


def test_a_deadline_is_kept_where_all_the_work_would_take_far_longer():
    warm()
    problem, ground = planted_torus(24, np.random.default_rng(1))
    problem.digest()
    unhurried = time.perf_counter()
    best = solve(problem, "sa")
    unhurried = time.perf_counter() - unhurried
    # A busy machine may hold up any of them, but not each.
    result = min((solve(problem, "sa", deadline_s=0.05) for _ in range(5)), key=lambda result: result.meta.wall_ms)
    assert result.meta.deadline_ms == 50
    assert result.meta.wall_ms < 1e3 * unhurried / 2
    assert ground <= best.energy <= result.energy < 0


def test_energies_that_only_rounding_tells_apart_do_not_take_the_answer_from_who_was_asked(stub):
    numbers = np.arange(1.0, 11) / 7  # many partitions without rest, whose energies are rounded differently
    problem = IsingProblem(10, np.triu(2 * np.outer(numbers, numbers), 1), offset=float(numbers @ numbers))
    optimal = np.flatnonzero(problem.diagonal() < problem.diagonal().min() + 1e-9)
    for index in optimal[::5]:
        stub(Stub(1 - 2 * (int(index) >> np.arange(9, -1, -1) & 1)))
        assert solve(problem, "qaoa").meta.solver == "qaoa"


def test_a_request_and_further_terms_are_merged():
    request = SolveRequest(glass(6), seed=3)
    assert solve(request, "greedy").meta.seed == 3
    assert solve(request, "greedy", seed=4).meta.seed == 4


def test_a_device_may_be_named_in_the_request_or_as_the_solver():
    for result in (solve(glass(4), "device:nonesuch"), solve(glass(4), device="nonesuch")):
        assert (result.meta.requested, result.meta.device) == ("device:nonesuch", "nonesuch")
        assert result.meta.fallback.reason is Reason.UNAVAILABLE


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"solver": "nonesuch"}, "solver must be auto, exact, greedy"),
        ({"solver": None}, "solver must be .*got None"),
        ({"shots": 0}, "shots must be a whole number from 1 to 1000000, got 0"),
        ({"deadline_s": -1}, "deadline_s must be .*got -1"),
        ({"deadline_s": math.nan}, "deadline_s must be a number, got nan"),
        ({"incumbent": [1, 1]}, "incumbent"),
        ({"warm_start": [0] * 6}, "warm_start"),
    ],
)
def test_wrong_input_is_an_error(terms, message):
    with pytest.raises(ProblemError, match=message):
        solve(glass(6), **terms)


def test_what_is_no_problem_is_an_error():
    with pytest.raises(ProblemError, match=r"problem must be an IsingProblem.*got type ndarray"):
        solve(np.zeros((2, 2)))


def test_a_device_is_judged_by_its_samples():
    problem = glass(6)
    result = solve(problem, "device:default.qubit", shots=1000, seed=2)
    energies = np.repeat(problem.energies(result.samples), result.counts)
    optimum, highest = problem.diagonal().min(), problem.diagonal().max()
    assert result.meta.expectation == pytest.approx(energies.mean())
    assert result.meta.ratio == pytest.approx((highest - energies.mean()) / (highest - optimum))
    assert result.meta.p_opt == np.isclose(energies, optimum).mean() > result.meta.control.p_opt


def test_samples_that_are_no_solution_count_as_misses():
    problem = levels((2, 2))
    energies = np.sort(problem.diagonal().ravel())
    answer = Answer([0, 0], 0.0, "sample", "device:x", energies=energies[:2], counts=np.array([3, 1]), shots=10)
    ends = spectrum(problem)
    assert with_means(answer, ends).expectation == pytest.approx((3 * energies[0] + energies[1]) / 4)
    assert with_means(answer, ends).p_opt == 0.3
    assert with_means(answer, None).p_opt is None


def test_a_clock_that_jumps_ends_the_solve_with_an_answer():
    times = iter([0.0, *[1e9] * 10_000])
    result = solve(glass(10), "sa", deadline_s=1.0, clock=lambda: next(times))
    assert result.energy == glass(10).energy(result.solution)
    assert result.meta.fallback.reason in (Reason.DEADLINE_INSUFFICIENT, Reason.NOT_READY)


def test_a_problem_that_only_greedy_can_hold_is_answered():
    result = solve(OneHotProblem((1024,) * 5, offset=2.0), "sa")
    assert result.energy == 2.0
    assert (result.meta.solver, result.meta.fallback.reason) == ("greedy", Reason.TOO_LARGE)


def test_the_record_is_plain_data():
    meta = solve(glass(5), "qaoa").meta
    assert dataclasses.asdict(meta)["digest"] == glass(5).digest()
    assert meta.as_dict()["label"] == meta.label


def test_a_problem_of_more_solutions_than_any_float_is_solved() -> None:
    result = solve(OneHotProblem((40,) * 200), deadline_s=0.5)
    assert result.energy == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schedule", "foo"),
        ("schedule", None),
        ("p", True),
        ("p", 1.5),
        ("p", "1"),
        ("shots", 2.5),
        ("shots", None),
        ("seed", None),
        ("seed", -1),
        ("deadline_s", None),
        ("deadline_s", "1"),
        ("deadline_s", math.nan),
        ("deadline_s", True),
        ("noise", "x"),
        ("noise", 1),
        ("noise", math.nan),
        ("device", 3),
        ("incumbent", "up"),
        ("warm_start", [True] * 6),
        ("warm_start", [[1], [1, 1]]),
    ],
)
def test_a_field_of_a_wrong_type_is_named_with_its_value(field: str, value: object) -> None:
    with pytest.raises(ProblemError, match=rf"^{field} "):
        SolveRequest(glass(6), **{field: value})


def test_a_request_takes_a_problem_only() -> None:
    with pytest.raises(ProblemError, match=r"problem must be .*got type str"):
        SolveRequest("glass")


def test_numbers_of_numpy_are_plain_in_the_record() -> None:
    terms = {"seed": np.int64(3), "shots": np.int32(16), "p": np.int16(2), "deadline_s": np.float64(9)}
    record = solve(glass(6), "qaoa", **terms).meta.as_dict()
    assert json.loads(json.dumps(record))["seed"] == 3
    assert [type(record[name]) for name in ("seed", "shots", "p", "deadline_ms")] == [int, int, int, float]


def test_a_star_import_gives_what_the_package_names() -> None:
    given: dict[str, object] = {}
    exec("from qstream.quantum import *", given)
    assert given["solve"] is solve
    assert given["OneHotProblem"] is OneHotProblem


def test_a_refusal_survives_pickling() -> None:
    refused = pickle.loads(pickle.dumps(Refused(Reason.TIMEOUT, "late")))
    assert (refused.reason, refused.detail, str(refused)) == (Reason.TIMEOUT, "late", "timeout: late")


@pytest.mark.parametrize("size", [1e-200, 1e100])
def test_the_unit_of_a_problem_does_not_matter_to_qaoa(size: float) -> None:
    plain, scaled = glass(6), IsingProblem(6, glass(6).J / 4 * size, glass(6).h / 4 * size)
    assert solve(scaled, "qaoa", p=3, shots=64).meta.p_opt == pytest.approx(solve(plain, "qaoa", p=3, shots=64).meta.p_opt)
    of_device = solve(scaled, "device:default.qubit", p=2, shots=64).meta
    assert of_device.fallback is None
    assert of_device.p_opt == solve(plain, "device:default.qubit", p=2, shots=64).meta.p_opt


def test_the_unit_of_a_problem_does_not_matter_to_qaoa_xy() -> None:
    plain = levels((3, 4, 3))
    pair = {at: costs * 1e-200 for at, costs in plain.pair.items()}
    scaled = OneHotProblem(plain.sizes, tuple(costs * 1e-200 for costs in plain.unary), pair)
    assert solve(scaled, "qaoa-xy").meta.p_opt == pytest.approx(solve(plain, "qaoa-xy").meta.p_opt)
