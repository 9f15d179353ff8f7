"""The solver qaoa-xy: feasible, reproducible, honest about optimum and control."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from qstream.quantum.devices.circuits import circuit_of, script_of
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.qaoa.subspace_solver import MOST_P, QAOA_XY, QaoaXY, two_qubit_gates
from qstream.quantum.record import Refused, SolveRequest
from schemas.solver import Reason


def unlimited() -> float:
    return math.inf


def random_onehot(seed: int, sizes: tuple[int, ...]) -> OneHotProblem:
    rng = np.random.default_rng(seed)
    pairs = itertools.combinations(range(len(sizes)), 2)
    return OneHotProblem(
        sizes, tuple(rng.normal(size=k) for k in sizes), {(i, j): rng.normal(size=(sizes[i], sizes[j])) for i, j in pairs}, 0.3
    )


@pytest.mark.parametrize("sizes", [(4,) * 6, (2, 3, 5), (1, 4), (3,)])
def test_every_sample_is_feasible_and_the_optimum_is_that_of_enumeration(sizes: tuple[int, ...]) -> None:
    problem = random_onehot(1, sizes)
    answer = QAOA_XY.run(SolveRequest(problem, p=5), unlimited)
    everything = np.array(list(itertools.product(*map(range, sizes))))
    energies = problem.energies(everything)
    assert answer.samples is not None
    assert answer.counts is not None
    assert answer.samples.shape[1] == len(sizes)
    assert ((answer.samples >= 0) & (answer.samples < sizes)).all()
    assert answer.counts.sum() == 256
    np.testing.assert_allclose(answer.energies, problem.energies(answer.samples), atol=1e-12)
    assert answer.optimum == pytest.approx(energies.min(), abs=1e-12)
    assert answer.energy == pytest.approx(problem.energy(answer.solution), abs=1e-12)
    assert answer.control is not None
    assert answer.control.mean_energy == pytest.approx(energies.mean(), abs=1e-12)
    assert answer.control.p_opt == pytest.approx(1 / len(everything))
    assert answer.execution == "simulated-subspace"


def test_ten_layers_find_the_optimum_hundreds_of_times_more_often_than_chance() -> None:
    answers = [QAOA_XY.run(SolveRequest(random_onehot(seed, (4,) * 6), p=10), unlimited) for seed in range(8)]
    assert np.mean([answer.p_opt for answer in answers]) > 300 * 4**-6
    assert all(answer.energy == pytest.approx(answer.optimum) for answer in answers)


def test_both_mixers_lower_the_mean_energy_with_every_layer_more() -> None:
    problem = random_onehot(2, (3,) * 5)
    for solver in (QaoaXY("complete"), QaoaXY("ring")):
        means = [solver.run(SolveRequest(problem, p=p), unlimited).expectation for p in (1, 2, 4, 8)]
        assert means == sorted(means, reverse=True)
        assert means[0] < problem.diagonal().mean()


def test_the_answer_repeats_to_the_byte_and_other_seeds_sample_anew() -> None:
    problem = random_onehot(3, (4, 4, 4, 4))
    first, second, other = (QAOA_XY.run(SolveRequest(problem, p=2, seed=seed), unlimited) for seed in (5, 5, 6))
    assert first.samples.tobytes() == second.samples.tobytes()
    assert first.counts.tobytes() == second.counts.tobytes()
    assert first.counts.tobytes() != other.counts.tobytes()


def test_a_level_no_better_than_a_sample_is_not_called_polish() -> None:
    problem = OneHotProblem((2, 2), pair={(0, 1): np.array([[0.0, 1], [1, 0]])})
    answer = QAOA_XY.run(SolveRequest(problem, p=1, shots=512), unlimited)
    assert answer.produced_by == "sample"
    assert answer.energy == 0


def test_polish_is_named_where_it_found_the_solution() -> None:
    problem = random_onehot(4, (8,) * 5)
    answer = QAOA_XY.run(SolveRequest(problem, p=1, shots=2), unlimited)
    assert answer.produced_by == "polish"
    assert answer.energies is not None
    assert answer.energy < answer.energies.min()


def test_a_warm_start_at_the_optimum_makes_it_likelier() -> None:
    problem = random_onehot(5, (4,) * 6)
    best = np.array(np.unravel_index(problem.diagonal().argmin(), problem.sizes))
    cold = QAOA_XY.run(SolveRequest(problem, p=3), unlimited)
    warm = QAOA_XY.run(SolveRequest(problem, p=3, warm_start=best), unlimited)
    assert cold.p_opt is not None
    assert warm.p_opt is not None
    assert warm.p_opt > 4 * cold.p_opt


def test_depth_follows_the_time_left() -> None:
    problem = random_onehot(6, (4,) * 6)
    assert QAOA_XY.run(SolveRequest(problem), unlimited).p == MOST_P
    assert QAOA_XY.run(SolveRequest(problem), lambda: 0.005).p < MOST_P
    with pytest.raises(Refused) as refused:
        QAOA_XY.run(SolveRequest(problem), lambda: 1e-4)
    assert refused.value.reason is Reason.DEADLINE_INSUFFICIENT


@pytest.mark.parametrize(("sizes", "p"), [((3, 3), 2), ((2, 4, 1, 5), 3)])
def test_as_many_two_qubit_gates_are_counted_as_a_device_runs(sizes: tuple[int, ...], p: int) -> None:
    problem = random_onehot(7, sizes)
    circuit = circuit_of(problem, *QAOA_XY.angles(problem, p), shots=1, seed=0)
    wires = [len(gate.wires) for gate in script_of(circuit).operations]
    assert two_qubit_gates(problem, p, "complete") == wires.count(2)


def test_a_ring_takes_one_gate_a_pair_of_neighbours() -> None:
    assert two_qubit_gates(random_onehot(7, (4, 2)), 1, "ring") == 4 + 8 + 5


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (SolveRequest(IsingProblem(2, np.zeros((2, 2)))), Reason.UNSUPPORTED),
        (SolveRequest(OneHotProblem((2,)), schedule="tree"), Reason.UNSUPPORTED),
        (SolveRequest(OneHotProblem((2,)), noise=0.1), Reason.UNSUPPORTED),
        (SolveRequest(OneHotProblem((2,) * 21)), Reason.TOO_LARGE),
    ],
)
def test_what_it_cannot_serve_is_refused_by_name(request_: SolveRequest, reason: Reason) -> None:
    refused = QAOA_XY.refusal(request_)
    assert refused is not None
    assert refused.reason is reason
    assert QAOA_XY.refusal(SolveRequest(OneHotProblem((2, 3)))) is None


def test_a_flat_problem_is_answered() -> None:
    answer = QAOA_XY.run(SolveRequest(OneHotProblem((3, 3), offset=1.5), p=2), unlimited)
    assert answer.energy == answer.optimum == 1.5
    assert answer.p_opt == pytest.approx(1)


def test_the_control_of_a_warm_start_is_the_start_itself() -> None:
    problem = OneHotProblem((4, 3), unary=(np.arange(4.0), np.arange(3.0)))
    control = QAOA_XY.run(SolveRequest(problem, p=1, warm_start=np.array([0, 2])), unlimited).control
    assert control is not None
    # Level 0 of 4 with 3/4 and each other with 1/12; level 2 of 3 with 3/4 and each other with 1/8.
    assert control.mean_energy == pytest.approx((1 + 2 + 3) / 12 + 1 / 8 + 2 * 3 / 4)
    assert control.p_opt == pytest.approx(3 / 4 * 1 / 8)


def test_more_solutions_than_any_float_are_too_many_and_told_as_a_power_of_ten() -> None:
    refused = QAOA_XY.refusal(SolveRequest(OneHotProblem((40,) * 200)))
    assert refused is not None
    assert refused.reason == Reason.TOO_LARGE
    assert refused.detail.endswith("states, got 10^320.4")
