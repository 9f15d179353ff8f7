"""The adjoint gradient against finite differences and torch's automatic differentiation of a dense circuit."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.quantum.ising import IsingProblem
from qstream.quantum.qaoa.gradient import expectation_gradient
from qstream.quantum.qaoa.measure import distributions
from qstream.quantum.qaoa.statevector import Statevector

GAMMAS = np.array([0.31, -0.27, 0.52])
BETAS = np.array([-0.44, 0.9, -0.21])


def dense(n: int, fields: bool) -> IsingProblem:
    rng = np.random.default_rng(n)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n) * fields, 1.7)


PROBLEMS = [
    dense(1, True),
    dense(2, False),
    dense(5, True),
    dense(6, False),
    dense(7, False),
    IsingProblem(8, np.triu(nx.to_numpy_array(nx.cubical_graph()), 1)),
]


def expectation(circuit: Statevector, angles: NDArray[np.float64]) -> float:
    circuit.reset()
    circuit.evolve(angles[:3], angles[3:])
    return distributions(circuit)[0].expectation


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: f"n={problem.n}")
def test_it_is_the_limit_of_differences(problem: IsingProblem) -> None:
    circuit = Statevector([problem], np.float64)
    value, *slopes = expectation_gradient(circuit, GAMMAS, BETAS)
    angles, step = np.concatenate([GAMMAS, BETAS]), 3e-4
    assert value == pytest.approx(expectation(circuit, angles), abs=1e-12)
    for k, slope in enumerate(np.concatenate(slopes)):
        near, far = ([expectation(circuit, angles + sign * size * np.eye(6)[k]) for sign in (1, -1)] for size in (step, 2 * step))
        # Richardson extrapolation: the error is of the fourth order in the step.
        assert slope == pytest.approx((8 * (near[0] - near[1]) - (far[0] - far[1])) / (12 * step), abs=1e-8)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: f"n={problem.n}")
def test_it_is_that_of_torch(problem: IsingProblem) -> None:
    torch = pytest.importorskip("torch")
    energies = torch.tensor(problem.diagonal())
    gammas, betas = (torch.tensor(part, requires_grad=True) for part in (GAMMAS, BETAS))
    state = torch.full((1 << problem.n,), 2.0 ** (-problem.n / 2), dtype=torch.complex128)
    for gamma, beta in zip(gammas, betas, strict=True):
        state = (torch.exp(-1j * gamma * energies) * state).reshape((2,) * problem.n)
        for qubit in range(problem.n):
            state = torch.cos(beta) * state - 1j * torch.sin(beta) * state.flip(qubit)
        state = state.reshape(-1)
    value = (state.abs() ** 2 * energies).sum()
    value.backward()
    found = expectation_gradient(Statevector([problem], np.float64), GAMMAS, BETAS)
    assert found[0] == pytest.approx(value.item(), abs=1e-12)
    np.testing.assert_allclose(found[1], gammas.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(found[2], betas.grad.numpy(), atol=1e-12)


def test_a_warm_start_has_none() -> None:
    with pytest.raises(ProblemError, match="warm start"):
        expectation_gradient(Statevector([dense(3, True)], start=np.ones(3, np.int8)), GAMMAS, BETAS)


def test_single_precision_gives_it_to_five_digits() -> None:
    problem = dense(8, True)
    fast, exact = (expectation_gradient(Statevector([problem], dtype), GAMMAS, BETAS) for dtype in (np.float32, np.float64))
    for a, b in zip(fast, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
