"""The solver ``qaoa``: its answers against enumeration, its record against the circuit, its refusals."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
from numpy.typing import NDArray

from qstream.quantum.ising import IsingProblem, basis_spins
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.qaoa import solver
from qstream.quantum.qaoa.schedule import effective_degree, tree
from qstream.quantum.qaoa.solver import MOST_P, QAOA, calibrated, descended
from qstream.quantum.qaoa.statevector import Statevector, unlimited
from qstream.quantum.record import Answer, Refused, SolveRequest
from schemas.solver import Reason


def dense(n: int, seed: int, fields: bool = True) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n) * fields, 2.0)


def answer(problem: IsingProblem, **terms: object) -> Answer:
    return QAOA.run(SolveRequest(problem, **terms), unlimited)  # type: ignore[arg-type]


def least(problem: IsingProblem) -> float:
    return float(problem.energies(basis_spins(problem.n)).min())


@pytest.mark.parametrize("fields", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 11])
def test_it_finds_and_knows_the_optimum_of_small_problems(n: int, fields: bool) -> None:
    for seed in range(3):
        problem = dense(n, seed, fields)
        found = answer(problem, seed=seed)
        assert found.energy == pytest.approx(least(problem), abs=1e-9)
        assert found.optimum == pytest.approx(least(problem), abs=1e-9)
        assert problem.energy(found.solution) == found.energy
        assert found.solution.dtype == np.int8


def test_its_record_is_that_of_the_circuit() -> None:
    problem = dense(7, 5)
    found = answer(problem, p=3, shots=500)
    circuit = Statevector([problem], np.float64)
    circuit.evolve(*tree(3, problem.sigma(), effective_degree(problem)))
    p, energies = circuit.probabilities()[0], problem.energies(basis_spins(7))
    assert found.expectation == pytest.approx(p @ energies, abs=1e-4)
    assert found.p_opt == pytest.approx(p[energies.argmin()], abs=1e-5)
    assert (found.execution, found.schedule, found.p, found.shots) == ("simulated-statevector", "tree", 3, 500)
    assert found.n_2q == 3 * 21
    assert found.samples is not None
    assert found.energies is not None
    assert found.counts is not None
    np.testing.assert_allclose(found.energies, problem.energies(found.samples))
    assert found.counts.sum() == 500
    assert len(np.unique(found.samples, axis=0)) == len(found.samples)
    mean = float(found.energies @ found.counts) / 500
    assert mean == pytest.approx(found.expectation, abs=5 * energies.std() / math.sqrt(500))


def test_the_control_is_random_at_equal_shots() -> None:
    problem = dense(8, 6)
    energies = problem.energies(basis_spins(8))
    control = answer(problem, shots=4000).control
    assert control is not None
    assert control.p_opt == 1 / 256
    assert control.mean_energy == pytest.approx(2.0, abs=5 * energies.std() / math.sqrt(4000))
    assert control.best_energy == pytest.approx(least(problem))
    assert any(np.isclose(energies, answer(problem, shots=1).control.best_energy))  # type: ignore[union-attr]


def test_a_solution_below_all_samples_is_credited_to_the_descent() -> None:
    problem = dense(10, 7)
    few = answer(problem, p=1, shots=2)
    assert few.energies is not None
    assert few.produced_by == "polish"
    assert few.energy < few.energies.min()
    many = answer(problem, p=16, shots=2000)
    assert many.energies is not None
    assert many.produced_by == "sample"
    assert many.energy == pytest.approx(many.energies.min())
    ground = basis_spins(10)[problem.diagonal().argmin()].astype(np.int8)[np.newaxis]
    solution, by = descended(problem, ground, problem.energies(ground))
    assert by == "sample"
    np.testing.assert_array_equal(solution, ground[0])


def in_bytes(found: Answer) -> bytes:
    assert found.samples is not None
    assert found.energies is not None
    assert found.counts is not None
    facts = (found.energy, found.expectation, found.p_opt, found.control, found.produced_by)
    return b"".join([x.tobytes() for x in (found.solution, found.samples, found.energies, found.counts)]) + repr(facts).encode()


def test_equal_seeds_give_equal_bytes_and_others_other_samples() -> None:
    problem = dense(9, 8, fields=False)
    one, two, other = (in_bytes(answer(problem, p=2, seed=seed)) for seed in (3, 3, 4))
    assert one == two
    assert one != other


def test_a_warm_start_at_the_optimum_is_found_more_often_at_one_layer() -> None:
    problem = dense(10, 9)
    ground = basis_spins(10)[problem.diagonal().argmin()].astype(np.int8)
    cold, warm = answer(problem, p=1), answer(problem, p=1, warm_start=ground)
    assert warm.p_opt is not None
    assert cold.p_opt is not None
    assert warm.p_opt > 10 * cold.p_opt
    assert warm.schedule == "ramp"


def test_searched_angles_have_less_energy_than_transferred_ones() -> None:
    problem = dense(8, 10)
    fixed, searched = answer(problem, p=2, schedule="tree"), answer(problem, p=2, schedule="optimize")
    assert fixed.expectation is not None
    assert searched.expectation is not None
    assert searched.expectation < fixed.expectation
    assert (searched.schedule, answer(problem, schedule="optimize").p) == ("optimize", 3)


def test_the_depth_follows_the_time_that_remains() -> None:
    problem = dense(12, 11)
    model = calibrated()
    left = (model.fixed(12) + 7.5 * model.layer(12)) / 0.6
    assert solver.layers(SolveRequest(problem, deadline_s=left), lambda: left) == 7
    assert answer(problem).p == MOST_P
    with pytest.raises(Refused, match="ms remain") as refused:
        QAOA.run(SolveRequest(problem, deadline_s=1e-5), lambda: 1e-5)
    assert refused.value.reason is Reason.DEADLINE_INSUFFICIENT
    with pytest.raises(Refused, match="ms remain"):
        QAOA.run(SolveRequest(problem, deadline_s=left, p=20), lambda: left)
    assert solver.layers(SolveRequest(problem, deadline_s=left, p=6), lambda: left) == 6


def test_its_estimate_grows_with_depth_and_size() -> None:
    small, deep, large = (QAOA.estimate_ms(SolveRequest(dense(n, 0), p=p)) for n, p in ((10, 1), (10, 30), (16, 30)))
    assert 0 < small < deep < large
    assert QAOA.estimate_ms(SolveRequest(dense(10, 0), p=1, schedule="optimize")) > small


def test_it_stops_when_the_time_ends_between_layers() -> None:
    left = iter([math.inf, 1.0, 1.0, 0.0])
    with pytest.raises(Refused, match="before layer 3") as refused:
        QAOA.run(SolveRequest(dense(6, 0)), lambda: next(left))
    assert refused.value.reason is Reason.TIMEOUT


START: NDArray[np.int8] = np.ones(4, np.int8)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (SolveRequest(OneHotProblem((2, 2), (np.zeros(2), np.zeros(2)), {})), Reason.UNSUPPORTED),
        (SolveRequest(dense(23, 0)), Reason.TOO_LARGE),
        (SolveRequest(dense(20, 0), schedule="optimize", p=100), Reason.TOO_LARGE),
        (SolveRequest(dense(4, 0), noise=0.01), Reason.UNSUPPORTED),
        (SolveRequest(dense(4, 0), device="lightning"), Reason.UNSUPPORTED),
        (SolveRequest(dense(4, 0), schedule="tree", p=6), Reason.UNSUPPORTED),
        (SolveRequest(dense(4, 0), schedule="optimize", warm_start=START), Reason.UNSUPPORTED),
    ],
)
def test_it_refuses_what_it_cannot_simulate(request_: SolveRequest, reason: Reason) -> None:
    refused = QAOA.refusal(request_)
    assert refused is not None
    assert refused.reason is reason
    with pytest.raises(Refused):
        QAOA.run(request_, unlimited)


def test_a_request_that_it_serves_is_not_refused() -> None:
    assert QAOA.refusal(SolveRequest(dense(22, 0))) is None
    problem = IsingProblem(14, np.triu(nx.to_numpy_array(nx.heawood_graph()), 1))
    assert answer(problem).energy == -21


def test_the_control_of_a_warm_start_is_the_start_itself() -> None:
    problem = dense(6, 11)
    start = np.array([1, -1, 1, 1, -1, -1], np.int8)
    control = answer(problem, p=1, shots=100_000, warm_start=start).control
    assert control is not None
    # Independent spins, each with mean start / 2, as 3/4 keep their value.
    mean = start / 2
    assert control.mean_energy == pytest.approx(problem.offset + problem.h @ mean + mean @ problem.J @ mean, rel=1e-5)
    agree = np.count_nonzero(basis_spins(6)[problem.diagonal().argmin()] == start)
    assert control.p_opt == pytest.approx(0.75**agree * 0.25 ** (6 - agree), rel=1e-5)
    assert control.best_energy == pytest.approx(least(problem))
