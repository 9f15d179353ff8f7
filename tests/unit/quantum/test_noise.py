"""Noise models against PennyLane's density matrices, and mitigation against what it must recover."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.quantum import noise
from qstream.quantum.ising import IsingProblem, basis_spins


def random_ising(seed: int, n: int) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n))


def ramp(problem: IsingProblem, p: int) -> tuple[list[float], list[float]]:
    at = (np.arange(p) + 0.5) / p
    return (0.75 * at / problem.sigma()).tolist(), (-0.65 * (1 - at)).tolist()


def mixed_by_pennylane(problem: IsingProblem, p: int, p_gate: float) -> np.ndarray:
    qml = pytest.importorskip("pennylane")
    n = problem.n
    ops = [qml.Hadamard(i) for i in range(n)]

    def gate(op: object, wires: list[int]) -> None:
        ops.extend([op, *(qml.DepolarizingChannel(p_gate, wires=wire) for wire in wires)])

    for gamma, beta in zip(*ramp(problem, p), strict=True):
        for i, j in np.argwhere(problem.J).tolist():
            gate(qml.IsingZZ(2 * gamma * problem.J[i, j], wires=[i, j]), [i, j])
        for i in range(n):
            gate(qml.RZ(2 * gamma * problem.h[i], wires=i), [i])
        for i in range(n):
            gate(qml.RX(2 * beta, wires=i), [i])
    script = qml.tape.QuantumScript(ops, [qml.probs(wires=range(n))])
    (found,) = qml.execute([script], qml.device("default.mixed", wires=n), diff_method=None)
    return np.asarray(found)


@pytest.mark.parametrize(("n", "p", "p_gate"), [(3, 2, 0.05), (4, 1, 0.01), (5, 1, 0.03)])
def test_noisy_circuits_equal_pennylanes_density_matrices(n: int, p: int, p_gate: float) -> None:
    problem = random_ising(n, n)
    ours = noise.noisy_probabilities(problem, *ramp(problem, p), p_gate)
    np.testing.assert_allclose(ours, mixed_by_pennylane(problem, p, p_gate), atol=1e-12)


def test_without_noise_the_circuit_is_the_pure_state() -> None:
    problem = random_ising(1, 4)
    psi = np.exp(-0.4j * problem.diagonal()) / 4
    x = np.array([[math.cos(0.3), 1j * math.sin(0.3)], [1j * math.sin(0.3), math.cos(0.3)]])
    mixer = np.kron(np.kron(x, x), np.kron(x, x))
    found = noise.noisy_probabilities(problem, [0.4], [-0.3], 0.0)
    np.testing.assert_allclose(found, np.abs(mixer @ psi) ** 2, atol=1e-14)


@pytest.mark.parametrize("p_gate", [0.002, 0.01, 0.03])
def test_the_calibrated_model_foretells_the_noise_of_larger_circuits(p_gate: float) -> None:
    model = noise.calibrate(sizes=(4, 5), seed=3)
    errors, naive, distances = [], [], []
    for seed in (11, 12, 13):
        problem, p = random_ising(seed, 7), 2
        energies = problem.diagonal()
        ideal = noise.noisy_probabilities(problem, *ramp(problem, p), 0.0)
        noisy = noise.noisy_probabilities(problem, *ramp(problem, p), p_gate)
        touches = noise.touches(problem, p)
        for fidelity, into in (
            (model.energy_fidelity(p_gate, touches, 7), errors),
            ((1 - p_gate) ** touches, naive),
        ):
            guess = noise.white_expectation(float(ideal @ energies), fidelity, problem.offset)
            assert guess == pytest.approx(noise.white(ideal, fidelity) @ energies, abs=1e-12)
            into.append(abs(guess - noisy @ energies) / abs(float(ideal @ energies)))
        white = noise.white(ideal, model.fidelity(p_gate, touches, 7))
        distances.append((np.abs(white - noisy).sum() / 2, np.abs(ideal - noisy).sum() / 2))
    assert np.mean(errors) < 0.04
    assert np.mean(errors) < np.mean(naive) / 3
    modelled, ignored = np.mean(distances, 0)
    assert modelled < ignored / 1.5


def test_the_calibrated_model_holds_for_pennylanes_six_qubits() -> None:
    problem, p, p_gate = random_ising(21, 6), 1, 0.01
    energies = problem.diagonal()
    truth = mixed_by_pennylane(problem, p, p_gate) @ energies
    ideal = noise.noisy_probabilities(problem, *ramp(problem, p), 0.0) @ energies
    fidelity = noise.calibrate().energy_fidelity(p_gate, noise.touches(problem, p), 6)
    assert abs(noise.white_expectation(ideal, fidelity, 0.0) - truth) < abs(ideal - truth) / 4


def test_calibration_repeats_and_says_how_well_it_fits() -> None:
    first = noise.calibrate(sizes=(3, 4), depths=(1,))
    assert first == noise.calibrate(sizes=(3, 4), depths=(1,))
    assert noise.calibrate().energy_spread < 0.15
    assert noise.calibrate().distribution_spread < 0.25


def test_touches_count_each_gate_once_a_qubit() -> None:
    couplings = np.zeros((3, 3))
    couplings[0, 1] = couplings[1, 2] = 1
    assert noise.touches(IsingProblem(3, couplings), 2) == 2 * (2 * 2 + 3)
    assert noise.touches(IsingProblem(3, couplings, np.array([0, 1.0, 0])), 1) == 2 * 2 + 1 + 3


def test_fidelity_falls_from_one_with_gates_and_their_noise() -> None:
    model = noise.WhiteNoise(energy=2.0, distribution=1.0)
    assert model.fidelity(0.0, 100, 4) == model.energy_fidelity(0.0, 100, 4) == 1
    assert model.fidelity(1.0, 1, 4) == 0
    assert model.fidelity(0.01, 100, 4) == pytest.approx(0.99**50)
    assert model.energy_fidelity(0.01, 100, 4) == pytest.approx(0.99**50)
    assert model.energy_fidelity(0.01, 100, 10) == pytest.approx(0.99**20)


def test_a_fitted_fidelity_is_the_one_mixed_in() -> None:
    ideal = np.random.default_rng(0).dirichlet(np.ones(16))
    assert noise.fitted_fidelity(noise.white(ideal, 0.63), ideal) == pytest.approx(0.63)
    with pytest.raises(ProblemError, match="uniform"):
        noise.fitted_fidelity(ideal, np.full(16, 1 / 16))


def test_readout_flips_each_spin_by_its_own_chance() -> None:
    true = np.random.default_rng(1).dirichlet(np.ones(8))
    up, down = 0.1, 0.25
    expected = np.zeros(8)
    for was, seen in itertools.product(range(8), repeat=2):
        chance = 1.0
        for bit in range(3):
            a, b = was >> bit & 1, seen >> bit & 1
            chance *= {(0, 0): 1 - up, (0, 1): up, (1, 0): down, (1, 1): 1 - down}[a, b]
        expected[seen] += true[was] * chance
    read = noise.readout(true, up, down)
    np.testing.assert_allclose(read, expected, atol=1e-15)
    np.testing.assert_allclose(noise.undo_readout(read, up, down), true, atol=1e-13)


def test_samples_are_misread_as_their_distribution_is() -> None:
    rng = np.random.default_rng(2)
    true = np.array([0.6, 0, 0.3, 0.1])
    samples = basis_spins(2).astype(np.int8)[rng.choice(4, 100_000, p=true)]
    read = noise.read_spins(samples, 0.05, 0.2, rng)
    share = np.bincount((read < 0) @ np.array([2, 1]), minlength=4) / 100_000
    np.testing.assert_allclose(share, noise.readout(true, 0.05, 0.2), atol=0.007)


def test_each_extrapolation_recovers_its_own_law() -> None:
    scales = np.array([1.0, 2.0, 3.0])
    assert noise.extrapolate(scales, -5 + 0.7 * scales, "linear") == pytest.approx(-5)
    assert noise.extrapolate(scales, -5 + 0.7 * scales + 0.2 * scales**2, "richardson") == pytest.approx(-5)
    assert noise.extrapolate(scales, 1.5 - 4 * np.exp(-0.3 * scales), "exponential", 1.5) == pytest.approx(-2.5)


@pytest.mark.parametrize("method", ["linear", "richardson", "exponential"])
def test_extrapolation_brings_a_noisy_energy_closer_to_the_ideal_one(method: noise.Extrapolation) -> None:
    problem = random_ising(31, 5)
    angles, energies = ramp(problem, 2), problem.diagonal()
    at = [noise.noisy_probabilities(problem, *angles, scale * 0.005) @ energies for scale in (0, 1, 2, 3)]
    found = noise.extrapolate([1, 2, 3], at[1:], method, problem.offset)
    assert abs(found - at[0]) < abs(at[1] - at[0]) / 3


def test_depth_is_where_noise_takes_back_what_layers_give() -> None:
    model = noise.WhiteNoise(energy=2.0, distribution=1.0)
    ratios = np.array([0.72, 0.79, 0.845, 0.87, 0.897])
    touches = 156 * np.arange(1, 6)

    def depth(p_gate: float) -> int:
        return noise.best_depth([model.energy_fidelity(p_gate, int(count), 12) for count in touches], ratios, 0.5)

    assert depth(0.0) == 5
    assert depth(0.03) == 1
    depths = [depth(p_gate) for p_gate in (0.0, 0.0005, 0.002, 0.005, 0.03)]
    assert depths == sorted(depths, reverse=True)
    for p_gate, chosen in zip((0.002, 0.005), depths[2:4], strict=True):
        kept = np.array([model.energy_fidelity(p_gate, int(count), 12) for count in touches])
        noisy = kept * ratios + (1 - kept) * 0.5
        assert int(np.argmax(noisy)) + 1 == chosen


def test_what_is_no_probability_or_too_large_is_named() -> None:
    with pytest.raises(ProblemError, match="p_gate"):
        noise.noisy_probabilities(random_ising(1, 3), [0.1], [0.1], 1.5)
    with pytest.raises(ProblemError, match=r"n must be .*got 9"):
        noise.noisy_probabilities(random_ising(1, 9), [0.1], [0.1], 0.1)
    with pytest.raises(ProblemError, match="p_up"):
        noise.readout(np.full(4, 0.25), -0.1, 0)
    with pytest.raises(ProblemError, match="p_up"):
        noise.undo_readout(np.full(4, 0.25), 0.5, 0.5)
    with pytest.raises(ProblemError, match="fidelity"):
        noise.white(np.full(4, 0.25), 1.1)
    for scales, values in (([1], [2]), ([1, 1], [2, 3]), ([1, 2], [1, 2, 3])):
        with pytest.raises(ProblemError, match="scales"):
            noise.extrapolate(scales, values)
    with pytest.raises(ProblemError, match="asymptote"):
        noise.extrapolate([1, 2], [-1, 1], "exponential")
    with pytest.raises(ProblemError, match="ratios"):
        noise.best_depth([1, 1], [1])


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: noise.extrapolate([1, 2], [1, 2], method="foo"), "method"),
        (lambda: noise.extrapolate([1, math.nan], [1, 2]), "scales"),
        (lambda: noise.noisy_probabilities(random_ising(0, 2), [math.nan], [0.1], 0.1), "gammas"),
        (lambda: noise.noisy_probabilities(random_ising(0, 2), [0.1, 0.2], [0.1], 0.1), "gammas"),
        (lambda: noise.noisy_probabilities(random_ising(0, 2), 0.1, 0.1, 0.1), "gammas"),
        (lambda: noise.noisy_probabilities(random_ising(0, 2), [0.1], [0.1], "x"), "p_gate"),
        (lambda: noise.readout(np.full(3, 1 / 3), 0.1, 0.1), "probabilities"),
        (lambda: noise.undo_readout(np.full((2, 2), 1 / 4), 0.1, 0.1), "probabilities"),
    ],
)
def test_what_has_no_meaning_is_named(call, field: str) -> None:
    with pytest.raises(ProblemError, match=rf"^{field}\b"):
        call()
