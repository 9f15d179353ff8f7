"""Kernels equal PennyLane's and their closed forms, are positive semidefinite, and fit as scikit-learn and algebra say."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pennylane as qml
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import SVC

from qstream.errors import ProblemError
from qstream.quantum.kernel import (
    AngleOverlap,
    Fidelity,
    Kernel,
    Product,
    Projected,
    Rbf,
    alignment,
    bloch_vectors,
    centred,
    cross_gram,
    fit_ridge,
    fit_svm,
    gram,
    nystrom,
    product_features,
)
from qstream.quantum.variational.embedding import amplitude, angle, iqp, product_state

amplitude_2 = partial(amplitude, n=2)
KERNELS: tuple[Kernel, ...] = (
    Fidelity(angle),
    Fidelity(iqp),
    Fidelity(partial(iqp, repeats=2)),
    Fidelity(amplitude_2),
    Projected(angle),
    Projected(iqp, gamma=0.5),
    Rbf(0.7),
    AngleOverlap(),
    Product((((0, 2), Fidelity(iqp)), ((1,), Rbf()))),
)
POINTS = arrays(np.float64, st.tuples(st.integers(1, 8), st.just(3)), elements=st.floats(0.125, 7))


def points(count: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 3, (count, columns))


@pytest.mark.parametrize(
    ("embed", "template"),
    [
        (angle, lambda x: qml.AngleEmbedding(x, wires=range(3))),
        (partial(angle, axis="Y"), lambda x: qml.AngleEmbedding(x, wires=range(3), rotation="Y")),
        (iqp, lambda x: qml.IQPEmbedding(x, wires=range(3))),
        (partial(amplitude, n=3), lambda x: qml.AmplitudeEmbedding(x, wires=range(3), normalize=True, pad_with=0.0)),
    ],
)
def test_fidelities_are_those_of_pennylane(embed, template):
    @qml.qnode(qml.device("default.qubit", wires=3))
    def overlap(a: np.ndarray, b: np.ndarray) -> object:
        template(a)
        qml.adjoint(template)(b)
        return qml.probs(wires=range(3))

    x, y = points(4, 3), points(3, 3, seed=1)
    pair = lambda a, b: overlap(a, b)[0]  # noqa: E731
    kernel = Fidelity(embed)
    expected = qml.kernels.square_kernel_matrix(x, pair, assume_normalized_kernel=False)
    np.testing.assert_allclose(kernel(x), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(kernel(x, y), qml.kernels.kernel_matrix(x, y, pair), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
@given(x=POINTS)
@settings(max_examples=25)
def test_a_gram_matrix_is_symmetric_positive_semidefinite_with_unit_diagonal(kernel, x):
    matrix = kernel(x)
    assert np.array_equal(matrix, matrix.T)
    np.testing.assert_allclose(np.diag(matrix), 1, rtol=0, atol=1e-12)
    assert np.linalg.eigvalsh(matrix)[0] > -1e-10 * len(x)
    assert matrix.min() >= 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_cross_gram_is_a_block_of_the_gram_of_all(kernel):
    x = points(12, 3)
    np.testing.assert_allclose(kernel(x[:7], x[7:]), kernel(x)[:7, 7:], rtol=0, atol=1e-12)


def test_the_fidelity_of_angles_is_a_product_of_cosines_and_a_linear_kernel_of_products():
    x, y = points(6, 4), points(5, 4, seed=1)
    expected = np.array([[np.prod(np.cos((a - b) / 2) ** 2) for b in y] for a in x])
    assert product_features(x).shape == (6, 81)
    for found in (Fidelity(angle)(x, y), AngleOverlap()(x, y), product_features(x) @ product_features(y).T):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_the_fidelity_of_amplitudes_is_a_squared_cosine_similarity():
    x = points(6, 4)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(Fidelity(amplitude_2)(x), (unit @ unit.T) ** 2, rtol=0, atol=1e-13)


def test_bloch_vectors_are_expectations_by_pennylane():
    x = points(2, 3)

    @qml.qnode(qml.device("default.qubit", wires=3))
    def circuit(row: np.ndarray) -> object:
        qml.IQPEmbedding(row, wires=range(3))
        return [qml.expval(pauli(i)) for i in range(3) for pauli in (qml.PauliX, qml.PauliY, qml.PauliZ)]

    np.testing.assert_allclose(bloch_vectors(iqp(x)), [circuit(row) for row in x], rtol=0, atol=1e-12)


def test_the_projected_kernel_is_a_gaussian_of_one_qubit_density_matrices():
    x = points(4, 3)
    reduced = np.stack([[qml.math.reduce_statevector(state[None], [i])[0] for i in range(3)] for state in iqp(x)])
    distance = np.array([[np.sum(np.abs(a - b) ** 2) for b in reduced] for a in reduced])
    np.testing.assert_allclose(Projected(iqp, gamma=0.8)(x), np.exp(-0.8 * distance), rtol=0, atol=1e-12)


def test_the_classical_twin_is_scikit_learn_s():
    x, y = points(6, 3), points(4, 3, seed=1)
    np.testing.assert_allclose(Rbf(0.7)(x, y), rbf_kernel(x, y, gamma=0.7), rtol=0, atol=1e-13)


def test_a_product_over_registers_is_the_fidelity_of_both_together():
    x, y = points(5, 4), points(3, 4, seed=1)
    halves = Product((((0, 1), Fidelity(angle)), ((2, 3), Fidelity(angle))))
    np.testing.assert_allclose(halves(x), Fidelity(angle)(x), rtol=0, atol=1e-13)
    np.testing.assert_allclose(halves(x, y), Fidelity(angle)(x, y), rtol=0, atol=1e-13)


def test_alignment_is_pennylane_s():
    x = points(8, 2)
    labels = np.array([1, -1, 1, 1, -1, 1, -1, 1])
    kernel = Fidelity(angle)
    expected = qml.kernels.target_alignment(x, labels, lambda a, b: kernel([a], [b])[0, 0], rescale_class_labels=False)
    assert alignment(kernel(x), np.outer(labels, labels)) == pytest.approx(float(expected), abs=1e-12)


def test_centring_takes_the_mean_of_the_features_away():
    x = points(7, 3)
    features = product_features(x) - product_features(x).mean(0)
    np.testing.assert_allclose(centred(AngleOverlap()(x)), features @ features.T, rtol=0, atol=1e-13)


def test_nystrom_features_are_exact_at_the_landmarks_and_bounded_by_the_kernel_elsewhere():
    x, rng = points(60, 3), np.random.default_rng(0)
    kernel = Fidelity(iqp)
    features = nystrom(kernel, x, 20, rng)
    at_landmarks = features(features.landmarks)
    np.testing.assert_allclose(at_landmarks @ at_landmarks.T, kernel(features.landmarks), rtol=0, atol=1e-8)
    # What is left is a Schur complement, positive semidefinite.
    assert np.linalg.eigvalsh(kernel(x) - features(x) @ features(x).T)[0] > -1e-8


def test_nystrom_features_of_a_kernel_of_low_rank_are_exact_everywhere():
    # Two angles give a kernel of rank 3^2 at most.
    x = points(200, 2)
    features = nystrom(Fidelity(angle), x, 30, np.random.default_rng(0))(x)
    assert features.shape[1] <= 9
    np.testing.assert_allclose(features @ features.T, Fidelity(angle)(x), rtol=0, atol=1e-9)


def test_ridge_solves_the_normal_equations():
    x, unseen, rng = points(40, 3), points(6, 3, seed=1), np.random.default_rng(0)
    y = np.sin(x).sum(1)
    kernel = Fidelity(iqp)
    model = fit_ridge(kernel, x, y, alpha=0.1, rng=rng)
    expected = kernel(unseen, x) @ np.linalg.solve(kernel(x) + 0.1 * np.eye(40), y)
    assert not model.approximate
    np.testing.assert_allclose(model.predict(unseen), expected, rtol=0, atol=1e-10)


def test_above_two_thousand_points_ridge_takes_nystrom_features():
    x, unseen = points(2001, 2), points(6, 2, seed=1)
    y = np.cos(x[:, 0]) * np.sin(x[:, 1])
    model = fit_ridge(Fidelity(angle), x, y, alpha=0.1, rng=np.random.default_rng(0), landmarks=40)
    linear = Ridge(alpha=0.1, fit_intercept=False).fit(product_features(x), y)
    assert model.approximate
    np.testing.assert_allclose(model.predict(unseen), linear.predict(product_features(unseen)), rtol=0, atol=1e-6)


def test_a_support_vector_classifier_is_the_linear_one_on_product_features():
    x, unseen = points(60, 3), points(50, 3, seed=1)
    labels = np.where(np.cos(x).sum(1) > 0, "hot", "cold")
    model = fit_svm(Fidelity(angle), x, labels, c=10, rng=np.random.default_rng(0))
    linear = SVC(C=10, kernel="linear").fit(product_features(x), labels)
    assert set(model.predict(unseen)) == {"hot", "cold"}
    assert np.array_equal(model.predict(unseen), linear.predict(product_features(unseen)))


def test_above_two_thousand_points_the_classifier_takes_nystrom_features():
    x, unseen = points(2001, 2), points(200, 2, seed=1)

    def truth(at: np.ndarray) -> np.ndarray:
        return np.cos(at[:, 0]) * np.cos(at[:, 1]) > 0

    model = fit_svm(Fidelity(angle), x, truth(x), c=10, rng=np.random.default_rng(0), landmarks=40)
    assert model.approximate
    assert np.mean(model.predict(unseen) == truth(unseen)) > 0.95


def test_a_fitted_model_survives_pickling():
    x, y = points(20, 3), np.arange(20.0)
    model = fit_ridge(Product((((0, 1), Fidelity(iqp)), ((2,), Rbf()))), x, y, alpha=0.1, rng=np.random.default_rng(0))
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(x), model.predict(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: Fidelity()(np.ones(3)), r"x must be .*got shape \(3,\)"),
        (lambda rng: Fidelity()(np.ones((0, 3))), r"x must be .*got shape \(0, 3\)"),
        (lambda rng: Rbf()([[np.nan]]), "x must be of finite numbers"),
        (lambda rng: Rbf(0.0), "gamma must be .*got 0.0"),
        (lambda rng: Product(()), "parts must be at least one"),
        (lambda rng: product_features(np.ones((1, 13))), "got 13 features"),
        (lambda rng: nystrom(Rbf(), np.ones((3, 1)), 4, rng), "landmarks must be 1 to 3, got 4"),
        (lambda rng: alignment(np.zeros((2, 2)), np.eye(2)), "must be other than zero"),
        (lambda rng: fit_ridge(Rbf(), np.ones((3, 1)), [1.0], alpha=1, rng=rng), r"y must be .*got shape \(1,\)"),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises(ProblemError, match=message):
        call(np.random.default_rng(0))


@pytest.mark.parametrize("kernel", [Fidelity(), Projected(), Rbf(), AngleOverlap(), Product((((0,), Rbf()),))])
def test_a_kernel_names_points_that_it_cannot_compare(kernel: Kernel) -> None:
    x = np.zeros((3, 2))
    with pytest.raises(ProblemError, match="x and y must be of as many features each, got 2 and 3"):
        kernel(x, np.zeros((3, 3)))
    for wrong in ([["a", "b"]], [[1j, 0]], [[1], [1, 2]], [[np.nan, 0]], None):
        with pytest.raises(ProblemError, match=r"^x "):
            kernel(wrong)
        with pytest.raises(ProblemError, match=r"^y "):
            kernel(x, "a" if wrong is None else wrong)


@pytest.mark.parametrize("gamma", [-1, 0, np.nan, "1", None])
def test_a_wrong_gamma_is_told_at_once(gamma: object) -> None:
    for kind in (Rbf, lambda gamma: Projected(gamma=gamma)):
        with pytest.raises(ProblemError, match=r"^gamma "):
            kind(gamma)


def test_a_product_names_a_column_that_is_none() -> None:
    with pytest.raises(ProblemError, match="more than 5 features"):
        Product((((5,), Rbf()),))(np.zeros((3, 2)))


@pytest.mark.parametrize("embed", [angle, iqp, product_state])
def test_gram_matrices_of_torch_tensors_are_those_of_numpy_and_have_their_gradient(embed):
    x = points(4, 2)
    tensor = torch.tensor(x, requires_grad=True)
    states = embed(tensor)
    assert gram(states).detach().numpy() == pytest.approx(gram(embed(x)), abs=1e-12)
    assert cross_gram(states[:2], states).detach().numpy() == pytest.approx(gram(embed(x))[:2], abs=1e-12)
    gram(states)[0, 1].backward()
    step = 1e-6 * np.eye(8).reshape(8, 4, 2)
    rises = [(gram(embed(x + e))[0, 1] - gram(embed(x - e))[0, 1]) / 2e-6 for e in step]
    assert tensor.grad.numpy().ravel() == pytest.approx(rises, abs=1e-8)
