"""Kernel matrices of points by simulated states, the RBF matrix beside them, and how alike the two are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import named
from qstream.errors import ProblemError
from qstream.quantum.kernel import Fidelity, Kernel, Projected, Rbf, alignment, centred, pair
from qstream.quantum.variational.embedding import angle, iqp
from schemas.solver import CLASSICAL, Execution
from schemas.wording import Shown, must_be

Matrix = NDArray[np.float64]
MAX_AMPLITUDES: Final = 1 << 25  # of all states together, 512 MiB
MAX_ENTRIES: Final = 1 << 25  # of a matrix

# Of each kernel, that of points and the width of the RBF that it is near to for small distances: cos^2(d / 2) is about
# exp(-d^2 / 4), and one-qubit states of angle d apart are d^2 / 2 apart.
KERNELS: Final[Mapping[str, tuple[Kernel, float]]] = {
    "fidelity": (Fidelity(angle), 0.25),
    "fidelity-iqp": (Fidelity(iqp), 0.25),
    "projected": (Projected(angle), 0.5),
    "projected-iqp": (Projected(iqp), 0.5),
    "rbf": (Rbf(0.25), 0.25),
}


@dataclass(frozen=True, slots=True, eq=False)
class KernelMatrix:
    """Similarities of points, float64 [N, N] or [N, M], beside those of the classical twin.

    gram : of the kernel asked for
    rbf : ``exp(-gamma |x - y|^2)``
    alignment : cosine of the angle between the two, 1 where one is a multiple of the other
    centred_alignment : the same of points less their mean (Cortes et al., 2012); None with `y`, or where all points are alike
    kernel, gamma, qubits : the kernel's name, the width of the twin, and the qubits of the states, one a feature
    execution : how the states were had
    """

    gram: Matrix
    rbf: Matrix
    alignment: float
    centred_alignment: float | None
    kernel: str
    gamma: float
    qubits: int
    execution: Execution


def kernel_matrix(x: ArrayLike, y: ArrayLike | None = None, kernel: str = "fidelity") -> KernelMatrix:
    """Return the Gram matrix of points in a quantum kernel, next to that of its classical twin.

    All states are simulated. An alignment near 1 says that a model on the one learns what a model on the other does.

    Parameters
    ----------
    x : float [N, F]
        Points, finite; features are angles in radians, so scale them to about a unit deviation. At most 14 of them, and
        N x 2^F amplitudes must not exceed 33 million.
    y : float [M, F], optional
        Other points, for similarities of x with them.
    kernel
        ``fidelity``: overlaps of states with one rotation a feature; ``fidelity-iqp``: of states that entangle all pairs of
        features; ``projected``, ``projected-iqp``: of their qubits one by one; ``rbf``: the twin itself.

    Raises
    ------
    ConfigError
        There is no such kernel.
    ProblemError
        The points have another shape, are not finite, or are too many.
    """
    of_points, gamma = named("kernel", KERNELS, kernel)
    a, b = pair(x, y)
    rows, features = len(a) if b is None else max(len(a), len(b)), a.shape[1]
    if len(a) * (len(a) if b is None else len(b)) > MAX_ENTRIES:
        raise ProblemError(must_be("x and y", f"of at most {MAX_ENTRIES} pairs of points", Shown(f"{rows} points")))
    if kernel != "rbf" and rows * 2.0**features > MAX_AMPLITUDES:
        rule = f"of at most {MAX_AMPLITUDES} points times 2^features"
        raise ProblemError(must_be("x", rule, Shown(f"{rows} points of {features} features")))
    gram, rbf = of_points(a, b), Rbf(gamma)(a, b)
    inner = None if b is not None else (centred(gram), centred(rbf))
    return KernelMatrix(
        gram,
        rbf,
        alignment(gram, rbf),
        None if inner is None or not all(np.abs(each).max() > 1e-12 for each in inner) else alignment(*inner),
        kernel,
        gamma,
        0 if kernel == "rbf" else features,
        CLASSICAL if kernel == "rbf" else "simulated-statevector",
    )
