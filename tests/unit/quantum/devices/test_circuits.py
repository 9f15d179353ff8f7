"""Circuits: their states are those of matrix exponentials, their counts fit their probabilities, bad counts are refused."""

from __future__ import annotations

import itertools
from functools import reduce

import numpy as np
import pennylane as qml
import pytest
from numpy.typing import NDArray
from scipy.linalg import expm
from scipy.stats import chi2

from qstream.quantum.devices.circuits import Circuit, circuit_of, feasible_levels, samples_of, script_of
from qstream.quantum.devices.pool import DEFAULT_POOL, DeviceSpec
from qstream.quantum.devices.sample import sample
from qstream.quantum.ising import IsingProblem, indices_of
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.record import Problem, Refused
from schemas.solver import Reason

GAMMAS, BETAS = np.array([0.3, 0.5]), np.array([-0.6, -0.2])
LIGHTNING = DEFAULT_POOL.device("lightning.qubit")
X = np.array([[0.0, 1.0], [1.0, 0.0]])


def ising(n: int = 5, seed: int = 0, density: float = 1.0) -> IsingProblem:
    rng = np.random.default_rng(seed)
    couplings = np.triu(rng.normal(size=(n, n)), 1) * (rng.random((n, n)) < density)
    return IsingProblem(n, couplings, rng.normal(size=n) * (rng.random(n) < 0.7))


def one_hot(sizes: tuple[int, ...] = (3, 1, 4)) -> OneHotProblem:
    rng = np.random.default_rng(1)
    pair = {(i, j): rng.normal(size=(sizes[i], sizes[j])) for i, j in itertools.combinations(range(len(sizes)), 2)}
    return OneHotProblem(sizes, tuple(rng.normal(size=k) for k in sizes), pair, offset=1.5)


def ising_state(problem: IsingProblem) -> NDArray[np.complex128]:
    """The state by dense matrix exponentials [2^n]."""
    psi = np.full(2**problem.n, 2 ** (-problem.n / 2), complex)
    for gamma, beta in zip(GAMMAS, BETAS, strict=True):
        mixer = reduce(np.kron, [expm(-1j * beta * X)] * problem.n)
        psi = mixer @ (np.exp(-1j * gamma * problem.diagonal()) * psi)
    return psi


def one_hot_state(problem: OneHotProblem) -> NDArray[np.complex128]:
    """The state in the feasible subspace by dense matrix exponentials [k_1, ..., k_m]."""
    energies = problem.diagonal()
    psi = np.full(problem.sizes, energies.size**-0.5, complex)
    for gamma, beta in zip(GAMMAS, BETAS, strict=True):
        psi = np.exp(-1j * gamma * energies) * psi
        for axis, k in enumerate(problem.sizes):
            mixer = expm(-1j * beta * (np.ones((k, k)) - np.eye(k)))
            psi = np.moveaxis(np.tensordot(mixer, psi, (1, axis)), 0, axis)
    return psi


def circuit(problem: Problem, shots: int = 256, noise: float | None = None) -> Circuit:
    return circuit_of(problem, GAMMAS, BETAS, shots, 7, noise)


def probabilities(of: Circuit, device: str = "lightning.qubit") -> NDArray[np.float64]:
    script = script_of(of).copy(measurements=[qml.probs(wires=range(of.n))], shots=None)
    return np.asarray(qml.execute([script], qml.device(device, wires=of.n))[0])


@pytest.mark.parametrize("density", [1.0, 0.4])
@pytest.mark.parametrize("device", ["lightning.qubit", "default.qubit"])
def test_the_circuit_of_spins_is_the_product_of_exponentials(device: str, density: float):
    problem = ising(density=density)
    np.testing.assert_allclose(probabilities(circuit(problem), device), np.abs(ising_state(problem)) ** 2, atol=1e-12)


