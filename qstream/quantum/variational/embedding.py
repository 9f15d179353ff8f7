"""Classical features as batches of quantum states: angle, amplitude and IQP; for numpy arrays and torch tensors alike.

Conventions are PennyLane's AngleEmbedding, AmplitudeEmbedding and IQPEmbedding (Havlicek et al., Nature 2019); qubit 0 is
the most significant bit. The dtype of the states is the complex one of the features' float32 or float64.
"""

from __future__ import annotations

import math
import sys
from functools import reduce
from typing import Final

import numpy as np

from qstream.errors import ProblemError
from qstream.quantum.ising import basis_spins
from qstream.quantum.variational.gates import MAX_QUBITS, Array, Axis, checked_qubits, group_matrices, namespace, rotate, rotation
from schemas.wording import Shown, must_be

_HADAMARD: Final = np.array([[1, 1], [1, -1]]) / math.sqrt(2)


def product_state(x: Array) -> Array:
    """Real states [B, 2^n] of features [B, n], ``cos(x_i / 2) |0> + sin(x_i / 2) |1>`` a qubit: angle embedding about Y."""
    _check_features(x)
    xp = namespace(x)
    pairs = xp.stack([xp.cos(x / 2), xp.sin(x / 2)], -1)
    return reduce(_outer, [pairs[:, qubit] for qubit in range(x.shape[1])])


def angle(x: Array, axis: Axis = "X", start: Array | None = None) -> Array:
    """States [B, 2^n] of features [B, n]: one rotation a qubit, a product state.

    `start` are states [B, 2^n] to act on, by default all qubits are in state 0.
    """
    _check_features(x)
    if axis not in ("X", "Y"):
        raise ProblemError(must_be("axis", "X or Y", axis))
    if start is not None:
        return rotate(start[:, None, :], group_matrices(rotation(x, axis)))[:, 0, :]
    states = product_state(x) * (1.0 + 0.0j)
    if axis == "Y":
        return states
    # RX|0> is RY|0> with a factor -i on state 1.
    phases = (-1j) ** (basis_spins(x.shape[1]) < 0).sum(1)
    return states * namespace(x).asarray(phases, dtype=states.dtype, device=x.device)


def amplitude(x: Array, n: int) -> Array:
    """States [B, 2^n] whose amplitudes are the features [B, F], F <= 2^n, normalised and filled up with 0.

    `ProblemError` on too many features or on a row of zeros.
    """
    _check_real(x)
    xp = namespace(x)
    size = 1 << checked_qubits(n)
    if x.ndim != 2 or not 1 <= x.shape[1] <= size:
        raise ProblemError(must_be("x", f"[samples, 1 to {size} features]", Shown(f"shape {tuple(x.shape)}")))
    norm = xp.sqrt((x * x).sum(-1))[:, None]
    if bool((norm == 0).any()):
        raise ProblemError(must_be("x", "of rows that can be normalised", Shown("a row of zeros")))
    padding = xp.zeros((x.shape[0], size - x.shape[1]), dtype=x.dtype, device=x.device)
    return xp.concat([x / norm, padding], -1) * (1.0 + 0.0j)


def iqp(x: Array, repeats: int = 1, start: Array | None = None) -> Array:
    """States [B, 2^n] of features [B, n]: Hadamards, ``RZ(x_i)`` and ``exp(-i x_i x_j ZZ / 2)`` on all pairs, `repeats` times.

    `start` are states [B, 2^n] to act on, by default all qubits are in state 0.
    """
    _check_features(x)
    if repeats < 1:
        raise ProblemError(must_be("repeats", "1 or more", repeats))
    xp = namespace(x)
    n = x.shape[1]
    spins = xp.asarray(basis_spins(n), dtype=x.dtype, device=x.device)
    field = x @ spins.T
    # sum_{i<j} x_i x_j z_i z_j = ((sum_i x_i z_i)^2 - sum_i x_i^2) / 2
    diagonal = xp.exp(-0.5j * (field + (field * field - (x * x).sum(-1)[:, None]) / 2))
    if start is None and repeats == 1:
        return diagonal / 2 ** (n / 2)
    hadamards = group_matrices(xp.asarray(np.broadcast_to(_HADAMARD, (n, 2, 2)).copy(), dtype=diagonal.dtype, device=x.device))
    states = diagonal / 2 ** (n / 2) if start is None else diagonal * rotate(start, hadamards)
    for _ in range(repeats - 1):
        states = diagonal * rotate(states, hadamards)
    return states


def _outer(left: Array, right: Array) -> Array:
    return (left[:, :, None] * right[:, None, :]).reshape(left.shape[0], left.shape[1] * right.shape[1])


def _check_real(x: Array) -> None:
    if isinstance(x, np.ndarray):
        real = x.dtype.kind in "iuf"
    else:
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(x, torch.Tensor):
            raise ProblemError(must_be("x", "a numpy array or torch tensor", Shown(f"type {type(x).__name__}")))
        real = not x.is_complex() and x.dtype != torch.bool
    if not real:
        raise ProblemError(must_be("x", "of real numbers", Shown(f"dtype {x.dtype}")))


def _check_features(x: Array) -> None:
    _check_real(x)
    if x.ndim != 2 or not 1 <= x.shape[1] <= MAX_QUBITS:
        raise ProblemError(must_be("x", f"[samples, 1 to {MAX_QUBITS} features]", Shown(f"shape {tuple(x.shape)}")))
