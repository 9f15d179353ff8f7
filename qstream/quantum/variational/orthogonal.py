"""Circuits of RY rotations and CNOT rings: real, so that their matrix and its gradient need neither complex numbers nor torch.

Layers and rings are those of `VariationalLayer` with the weights (0, angle, 0), but of three qubits, whose rings stay open:
closed ones reach only a part of the rotations of eight amplitudes, however many layers there are (measured: two directions
among eight are missed at any depth).
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from qstream.quantum.variational.gates import checked_qubits, default_ranges, ring
from schemas.wording import Shown, must_be

Floats = NDArray[Any]  # float32 or float64
_OPEN: Final = 3


def orthogonal(angles: ArrayLike) -> NDArray[np.float64]:
    """The matrix [2^n, 2^n] of a circuit with angles [layers, n]; states go through as ``states @ matrix.T``."""
    given = _checked(angles, np.float64)
    return np.asarray(_rows(_layers(given), 1 << given.shape[1])[0])


def lost_energy(angles: ArrayLike, moment: Floats, kept: int) -> tuple[float, Floats]:
    """Energy outside the first `kept` amplitudes, and its gradient by the angles.

    The adjoint method: one sweep through the layers forth and one back, whatever the number of angles.

    Parameters
    ----------
    angles : float [layers, n]
    moment : float [2^n, 2^n]
        Second moment C of the states. The energy is ``tr C - tr(P U C U')``, computed in the type of C.

    Returns
    -------
    energy, gradient : float, float [layers, n]
    """
    given = _checked(angles, moment.dtype)
    size = 1 << given.shape[1]
    if moment.shape != (size, size) or not 1 <= kept <= size:
        allowed = f"[{size}, {size}] with 1 to {size} kept"
        raise ProblemError(must_be("moment", allowed, Shown(f"{moment.shape} with {kept} kept")))
    layers = _layers(given)
    rows = _rows(layers, kept)
    seen = rows[0] @ moment
    energy = float(np.trace(moment) - np.vdot(rows[0], seen))
    slopes = np.empty_like(rows[:-1])
    slope = -2 * seen
    for layer, step in enumerate(layers):
        slopes[layer] = slope
        slope = slope @ step.T
    # d K / d angle = K A with A = [[0, -1], [1, 0]] / 2 of one qubit, so that each angle sees tr(slope' rows A).
    product = slopes.swapaxes(1, 2) @ rows[:-1]
    flips = np.stack([np.arange(size) ^ bit for bit in _bits(given.shape[1])])
    signs = np.stack([np.where(np.arange(size) & bit, 0.5, -0.5) for bit in _bits(given.shape[1])]).astype(moment.dtype)
    return energy, np.asarray((product[:, flips, np.arange(size)] * signs).sum(axis=2))


def _checked(angles: ArrayLike, dtype: Any) -> Floats:
    given = np.asarray(angles, dtype)
    if given.ndim != 2 or not len(given):
        raise ProblemError(must_be("angles", "[layers, qubits]", Shown(f"shape {given.shape}")))
    checked_qubits(given.shape[1])
    return given


def _bits(n: int) -> list[int]:
    """The bit of each qubit in a state's number, the first qubit's the highest."""
    return [1 << n - 1 - qubit for qubit in range(n)]


def _layers(angles: Floats) -> Floats:
    """Each layer as a matrix: rotations [layers, 2^n, 2^n], then the ring of CNOTs."""
    count, n = angles.shape
    c, s = np.cos(angles / 2), np.sin(angles / 2)
    gates = np.stack([c, -s, s, c], axis=-1).reshape(count, n, 2, 2)
    product = gates[:, 0]
    for qubit in range(1, n):
        size = 2 * product.shape[-1]
        product = (product[:, :, None, :, None] * gates[:, qubit, None, :, None, :]).reshape(count, size, size)
    if n > 1:
        for layer, reach in enumerate(default_ranges(n, count)):
            product[layer] = product[layer][_entangled(n, reach)]
    return np.asarray(product)


@cache
def _entangled(n: int, reach: int) -> NDArray[np.int64]:
    """The CNOTs of a layer as an index."""
    index = ring(n, reach)
    if n != _OPEN:
        return index
    states = np.arange(1 << n)
    # Once more the last CNOT, from qubit n - 1 to reach - 1, which undoes it.
    return np.asarray(index[states ^ (states & 1) * (1 << n - reach)])


def _rows(layers: Floats, kept: int) -> Floats:
    """The first rows of the product of the layers from the l-th on: [layers + 1, kept, 2^n]; those of the circuit at 0."""
    count, size, _ = layers.shape
    rows = np.empty((count + 1, kept, size), layers.dtype)
    rows[count] = np.eye(kept, size)
    # Row l holds E L_D ... L_(l+1): the last layer of the circuit is the first factor.
    for layer in range(count - 1, -1, -1):
        np.matmul(rows[layer + 1], layers[layer], out=rows[layer])
    return rows