def test_the_circuit_of_one_hot_variables_stays_feasible_and_is_the_product_of_exponentials():
    problem = one_hot()
    measured = probabilities(circuit(problem))
    starts = np.cumsum((0, *problem.sizes))
    expected = np.zeros_like(measured)
    for levels, amplitude in np.ndenumerate(one_hot_state(problem)):
        index = sum(1 << (int(starts[-1]) - 1 - int(starts[i]) - level) for i, level in enumerate(levels))
        expected[index] = np.abs(amplitude) ** 2
    np.testing.assert_allclose(measured, expected, atol=1e-12)


@pytest.mark.parametrize("problem", [ising(), ising(density=0.4), one_hot()], ids=["dense", "sparse", "one-hot"])
def test_two_qubit_gates_are_counted_as_pennylane_counts_them(problem: Problem):
    of = circuit(problem)
    assert of.two_qubit_gates == script_of(of).specs["resources"].gate_sizes[2]


def test_noise_is_the_depolarising_model_of_pennylane():
    problem = ising(4)
    model = qml.NoiseModel({qml.noise.wires_in(range(4)): lambda op, **_: [qml.DepolarizingChannel(0.05, w) for w in op.wires]})
    clean = script_of(circuit(problem)).copy(measurements=[qml.probs(wires=range(4))], shots=None)
    (noisy,), _ = qml.add_noise(clean, model)
    expected = qml.execute([noisy], qml.device("default.mixed", wires=4))[0]
    np.testing.assert_allclose(probabilities(circuit(problem, noise=0.05), "default.mixed"), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["lightning.qubit", "default.qubit", "default.mixed"])
def test_counts_follow_the_exact_state_and_repeat_with_the_seed(name: str):
    problem, spec = ising(), DEFAULT_POOL.device(name)
    found = sample(spec, circuit(problem, shots=4000))
    again = sample(spec, circuit(problem, shots=4000))
    assert (found.spins.tobytes(), found.counts.tobytes()) == (again.spins.tobytes(), again.counts.tobytes())
    seen = np.zeros(32)
    seen[indices_of(found.spins)] = found.counts
    expected = 4000 * np.abs(ising_state(problem)) ** 2
    assert seen.sum() == 4000
    assert ((seen - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, 31)


def test_samples_of_one_hot_variables_are_levels():
    problem = one_hot()
    levels, counts = feasible_levels(sample(LIGHTNING, circuit(problem)), problem.sizes)
    assert counts.sum() == 256
    assert (levels >= 0).all()
    assert (levels < problem.sizes).all()


def test_infeasible_samples_are_left_out():
    of = circuit(one_hot((2, 2)))
    levels, counts = feasible_levels(samples_of({"1001": 3, "1101": 2, "0001": 1, "0110": 5}, of), (2, 2))
    assert levels.tolist() == [[1, 0], [0, 1]]
    assert counts.tolist() == [5, 3]


def test_the_first_bit_is_spin_0_and_a_1_is_minus_one():
    found = samples_of({"10000": 2}, circuit(ising()))
    assert found.spins.tolist() == [[-1, 1, 1, 1, 1]]


@pytest.mark.parametrize(
    "result",
    [np.full(32, np.nan), None, {}, {"0": 3}, {"00002": 3}, {"00000": float("nan")}, {"00000": 0}, {"00000": 257}, {0: 3}],
    ids=str,
)
def test_what_are_no_counts_is_refused(result: object):
    with pytest.raises(Refused) as refused:
        samples_of(result, circuit(ising()))
    assert refused.value.reason is Reason.INVALID_OUTPUT


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nobody.qpu", Reason.NOT_INSTALLED), ("no_such_module:Device", Reason.NOT_INSTALLED), ("math:pi", Reason.UNAVAILABLE)],
)
def test_a_device_that_is_not_there_is_told_apart_from_one_that_does_not_open(name: str, reason: Reason):
    with pytest.raises(Refused) as refused:
        sample(DeviceSpec(name="x", pennylane=name), circuit(ising()))
    assert refused.value.reason is reason
