"""QAOA of spins of a fixed weight, from any start and by both mixers, against dense matrix functions and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.quantum.ising import IsingProblem, basis_spins
from qstream.quantum.qaoa import fixed_weight
from qstream.quantum.record import Refused
from schemas.solver import Reason


def random_ising(seed: int, n: int) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n), rng.normal())


def johnson(n: int, weight: int) -> np.ndarray:
    """The adjacency of states that are one exchange of unequal spins apart, from the spins alone."""
    spins = fixed_weight.weight_spins(n, weight).astype(int)
    return ((n - spins @ spins.T) // 2 == 2).astype(float)


def random_state(seed: int, states: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    psi = rng.normal(size=states) + 1j * rng.normal(size=states)
    return psi / np.linalg.norm(psi)


@pytest.mark.parametrize(("n", "weight"), [(1, 0), (4, 4), (5, 2), (6, 3), (7, 5)])
def test_the_swap_mixer_is_the_exponential_of_all_exchanges_of_two_spins(n: int, weight: int) -> None:
    x, y = np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]])

    def two(gate: np.ndarray, i: int, j: int) -> np.ndarray:
        result = np.eye(1)
        for qubit in range(n):
            result = np.kron(result, gate if qubit in (i, j) else np.eye(2))
        return result

    full = np.zeros((1 << n, 1 << n), complex)
    for i, j in itertools.combinations(range(n), 2):
        full += (two(x, i, j) + two(y, i, j)) / 2
    at = [s for s in range(1 << n) if s.bit_count() == weight]
    rng = np.random.default_rng(6)
    psi = rng.normal(size=len(at)) + 1j * rng.normal(size=len(at))
    expected = scipy.linalg.expm(-0.37j * full)[np.ix_(at, at)] @ psi
    np.testing.assert_allclose(fixed_weight.swap_mixer(psi, 0.37, n, weight), expected, atol=1e-12)


def test_the_swap_mixer_stays_unitary_on_fourteen_spins() -> None:
    psi = np.zeros(3432, complex)
    psi[100] = 1
    turned = fixed_weight.swap_mixer(psi, 0.9, 14, 7)
    assert np.linalg.norm(turned) == pytest.approx(1, abs=1e-11)
    np.testing.assert_allclose(fixed_weight.swap_mixer(turned, -0.9, 14, 7), psi, atol=1e-10)


def test_the_states_of_a_weight_are_the_basis_states_with_that_many_spins_down() -> None:
    spins = basis_spins(6)
    np.testing.assert_array_equal(fixed_weight.weight_spins(6, 2), spins[(spins < 0).sum(1) == 2])


def test_a_fixed_weight_answer_is_feasible_and_knows_its_optimum() -> None:
    problem = random_ising(7, 10)
    answer = fixed_weight.solve_fixed_weight(problem, 4, p=3, shots=64, seed=5)
    everything = [s for s in itertools.product((1, -1), repeat=10) if sum(s) == 2]
    energies = problem.energies(np.array(everything))
    assert answer.samples is not None
    assert answer.counts is not None
    assert (answer.samples.sum(1) == 2).all()
    assert answer.counts.sum() == 64
    np.testing.assert_allclose(answer.energies, problem.energies(answer.samples), atol=1e-12)
    assert answer.optimum == pytest.approx(energies.min(), abs=1e-12)
    assert answer.energy == pytest.approx(problem.energy(answer.solution), abs=1e-12)
    assert answer.control is not None
    assert answer.control.mean_energy == pytest.approx(energies.mean(), abs=1e-12)
    assert answer.control.p_opt == pytest.approx(1 / 210)
    assert answer.expectation is not None
    assert answer.expectation < energies.mean() - energies.std()


def test_a_fixed_weight_answer_repeats_to_the_byte() -> None:
    problem = random_ising(8, 8)
    warm = np.array([1, -1] * 4, np.int8)
    first, second = (fixed_weight.solve_fixed_weight(problem, 4, p=2, shots=32, seed=9, warm_start=warm) for _ in range(2))
    np.testing.assert_array_equal(first.samples, second.samples)
    assert first.expectation == second.expectation


def test_a_warm_start_samples_around_its_solution() -> None:
    warm = np.array([1, -1, 1, -1, 1, -1, 1, -1], np.int8)
    start = fixed_weight.weight_start(8, 4, warm, falloff=1.0)
    spins = fixed_weight.weight_spins(8, 4)
    swaps = (spins != warm).sum(1) // 2
    np.testing.assert_allclose(start / start.max(), np.exp(-swaps), atol=1e-12)
    with pytest.raises(ProblemError, match="warm_start"):
        fixed_weight.weight_start(8, 3, warm)


@pytest.mark.parametrize(("n", "floor"), [(8, 0.97), (10, 0.95), (12, 0.85)])
def test_thirty_two_shots_capture_the_gain_of_a_window_far_better_than_the_start_alone(n: int, floor: float) -> None:
    gains, controls = [], []
    for seed in range(30):
        problem = random_ising(100 + seed, n)
        warm = np.random.default_rng(seed).permutation(np.repeat([1, -1], n // 2)).astype(np.int8)
        answer = fixed_weight.solve_fixed_weight(problem, n // 2, p=2, shots=32, seed=seed, warm_start=warm)
        assert answer.optimum is not None
        assert answer.control is not None
        before = problem.energy(warm)
        gains.append(max(0.0, before - answer.energy) / (before - answer.optimum))
        controls.append(max(0.0, before - answer.control.best_energy) / (before - answer.optimum))
    assert np.mean(gains) >= floor
    assert np.mean(gains) > np.mean(controls) + 0.1


def test_a_flat_problem_is_answered() -> None:
    answer = fixed_weight.solve_fixed_weight(IsingProblem(4, np.zeros((4, 4)), offset=2.0), 2, p=1, shots=8, seed=0)
    assert answer.energy == answer.optimum == 2.0
    assert answer.p_opt == pytest.approx(1)


def test_what_does_not_fit_is_named() -> None:
    problem = random_ising(9, 6)
    for changed, name in (
        ({"p": 0}, "p must be a whole number from 1 to 64, got 0"),
        ({"shots": 0}, "shots must be"),
        ({"weight": 7}, "weight must be a whole number from 0 to 6, got 7"),
        ({"mixer": "x"}, "mixer must be xy or grover, got 'x'"),
        ({"prior": np.ones(19)}, "prior must be 20 probabilities, one a state"),
        ({"prior": -np.ones(20)}, "prior must be finite, >= 0"),
        ({"prior": np.zeros(20)}, "prior must be finite, >= 0"),
        ({"prior": np.full(20, np.nan)}, "prior must be finite, >= 0"),
        ({"prior": np.ones(20), "warm_start": np.repeat(np.int8([1, -1]), 3)}, "prior must be absent"),
    ):
        terms = {"weight": 3, "p": 1, "shots": 8, "seed": 0} | changed
        with pytest.raises(ProblemError, match=name):
            fixed_weight.solve_fixed_weight(problem, **terms)
    with pytest.raises(ProblemError, match="16384 states, got 17 and 8, which have 24310"):
        fixed_weight.solve_fixed_weight(random_ising(1, 17), 8, p=1, shots=8, seed=0)


def test_no_layer_begins_after_the_deadline() -> None:
    left = iter([1.0, 1.0, 0.0])
    with pytest.raises(Refused) as refused:
        fixed_weight.solve_fixed_weight(random_ising(10, 8), 4, p=4, shots=8, seed=0, remaining_s=lambda: next(left))
    assert refused.value.reason is Reason.TIMEOUT


@pytest.mark.parametrize("mixer", ["xy", "grover"])
@pytest.mark.parametrize(("n", "weight"), [(5, 2), (6, 3), (7, 5)])
def test_a_state_is_that_of_dense_matrix_exponentials(n: int, weight: int, mixer: fixed_weight.WeightMixer) -> None:
    energies = fixed_weight.weight_energies(random_ising(11, n), weight)
    start = random_state(12, len(energies))
    generator = johnson(n, weight) if mixer == "xy" else np.outer(start, start.conj())
    gammas, betas = [0.4, 0.9], [-0.3, -1.7]
    expected = start
    for gamma, beta in zip(gammas, betas, strict=True):
        expected = scipy.linalg.expm(-1j * beta * generator) @ (scipy.linalg.expm(-1j * gamma * np.diag(energies)) @ expected)
    found = fixed_weight.weight_state(energies, start, gammas, betas, mixer, n=n, weight=weight)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_one_layer_of_grover_is_its_closed_form_and_needs_no_number_of_spins() -> None:
    rng = np.random.default_rng(13)
    prior, energies = rng.dirichlet(np.ones(50)), rng.normal(size=50)
    gamma, beta = 0.8, -1.2
    characteristic = np.sum(prior * np.exp(-1j * gamma * energies))
    expected = prior * np.abs(np.exp(-1j * gamma * energies) + (np.exp(-1j * beta) - 1) * characteristic) ** 2
    state = fixed_weight.weight_state(energies, fixed_weight.prior_start(prior, 50), [gamma], [beta], "grover")
    np.testing.assert_allclose(np.abs(state) ** 2, expected, atol=1e-14)


@given(
    size=st.sampled_from([(5, 2), (8, 4), (9, 8), (24, 3), (24, 21), (16, 8), (62, 60), (62, 1), (30, 0)]),
    seed=st.integers(0, 2**32 - 1),
    mixer=st.sampled_from(["xy", "grover"]),
    layers=st.integers(0, 4),
)
def test_no_layer_changes_the_norm_and_opposite_angles_lead_back(
    size: tuple[int, int], seed: int, mixer: fixed_weight.WeightMixer, layers: int
) -> None:
    states = math.comb(*size)
    rng = np.random.default_rng(seed)
    energies, start = rng.normal(size=states), random_state(seed, states)
    gammas, betas = rng.uniform(-2, 2, layers), rng.uniform(-1, 1, layers)
    state = fixed_weight.weight_state(energies, start, gammas, betas, mixer, n=size[0], weight=size[1])
    assert np.linalg.norm(state) == pytest.approx(1, abs=1e-8)
    # A zero angle of either kind is the identity of its half of a layer, so mixers undo mixers and phases undo phases.
    still = fixed_weight.weight_state(energies, start, [0.0, 0.0], [0.7, -0.7], mixer, n=size[0], weight=size[1])
    np.testing.assert_allclose(still, start, atol=1e-7)


def test_states_of_many_spins_are_as_many_as_their_number_says_and_in_order() -> None:
    for n, weight in ((24, 3), (24, 21), (62, 2), (62, 60), (16, 8), (5, 0), (5, 5)):
        indices = fixed_weight.weight_indices(n, weight)
        assert len(indices) == math.comb(n, weight)
        assert (np.diff(indices) > 0).all()
        assert (np.bitwise_count(indices) == weight).all()
        assert ((fixed_weight.weight_spins(n, weight) < 0).sum(1) == weight).all()


@pytest.mark.parametrize("mixer", ["xy", "grover"])
def test_three_of_twenty_four_spins_are_chosen_far_better_than_at_random(mixer: fixed_weight.WeightMixer) -> None:
    above = []
    for seed in range(5):
        answer = fixed_weight.solve_fixed_weight(random_ising(seed, 24), 3, p=4, shots=64, seed=seed, mixer=mixer)
        assert answer.samples is not None
        assert answer.samples.shape[1] == 24
        assert ((answer.samples < 0).sum(1) == 3).all()
        assert answer.control is not None
        assert answer.control.p_opt == pytest.approx(1 / 2024)
        assert answer.p_opt is not None
        above.append(answer.p_opt / answer.control.p_opt)
    assert np.median(above) > 10


def test_the_grover_mixer_raises_the_best_of_a_prior_and_never_leaves_it() -> None:
    problem, rng = random_ising(3, 14), np.random.default_rng(4)
    energies = fixed_weight.weight_energies(problem, 4)
    # A prior that knows half of it: noisy, and it rules the upper half of the states out.
    prior = np.exp(-0.5 * (energies + energies.std() * rng.normal(size=len(energies))) / energies.std())
    prior[energies > np.median(energies)] = 0.0
    p_opt = []
    for p in (1, 2, 3, 4):
        answer = fixed_weight.solve_fixed_weight(problem, 4, p=p, shots=256, seed=p, prior=prior, mixer="grover")
        assert answer.energies is not None
        assert answer.energies.max() <= np.median(energies)
        assert answer.control is not None
        p_opt.append((answer.control.p_opt, answer.p_opt))
    starts, reached = zip(*p_opt, strict=True)
    assert len(set(starts)) == 1
    assert starts[0] < reached[0] < reached[1] < reached[2] < reached[3]


def test_grover_angles_are_the_optimum_of_a_normal_spectrum() -> None:
    energies = np.linspace(-8, 8, 1601)
    prior = np.exp(-(energies**2) / 2)
    start = fixed_weight.prior_start(prior, len(energies))

    def mean(gammas: list[float], betas: list[float]) -> float:
        state = fixed_weight.weight_state(energies, start, gammas, betas, "grover")
        return float(np.abs(state) ** 2 @ energies)

    assert mean(*fixed_weight.grover_angles(1, 1.0)) == pytest.approx(-2 * 0.5**0.5 * np.exp(-0.5), abs=1e-6)
    means = []
    for p in (1, 2, 3, 4):
        gammas, betas = fixed_weight.grover_angles(p, 1.0)
        best = mean(gammas, betas)
        for at, step in itertools.product(range(p), (-0.02, 0.02)):
            assert mean([g + step * (i == at) for i, g in enumerate(gammas)], betas) > best
            assert mean(gammas, [b + step * (i == at) for i, b in enumerate(betas)]) > best
        means.append(best)
    assert means == sorted(means, reverse=True)


def test_what_a_state_needs_is_named() -> None:
    energies, start = np.zeros(10), np.full(10, 10**-0.5)
    with pytest.raises(ProblemError, match=r"n and weight must be those of the 10 states, got None and None"):
        fixed_weight.weight_state(energies, start, [0.1], [0.1])
    with pytest.raises(ProblemError, match="n and weight must be those"):
        fixed_weight.weight_state(energies, start, [0.1], [0.1], n=6, weight=2)
    with pytest.raises(ProblemError, match="start must be an array of the shape"):
        fixed_weight.weight_state(energies, start[1:], [0.1], [0.1], "grover")
    with pytest.raises(ProblemError, match="betas must be 1 numbers, one a gamma"):
        fixed_weight.weight_state(energies, start, [0.1], [], "grover")
