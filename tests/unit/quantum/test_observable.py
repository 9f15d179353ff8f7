"""Expectations of Pauli sums equal their matrices and closed forms; the error of shots falls with the root of their number."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
import torch

from qstream.errors import ProblemError
from qstream.quantum.variational.embedding import iqp, product_state
from qstream.quantum.variational.observable import PauliSum, bases, moments, pairs, product_moments, size

PAULIS = {"I": np.eye(2), "Z": np.diag([1.0, -1.0]), "X": np.array([[0.0, 1.0], [1.0, 0.0]])}


def drawn(n: int, seed: int = 0) -> PauliSum:
    return PauliSum(n, np.random.default_rng(seed).normal(size=size(n)))


def matrix(operators: dict[int, str], n: int) -> np.ndarray:
    return reduce(np.kron, [PAULIS[operators.get(qubit, "I")] for qubit in range(n)])


def dense(total: PauliSum) -> np.ndarray:
    n = total.n
    named = [(operator % n, "ZX"[operator // n]) for operator in range(2 * n)]
    terms = [{}, *({qubit: kind} for qubit, kind in named)]
    terms += [dict((named[a], named[b])) for a, b in zip(*pairs(n), strict=True)]
    return sum(c * matrix(term, n) for c, term in zip(total.coefficients, terms, strict=True))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_expectations_are_those_of_the_matrix(n):
    total = drawn(n)
    states = iqp(np.random.default_rng(1).normal(size=(4, n)))
    expected = np.einsum("bs,st,bt->b", states.conj(), dense(total), states).real
    assert total.expectation(states) == pytest.approx(expected, abs=1e-12)
    assert moments(states) @ total.coefficients == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_closed_form_is_the_statevector(n):
    theta = np.random.default_rng(2).uniform(-4, 4, (6, n))
    total, states = drawn(n), product_state(theta)
    assert total.on_product(theta) == pytest.approx(total.expectation(states), abs=1e-12)
    assert product_moments(theta) == pytest.approx(moments(states), abs=1e-12)


def test_torch_gives_the_same_and_its_gradient_is_the_shift_rule():
    total, theta = drawn(4), np.random.default_rng(3).uniform(0, 3, (5, 4))
    tensor = torch.tensor(theta, requires_grad=True)
    energy = total.expectation(product_state(tensor))
    energy.sum().backward()
    turn = np.pi / 2 * np.eye(4)[:, None]
    shifted = (total.on_product(theta + turn) - total.on_product(theta - turn)) / 2
    gradient = tensor.grad.numpy().T
    assert gradient == pytest.approx(shifted, abs=1e-12)
    slope = total.slope_on_product(theta).T
    assert slope == pytest.approx(shifted, abs=1e-12)
    assert energy.detach().numpy() == pytest.approx(total.on_product(theta), abs=1e-12)
    assert total.on_product(tensor).detach().numpy() == pytest.approx(total.on_product(theta), abs=1e-12)


def test_the_bases_show_every_pair_of_operators():
    for n in range(1, 9):
        shown = [np.concatenate([~basis, basis]) for basis in bases(n)]
        assert all(any(each[a] and each[b] for each in shown) for a, b in zip(*pairs(n), strict=True))


def test_shots_are_unbiased_and_their_error_falls_with_the_root_of_their_number():
    total, states = drawn(3), product_state(np.random.default_rng(4).uniform(0, 3, (1, 3)))
    many = np.repeat(states, 4000, axis=0)
    exact = total.expectation(states)[0]
    spread = {}
    for shots in (16, 64, 256):
        errors = total.sample(many, shots, np.random.default_rng(shots)) - exact
        spread[shots] = errors.std()
        assert abs(errors.mean()) < 5 * errors.std() / np.sqrt(len(many))
    # The spread of 4,000 draws is known to about 1 %.
    assert spread[16] / spread[64] == pytest.approx(2, rel=0.08)
    assert spread[64] / spread[256] == pytest.approx(2, rel=0.08)


def test_a_product_that_one_basis_shows_needs_one_shot_where_the_outcome_is_certain():
    total = PauliSum(2, np.eye(size(2))[5])
    assert total.sample(np.eye(4)[[0, 2]], 1, np.random.default_rng(0)).tolist() == [1.0, -1.0]


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(ProblemError, match="coefficients must be 9 finite numbers for 2 qubits"):
        PauliSum(2, np.zeros(8))
    with pytest.raises(ProblemError, match=r"states must be \[B, 4\], got shape \(1, 8\)"):
        drawn(2).expectation(np.zeros((1, 8)))
    with pytest.raises(ProblemError, match="shots must be 4 or more, one for each basis, got 3"):
        drawn(2).sample(np.eye(4)[:1], 3, np.random.default_rng(0))
