"""Kernels between embedded states: Gram matrices by one product of states, Nystrom features, and fits by scikit-learn.

A kernel is called with points [N, F] and, for a cross-Gram, other points [M, F], and returns float64 [N, N] or [N, M]; the
one-argument form is exactly symmetric. All states are simulated: a classical twin (`Rbf`, `AngleOverlap`, or a linear model
on `product_features`) belongs next to every result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import real_number
from qstream.errors import ProblemError
from qstream.quantum.ising import basis_spins
from qstream.quantum.variational.embedding import angle
from qstream.quantum.variational.gates import Array, namespace
from schemas.wording import Shown, must_be

Matrix = NDArray[np.float64]
States = NDArray[np.complex128]
Embed = Callable[[Matrix], States]

DENSE_POINTS: Final = 2000
MAX_PRODUCT_FEATURES: Final = 12
_CUTOFF: Final = 1e-12


class Kernel(Protocol):
    """A positive semidefinite similarity of points."""

    def __call__(self, x: ArrayLike, y: ArrayLike | None = None) -> Matrix:
        """The Gram matrix of x [N, F], or the cross-Gram [N, M] with y [M, F]."""
        ...


@dataclass(frozen=True)
class Fidelity:
    """``|<psi(x)|psi(y)>|^2`` of embedded states (Schuld & Killoran, PRL 2019).

    `embed` maps float64 [N, F] to states [N, 2^n]: a function of ``variational.embedding``, alone or with ``partial``.
    """

    embed: Embed = angle

    def __call__(self, x: ArrayLike, y: ArrayLike | None = None) -> Matrix:
        a, b = pair(x, y)
        states = self.embed(a)
        found: Matrix = gram(states) if b is None else cross_gram(states, self.embed(b))
        return found


@dataclass(frozen=True)
class Projected:
    """``exp(-gamma sum_q |rho_q(x) - rho_q(y)|^2)`` on one-qubit density matrices (Huang et al., Nat. Commun. 2021)."""

    embed: Embed = angle
    gamma: float = 1.0

    def __post_init__(self) -> None:
        Rbf(self.gamma)

    def __call__(self, x: ArrayLike, y: ArrayLike | None = None) -> Matrix:
        # The squared Frobenius distance of two qubits is half that of their Bloch vectors.
        rbf = Rbf(self.gamma / 2)
        a, b = pair(x, y)
        return rbf(bloch_vectors(self.embed(a)), None if b is None else bloch_vectors(self.embed(b)))


@dataclass(frozen=True)
class Rbf:
    """``exp(-gamma |x - y|^2)``: the classical twin of any kernel here."""

    gamma: float = 1.0

    def __post_init__(self) -> None:
        if not real_number("gamma", self.gamma) > 0:
            raise ProblemError(must_be("gamma", "a number above 0", self.gamma))

    def __call__(self, x: ArrayLike, y: ArrayLike | None = None) -> Matrix:
        a, other = pair(x, y)
        b = a if other is None else other
        squares = (a * a).sum(1)[:, np.newaxis] + (b * b).sum(1) - 2 * (a @ b.T)
        if y is None:
            np.fill_diagonal(squares, 0.0)
        result: Matrix = np.exp(-self.gamma * np.maximum(squares, 0.0))
        return result


@dataclass(frozen=True)
class AngleOverlap:
    """``prod_i cos^2((x_i - y_i) / 2)``: what `Fidelity` of angle embedding is, about X or Y, without any state."""

    def __call__(self, x: ArrayLike, y: ArrayLike | None = None) -> Matrix:
        a, other = pair(x, y)
        b = a if other is None else other
        cosines, sines = (np.cos(a), np.cos(b)), (np.sin(a), np.sin(b))
        result = np.ones((len(a), len(b)))
        for i in range(a.shape[1]):
            # 2 cos^2(d / 2) = 1 + cos d, and cos(x - y) needs no cosine a pair.
            result *= (1 + np.outer(cosines[0][:, i], cosines[1][:, i]) + np.outer(sines[0][:, i], sines[1][:, i])) / 2
        return result


@dataclass(frozen=True)
class Product:
    """The product of kernels, each on its own columns: a register for each group of features."""

    parts: tuple[tuple[tuple[int, ...], Kernel], ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ProblemError(must_be("parts", "at least one pair of columns and kernel", ()))

    def __call__(self, x: ArrayLike, y: ArrayLike | None = None) -> Matrix:
        a, b = pair(x, y)
        for columns, _ in self.parts:
            if wrong := [at for at in columns if not -a.shape[1] <= at < a.shape[1]]:
                raise ProblemError(
                    must_be("x", f"of more than {wrong[0]} features, as a part names that column", Shown(f"{a.shape[1]}"))
                )
        grams = (kernel(a[:, list(columns)], None if b is None else b[:, list(columns)]) for columns, kernel in self.parts)
        result: Matrix = reduce(np.multiply, grams)
        return result


@dataclass(frozen=True, eq=False)
class Nystrom:
    """Features [N, R] whose inner products approximate a kernel, exact at the landmarks [M, F] (Williams & Seeger, 2001)."""

    kernel: Kernel
    landmarks: Matrix
    whitening: Matrix

    def __call__(self, x: ArrayLike) -> Matrix:
        """Features [N, R], R <= M, of points [N, F]."""
        return self.kernel(x, self.landmarks) @ self.whitening


@dataclass(frozen=True, eq=False)
class FittedModel:
    """A scikit-learn estimator on kernel columns or Nystrom features; `approximate` says which."""

    estimator: Any
    features: Callable[[ArrayLike], Matrix]
    approximate: bool

    def predict(self, x: ArrayLike) -> NDArray[Any]:
        """Targets or labels [N] of points [N, F]."""
        predicted: NDArray[Any] = self.estimator.predict(self.features(x))
        return predicted


def points(x: ArrayLike, name: str = "x") -> Matrix:
    """Points [N, F] as float64; `ProblemError` unless a finite real matrix with at least a row and a column."""
    try:
        given = np.asarray(x)
        if given.dtype.kind not in "biufO":
            raise TypeError(f"dtype {given.dtype}")
        array = given.astype(np.float64, copy=False)
    except (TypeError, ValueError) as exc:
        raise ProblemError(must_be(name, "a matrix of real numbers", Shown(exc))) from exc
    if array.ndim != 2 or not array.size:
        raise ProblemError(must_be(name, "[points, features], none of them 0", Shown(f"shape {array.shape}")))
    if not np.isfinite(array).all():
        raise ProblemError(must_be(name, "of finite numbers", Shown("one that is not")))
    return array


def pair(x: ArrayLike, y: ArrayLike | None) -> tuple[Matrix, Matrix | None]:
    """Both arguments of a kernel as `points`; `ProblemError` unless they have as many features."""
    a, b = points(x), None if y is None else points(y, "y")
    if b is not None and b.shape[1] != a.shape[1]:
        raise ProblemError(must_be("x and y", "of as many features each", Shown(f"{a.shape[1]} and {b.shape[1]}")))
    return a, b


def gram(states: Array) -> Array:
    """Fidelities [N, N] of all pairs of states [N, 2^n], exactly symmetric; of torch tensors a tensor, with its gradient."""
    xp = namespace(states)
    if not _complex(states):
        overlap = states @ states.T
        return overlap * overlap
    both = xp.concat([states.real, states.imag], 1)
    twist = states.imag @ states.real.T
    overlap, twist = both @ both.T, twist - twist.T
    return overlap * overlap + twist * twist


def cross_gram(left: Array, right: Array) -> Array:
    """Fidelities [N, M] of states [N, 2^n] with states [M, 2^n]; of torch tensors a tensor."""
    overlap = left @ right.conj().T
    return overlap.real**2 + overlap.imag**2 if _complex(overlap) else overlap * overlap


def _complex(states: Array) -> bool:
    return states.dtype in (namespace(states).complex64, namespace(states).complex128)


def bloch_vectors(states: States) -> Matrix:
    """Expectations of X, Y and Z of each qubit, [N, 3 n], of states [N, 2^n]."""
    n = states.shape[1].bit_length() - 1
    vectors = np.empty((len(states), n, 3))
    vectors[:, :, 2] = (states.real**2 + states.imag**2) @ basis_spins(n)
    for qubit in range(n):
        split = states.reshape(len(states), 1 << qubit, 2, -1)
        zero, one = split[:, :, 0], split[:, :, 1]
        coherence = 2 * np.einsum("nab,nab->n", zero.conj(), one)
        vectors[:, qubit, 0], vectors[:, qubit, 1] = coherence.real, coherence.imag
    return vectors.reshape(len(states), -1)


def product_features(x: ArrayLike) -> Matrix:
    """Features [N, 3^F] whose inner product is the fidelity of angle embedding: products of ``(1, cos x_i, sin x_i) / sqrt 2``.

    An angle-embedded kernel machine is therefore a linear model on these. `ProblemError` above 12 columns.
    """
    array = points(x)
    if array.shape[1] > MAX_PRODUCT_FEATURES:
        raise ProblemError(
            must_be("x", f"of at most {MAX_PRODUCT_FEATURES} features, for 3^F products", Shown(f"{array.shape[1]} features"))
        )
    factors = np.stack([np.ones_like(array), np.cos(array), np.sin(array)], axis=-1) / np.sqrt(2)
    features = factors[:, 0]
    for column in range(1, array.shape[1]):
        features = (features[:, :, np.newaxis] * factors[:, column, np.newaxis, :]).reshape(len(array), -1)
    result: Matrix = features
    return result


def alignment(first: Matrix, second: Matrix) -> float:
    """Cosine of the angle between two Gram matrices; with ``np.outer(labels, labels)`` the kernel-target alignment."""
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    if norms == 0:
        raise ProblemError(must_be("a Gram matrix", "other than zero", Shown("zeros")))
    return float(np.sum(first * second) / norms)


def centred(matrix: Matrix) -> Matrix:
    """The Gram matrix of the points less their mean; its alignment is that of Cortes et al. (JMLR 2012)."""
    rows = matrix.mean(0)
    result: Matrix = matrix - rows - rows[:, np.newaxis] + rows.mean()
    return result


def nystrom(kernel: Kernel, x: ArrayLike, landmarks: int, rng: np.random.Generator) -> Nystrom:
    """Nystrom features from `landmarks` of the points [N, F], drawn without replacement.

    `ProblemError` unless 1 to N landmarks are asked for.
    """
    array = points(x)
    if not 1 <= landmarks <= len(array):
        raise ProblemError(must_be("landmarks", f"1 to {len(array)}", landmarks))
    chosen = array[np.sort(rng.choice(len(array), landmarks, replace=False))]
    values, vectors = np.linalg.eigh(kernel(chosen))
    kept = values > _CUTOFF * values[-1]
    return Nystrom(kernel, chosen, vectors[:, kept] / np.sqrt(values[kept]))


def fit_ridge(
    kernel: Kernel, x: ArrayLike, y: ArrayLike, *, alpha: float, rng: np.random.Generator, landmarks: int = 256
) -> FittedModel:
    """Kernel ridge regression of targets [N] on points [N, F]; above 2,000 points a ridge on Nystrom features."""
    from sklearn.kernel_ridge import KernelRidge  # noqa: PLC0415 - slow to import
    from sklearn.linear_model import Ridge  # noqa: PLC0415 - as above

    exact, approximate = KernelRidge(alpha=alpha, kernel="precomputed"), Ridge(alpha=alpha, fit_intercept=False)
    return _fit(kernel, x, y, exact, approximate, landmarks, rng)


def fit_svm(
    kernel: Kernel, x: ArrayLike, labels: ArrayLike, *, c: float, rng: np.random.Generator, landmarks: int = 256
) -> FittedModel:
    """Support vector classifier of labels [N] on points [N, F]; above 2,000 points a linear one on Nystrom features."""
    from sklearn.svm import SVC, LinearSVC  # noqa: PLC0415 - slow to import

    # The seed only orders the coordinate descent of the linear solver.
    linear = LinearSVC(C=c, loss="hinge", random_state=int(rng.integers(2**31)), max_iter=10_000)
    return _fit(kernel, x, labels, SVC(C=c, kernel="precomputed"), linear, landmarks, rng)


def _fit(
    kernel: Kernel, x: ArrayLike, y: ArrayLike, exact: Any, approximate: Any, landmarks: int, rng: np.random.Generator
) -> FittedModel:
    array, targets = points(x), np.asarray(y)
    if targets.shape != (len(array),):
        raise ProblemError(must_be("y", f"one number for each of the {len(array)} points", Shown(f"shape {targets.shape}")))
    if len(array) <= DENSE_POINTS:
        return FittedModel(exact.fit(kernel(array), targets), _Columns(kernel, array), approximate=False)
    features = nystrom(kernel, array, landmarks, rng)
    return FittedModel(approximate.fit(features(array), targets), features, approximate=True)


@dataclass(frozen=True, eq=False)
class _Columns:
    """The kernel of points with those fitted on; a class so that a fitted model can be pickled."""

    kernel: Kernel
    fitted: Matrix

    def __call__(self, x: ArrayLike) -> Matrix:
        return self.kernel(x, self.fitted)
