"""Gates on every qubit of a register at once, for numpy arrays and torch tensors alike.

A batch of states is ``[..., S, 2^n]``; leading axes match those of the gates, so that one call also serves a gate a sample.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from schemas.wording import must_be

Array = Any  # a numpy array or a torch tensor; each function returns the kind it was given
Axis = Literal["X", "Y"]
MAX_QUBITS: Final = 14
_GROUP: Final = 4


def namespace(array: Array) -> ModuleType:
    """The module, numpy or torch, that computes with this array."""
    # A tensor at hand proves that torch is loaded, and who has none need not install it.
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def checked_qubits(n: int) -> int:
    """`n` itself; `ProblemError` unless a dense state of n qubits is affordable."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= MAX_QUBITS:
        raise ProblemError(must_be("n", f"1 to {MAX_QUBITS} qubits", n))
    return int(n)


def rot(weights: Array) -> Array:
    """Gates ``RZ(omega) RY(theta) RZ(phi)`` [..., 2, 2] of angles (phi, theta, omega) [..., 3]."""
    xp = namespace(weights)
    phi, theta, omega = weights[..., 0], weights[..., 1], weights[..., 2]
    c, s = xp.cos(theta / 2), xp.sin(theta / 2)
    plus, minus = xp.exp(-0.5j * (phi + omega)), xp.exp(-0.5j * (phi - omega))
    return _matrix(plus * c, -minus.conj() * s, minus * s, plus.conj() * c)


def rotation(x: Array, axis: Axis) -> Array:
    """Gates ``exp(-i x axis / 2)`` [..., 2, 2] of angles [...]."""
    xp, one = namespace(x), 1.0 + 0.0j
    c, s = xp.cos(x / 2) * one, xp.sin(x / 2) * one
    return _matrix(c, -1j * s, -1j * s, c) if axis == "X" else _matrix(c, -s, s, c)


def _matrix(a: Array, b: Array, c: Array, d: Array) -> Array:
    return namespace(a).stack([a, b, c, d], -1).reshape(*a.shape, 2, 2)


def group_matrices(gates: Array) -> tuple[Array, ...]:
    """The gates [..., n, 2, 2] of neighbouring qubits as Kronecker products [..., 2^g, 2^g], g <= 4, first qubits first."""
    n = gates.shape[-3]
    bounds = np.linspace(0, n, -(-n // _GROUP) + 1).round().astype(int).tolist()
    matrices = []
    for first, last in itertools.pairwise(bounds):
        product = gates[..., first, :, :]
        for qubit in range(first + 1, last):
            size = 2 * product.shape[-1]
            gate = gates[..., qubit, :, :]
            outer = product[..., :, None, :, None] * gate[..., None, :, None, :]
            product = outer.reshape(*outer.shape[:-4], size, size)
        matrices.append(product)
    return tuple(matrices)


def rotate(states: Array, matrices: Sequence[Array]) -> Array:
    """Apply the group matrices [..., 2^g, 2^g] of a whole register to states [..., S, 2^n], one GEMM a group."""
    shape = states.shape
    for matrix in reversed(matrices):
        size = matrix.shape[-1]
        turned = states.reshape(*shape[:-2], shape[-2] * shape[-1] // size, size) @ matrix.swapaxes(-1, -2)
        if size == shape[-1]:
            return turned
        # The group just done moves to the front; after the last group all are in their order again.
        states = turned.reshape(*shape[:-1], shape[-1] // size, size).swapaxes(-1, -2)
    return states.reshape(shape)


@cache
def ring(n: int, reach: int) -> NDArray[np.int64]:
    """CNOTs from each qubit i to qubit ``(i + reach) mod n``, in order, as an index: new state = state[..., ring]."""
    states = np.arange(1 << n, dtype=np.int64)
    index = states
    for control in range(n):
        target = (control + reach) % n
        index = index[states ^ ((states >> (n - 1 - control) & 1) << (n - 1 - target))]
    index.flags.writeable = False
    return index


def default_ranges(n: int, layers: int) -> tuple[int, ...]:
    """How far the CNOTs of each layer reach: 1, 2, ... n - 1, 1, ... as in PennyLane's StronglyEntanglingLayers."""
    return tuple(layer % (n - 1) + 1 if n > 1 else 0 for layer in range(layers))
