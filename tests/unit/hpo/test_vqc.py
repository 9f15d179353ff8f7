"""The circuit's proposals: free places, functions of the results alone, as good as the twin's, and labelled as what they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from qstream.errors import ProblemError
from qstream.hpo import circuit, vqc
from qstream.hpo.options import HpoOptions
from qstream.hpo.problem import Problem, warp
from qstream.hpo.ranks import ranks
from qstream.hpo.space import SearchSpace
from qstream.quantum.variational.embedding import product_state
from qstream.quantum.variational.gates import default_ranges, ring
from qstream.quantum.variational.observable import PauliSum, size
from schemas.solver import Reason


def floats(d: int) -> SearchSpace:
    return SearchSpace.load([{"name": f"x{i}", "type": "float", "low": 0.0, "high": 1.0} for i in range(d)])


def choices(*counts: int) -> SearchSpace:
    return SearchSpace.load(
        [{"name": f"c{i}", "type": "categorical", "choices": [f"v{k}" for k in range(count)]} for i, count in enumerate(counts)]
    )


def problem_of(space: SearchSpace, unit: np.ndarray, value: np.ndarray, trial: int | None = None) -> Problem:
    empty, none = np.zeros((0, space.size)), np.zeros(0, np.int64)
    return Problem(
        space=space,
        trial=len(value) if trial is None else trial,
        seed=3,
        number=np.arange(len(value)),
        unit=space.snap(unit),
        value=value,
        limit_value=np.zeros((len(value), 0)),
        failed_number=none,
        failed_unit=empty,
        pending_number=none,
        pending_unit=empty,
        tried_number=none,
        tried_unit=empty,
        prior_unit=empty,
        prior_value=np.zeros(0),
    )


def bowl(d: int, n: int, seed: int = 0) -> Problem:
    unit = np.random.default_rng(seed).random((n, d))
    return problem_of(floats(d), unit, ((unit - 0.3) ** 2).sum(1))


def hamiltonian(d: int) -> PauliSum:
    return PauliSum(d, np.random.default_rng(d).normal(size=size(d)))


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_shift_rule_is_the_gradient_of_the_circuit(layers):
    total, theta = hamiltonian(3), np.random.default_rng(1).uniform(0, np.pi, (4, 3))
    tensor = torch.tensor(theta, requires_grad=True)
    states = product_state(tensor)
    for reach in default_ranges(3, layers):
        states = states[:, torch.tensor(ring(3, reach).copy())]
    total.expectation(states).sum().backward()
    exact = circuit.exact(total, layers)
    assert exact.slope(theta) == pytest.approx(tensor.grad.numpy(), abs=1e-12)
    assert circuit.shifted(exact.energy).slope(theta) == pytest.approx(tensor.grad.numpy(), abs=1e-12)


@pytest.mark.parametrize("layers", [0, 2])
def test_the_rows_of_the_fit_are_expectations_of_the_circuit(layers):
    total, theta = hamiltonian(4), np.random.default_rng(2).uniform(0, np.pi, (5, 4))
    assert circuit.design(theta, layers) @ total.coefficients == pytest.approx(circuit.exact(total, layers).energy(theta))


def test_descent_ends_where_neither_a_fine_grid_nor_the_twin_is_lower():
    total = hamiltonian(2)
    exact = circuit.exact(total, 0)
    starts = np.random.default_rng(0).uniform(0, np.pi, (16, 2))
    grid = np.stack(np.meshgrid(*2 * [np.linspace(0, np.pi, 300)]), -1).reshape(-1, 2)
    lowest = exact.energy(grid).min()
    assert exact.energy(circuit.descend(exact, starts)).min() == pytest.approx(lowest, abs=0.02)
    assert circuit.twin(exact, starts) == pytest.approx(lowest, abs=1e-3)
    assert circuit.control(exact, 16, 2, np.random.default_rng(1)) >= lowest


def test_the_fit_is_ridge_regression_and_samples_spread_around_its_mean():
    rng = np.random.default_rng(5)
    for n in (8, 60):
        rows, z = circuit.design(rng.uniform(0, np.pi, (n, 3)), 0), rng.normal(size=n)
        found = vqc.fit(rows, z, 3)
        covariance = np.diag(found.spread**2)
        gain = covariance @ rows.T @ np.linalg.inv(rows @ covariance @ rows.T + found.noise * np.eye(n))
        assert found.mean(z) == pytest.approx(gain @ z, abs=1e-9)
        posterior = covariance - gain @ rows @ covariance
        assert found.deviation(rows[0]) == pytest.approx(np.sqrt(rows[0] @ posterior @ rows[0]), abs=1e-9)
        draws = np.array([found.sample(rows, z, rng) for _ in range(3000)])
        assert draws.mean(0) == pytest.approx(gain @ z, abs=0.05)
        assert draws.std(0) == pytest.approx(vqc.CAUTION * np.sqrt(np.diag(posterior)), rel=0.1, abs=1e-3)


def test_the_box_shrinks_without_gain_grows_with_it_and_holds_enough_results():
    rng = np.random.default_rng(0)
    unit = np.clip(0.5 + 0.001 * rng.normal(size=(40, 2)), 0, 1)
    stuck = problem_of(floats(2), unit[:19], np.r_[0.0, np.ones(18)])
    low, high = vqc.box(stuck)
    assert high - low == pytest.approx([0.5**6] * 2)
    assert (low <= unit[0]).all()
    assert (unit[0] <= high).all()
    gaining = problem_of(floats(2), unit, -np.arange(40.0))
    assert np.array_equal(np.stack(vqc.box(gaining)), [[0, 0], [1, 1]])
    spread = problem_of(floats(2), rng.random((40, 2)), np.r_[0.0, np.ones(39)])
    low, high = vqc.box(spread)
    assert ((spread.unit >= low) & (spread.unit <= high)).all(1).sum() == 5
    assert (low >= 0).all()
    assert (high <= 1).all()


def test_a_proposal_depends_on_the_problem_alone_and_other_trials_get_others():
    options = HpoOptions()
    first, again = vqc.propose(bowl(3, 20), options), vqc.propose(bowl(3, 20), options)
    assert first.unit.tobytes() == again.unit.tobytes()
    assert first.solver == again.solver
    other = vqc.propose(replace(bowl(3, 20), trial=21), options)
    assert other.unit.tobytes() != first.unit.tobytes()


def test_a_bowl_is_descended():
    problem, options = bowl(3, 8), HpoOptions()
    before = problem.value.min()
    for _ in range(12):
        unit = np.concatenate([problem.unit, vqc.propose(problem, options).unit[None]])
        problem = problem_of(problem.space, unit, ((unit - 0.3) ** 2).sum(1))
    assert problem.value.min() < before / 4


def test_what_is_taken_is_not_proposed_and_a_full_space_gives_none():
    space = choices(3, 2)
    every = np.array([[(i + 0.5) / 3, (j + 0.5) / 2] for i in range(3) for j in range(2)])
    problem = problem_of(space, every[:4], np.arange(4.0))
    pending = replace(problem, pending_number=np.array([4]), pending_unit=every[4:5])
    assert space.keys(vqc.propose(pending, HpoOptions()).unit[None]) == space.keys(every[5:])
    failed = replace(pending, failed_number=np.array([5]), failed_unit=every[5:])
    assert vqc.propose(failed, HpoOptions()) is None


def test_choices_stand_in_the_order_of_their_losses():
    space = choices(3, 2)
    unit = space.snap(np.array([[0.1, 0.1], [0.5, 0.9], [0.9, 0.1], [0.1, 0.9]]))
    order = ranks(space, unit, np.array([2.0, -3.0, 0.0, 1.0]))
    assert order.to(unit)[:, 0] == pytest.approx([5 / 6, 1 / 6, 1 / 2, 5 / 6])
    assert order.back(order.to(unit)) == pytest.approx(unit)
    assert ranks(floats(2), unit, np.zeros(4)).to(unit) == pytest.approx(unit)


@pytest.mark.parametrize(
    ("options", "execution"),
    [
        ({}, "simulated-product"),
        ({"circuit_layers": 2}, "simulated-statevector"),
        ({"shots": 64}, "simulated-statevector"),
    ],
)
def test_the_record_says_how_the_circuit_was_run_and_what_twin_and_control_reach(options, execution):
    found = vqc.propose(bowl(3, 20), HpoOptions(**options)).solver
    assert (found.solver, found.execution, found.n, found.seed) == ("vqc", execution, 3, 3)
    assert (found.depth, found.shots) == (options.get("circuit_layers", 0), options.get("shots"))
    assert found.objective >= found.twin - 0.05
    assert found.control >= found.twin - 1e-9


def test_circuits_that_are_too_large_for_shots_are_answered_in_closed_form():
    found = vqc.propose(bowl(11, 30), HpoOptions(shots=64, circuit_layers=1))
    assert found.fallback_reason is Reason.TOO_LARGE
    assert (found.solver.execution, found.solver.shots, found.solver.depth) == ("simulated-product", None, 0)


def test_an_older_study_gives_the_centre_and_its_box_until_there_are_results_enough():
    older = np.random.default_rng(1).random((30, 2))
    problem = replace(bowl(2, 3), prior_unit=older, prior_value=((older - 0.9) ** 2).sum(1))
    assert np.abs(vqc.propose(problem, HpoOptions()).unit).max() <= 1
    low, high = vqc.box(problem, centre=older[0])
    assert (low <= older[0]).all()
    assert (older[0] <= high).all()


def test_equal_losses_are_explored_and_no_result_is_an_error():
    equal = replace(bowl(2, 6), value=np.ones(6))
    assert warp(equal.value).tolist() == [0.0] * 6
    assert vqc.propose(equal, HpoOptions()) is not None
    with pytest.raises(ProblemError, match="results must be one or more, got 0"):
        vqc.propose(problem_of(floats(2), np.zeros((0, 2)), np.zeros(0)), HpoOptions())
