"""A device as a solver: its samples have the mean of the simulated state, and it takes what it can serve."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qstream.quantum.devices.pool import DevicePool, DeviceSpec
from qstream.quantum.devices.solver import device_solver
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.qaoa.solver import QAOA
from qstream.quantum.qaoa.subspace_solver import QAOA_XY
from qstream.quantum.record import Answer, Problem, Refused, SolveRequest
from schemas.solver import Reason

LIGHTNING = device_solver("device:lightning.qubit")
MIXED = device_solver("default.mixed")
QPU = DevicePool(devices=(DeviceSpec(name="qpu", pennylane="vendor.qpu", max_wires=100),))


def ising(n: int = 8, seed: int = 0) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n))


def one_hot(sizes: tuple[int, ...] = (3, 4, 2)) -> OneHotProblem:
    rng = np.random.default_rng(1)
    pair = {(i, j): rng.normal(size=(sizes[i], sizes[j])) for i in range(len(sizes)) for j in range(i + 1, len(sizes))}
    return OneHotProblem(sizes, tuple(rng.normal(size=k) for k in sizes), pair)


def standard_errors_apart(device: Answer, engine: Answer) -> float:
    """How far the mean of the samples is from the engine's exact mean."""
    assert device.energies is not None
    assert device.counts is not None
    assert device.shots is not None
    assert engine.expectation is not None
    mean = np.average(device.energies, weights=device.counts)
    spread = math.sqrt(np.average((device.energies - mean) ** 2, weights=device.counts) / device.shots)
    return abs(mean - engine.expectation) / spread


@pytest.mark.parametrize("p", [1, 3, 5])
def test_samples_of_spins_have_the_mean_of_the_engine(p: int):
    request = SolveRequest(ising(), p=p, schedule="tree", shots=1024)
    device, engine = LIGHTNING.run(request, lambda: math.inf), QAOA.run(request, lambda: math.inf)
    assert (device.p, device.schedule, device.n_2q) == (engine.p, engine.schedule, engine.n_2q)
    assert standard_errors_apart(device, engine) < 5


@pytest.mark.parametrize("p", [1, 4])
def test_samples_of_one_hot_variables_have_the_mean_of_the_subspace(p: int):
    request = SolveRequest(one_hot(), p=p, shots=1024)
    device, engine = LIGHTNING.run(request, lambda: math.inf), QAOA_XY.run(request, lambda: math.inf)
    assert standard_errors_apart(device, engine) < 5


def test_noise_draws_the_mean_to_that_of_random_solutions():
    clean, noisy, noisier = (
        MIXED.run(SolveRequest(ising(4), p=2, shots=1024, noise=noise), lambda: math.inf) for noise in (None, 0.03, 0.2)
    )
    means = [np.average(answer.energies, weights=answer.counts) for answer in (clean, noisy, noisier)]  # type: ignore[arg-type]
    assert means[0] < means[1] < means[2] < 0.5
    assert [answer.execution for answer in (clean, noisy)] == ["simulated-density", "simulated-noisy"]


def test_the_solution_is_no_worse_than_the_best_sample():
    answer = LIGHTNING.run(SolveRequest(ising(12), p=1, shots=8), lambda: math.inf)
    assert answer.energies is not None
    assert answer.energy == ising(12).energy(answer.solution)
    assert answer.energy < answer.energies.min()
    assert answer.produced_by == "polish"


def test_less_time_means_fewer_layers():
    depths = [LIGHTNING.run(SolveRequest(ising(12)), lambda left_s=left_s: left_s).p for left_s in (math.inf, 0.01, 0.001)]  # type: ignore[misc]
    assert depths == sorted(depths, reverse=True)  # type: ignore[type-var]
    assert depths[0] == 3
    assert depths[-1] == 1


@pytest.mark.parametrize(
    ("name", "problem", "terms", "reason"),
    [
        ("lightning.qubit", ising(21), {}, Reason.TOO_LARGE),
        ("lightning.qubit", one_hot((7, 7, 7)), {}, Reason.TOO_LARGE),
        ("default.qubit", ising(), {"noise": 0.1}, Reason.UNSUPPORTED),
        ("default.qubit", ising(), {"schedule": "tree", "p": 6}, Reason.UNSUPPORTED),
        ("default.qubit", one_hot(), {"schedule": "tree"}, Reason.UNSUPPORTED),
        ("default.qubit", ising(), {"schedule": "optimize"}, Reason.UNSUPPORTED),
    ],
)
def test_what_it_cannot_serve_is_refused(name: str, problem: Problem, terms: dict[str, object], reason: Reason):
    refused = device_solver(name).refusal(SolveRequest(problem, **terms))  # type: ignore[arg-type]
    assert refused is not None
    assert refused.reason is reason
    assert device_solver(name).refusal(SolveRequest(ising())) is None


def test_a_machine_with_more_wires_than_an_integer_has_bits_is_asked():
    solver = device_solver("qpu", QPU)
    request = SolveRequest(ising(80), p=1)
    assert solver.refusal(request) is None
    assert solver.estimate_ms(request) == 0.0
    with pytest.raises(Refused) as refused:
        solver.run(request, lambda: math.inf)
    assert refused.value.reason is Reason.NOT_INSTALLED


def test_a_device_refuses_a_warm_start_and_says_how_many_shots_it_had() -> None:
    refused = LIGHTNING.refusal(SolveRequest(ising(4), warm_start=np.ones(4, np.int8)))
    assert refused is not None
    assert refused.reason == Reason.UNSUPPORTED
    assert LIGHTNING.run(SolveRequest(ising(2), shots=5000, p=1), lambda: math.inf).shots == LIGHTNING.spec.shots == 1024
