"""The quantum autoencoder: an orthogonal transform found by a circuit of RY rotations and CNOT rings, next to PCA.

The circuit is trained to turn most of the rows' energy into the first amplitudes (Romero et al., Quantum Sci. Technol. 2017).
With rotations about Y alone it is real, so that it acts on rows as a matrix; a reader needs the matrix and no circuit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.quantum.variational.orthogonal import lost_energy, orthogonal
from schemas.wording import must_be

MAX_WIDTH: Final = 128
EXECUTION: Final = "simulated-statevector"
_LEAST_LAYERS: Final = 16
_RATE: Final = 0.1
_MEAN: Final = 0.9
_SQUARE: Final = 0.999
WIDEST: Final = 64  # columns of one circuit: 768 angles take 2.5 s of one core, 128 columns with 3,073 would take a minute
_HARMLESS: Final = 0.01  # of the energy, that a wire may cost to be left out
_OF_TRIES: Final = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A trained circuit.

    Attributes
    ----------
    unitary : float64 [width, width]
        Rows times its transpose are the amplitudes at the circuit's end, the kept ones first.
    relative
        Energy that is lost with all but the kept amplitudes, by what PCA loses.
    control
        The same of random angles.
    """

    unitary: NDArray[np.float64]
    relative: float
    control: float
    qubits: int
    layers: int
    parameters: int


def train(moment: NDArray[np.float64], kept: int, *, layers: int | None = None, steps: int = 200, seed: int = 0) -> Trained:
    """Train a circuit on the second moment of rows: its size, not their number, is the cost of a step.

    Parameters
    ----------
    moment : float64 [width, width]
        Of rows without their mean; the width is a power of two up to 128.
    kept
        Amplitudes that shall hold the energy.
    layers
        Of rotations and CNOTs; else enough for the angles to reach any subspace of this size, 16 at least.

    Raises
    ------
    ProblemError
        The width is no power of two, or `kept` is not within it.
    """
    width = len(moment)
    if width < 2 or width > MAX_WIDTH or width & (width - 1):
        raise ProblemError(must_be("columns", f"a power of two up to {MAX_WIDTH}", width))
    if not 1 <= kept < width:
        raise ProblemError(must_be("kept", f"from 1 to {width - 1}", kept))
    qubits = int(math.log2(width))
    depth = layers or max(_LEAST_LAYERS, math.ceil(kept * (width - kept) / qubits))
    spectrum = np.linalg.eigvalsh(moment)
    best = max(float(spectrum[: width - kept].sum()), 1e-12 * float(spectrum.sum()), 1e-300)
    start = 2 * np.pi * np.random.default_rng(seed).random((depth, qubits))
    control = lost_energy(start, moment, kept)[0] / best
    found, angles = _descended(start, (moment / best).astype(np.float32), kept, steps)
    if steps:
        found = lost_energy(angles, moment, kept)[0] / best
    return Trained(orthogonal(angles), found, control, qubits, depth, depth * qubits)


def _descended(
    angles: NDArray[np.float64], energy: NDArray[np.float32], kept: int, steps: int
) -> tuple[float, NDArray[np.float64]]:
    """The best angles on the way of Adam (Kingma and Ba 2015) with a rate that falls as a cosine, and their loss."""
    found, best = math.inf, angles
    mean, square = np.zeros_like(angles), np.zeros_like(angles)
    for step in range(steps):
        loss, slope = lost_energy(angles, energy, kept)
        if loss < found:
            found, best = loss, angles
        mean += (1 - _MEAN) * (slope - mean)
        square += (1 - _SQUARE) * (slope.astype(np.float64) ** 2 - square)
        size = mean / (1 - _MEAN ** (step + 1))
        spread = np.sqrt(square / (1 - _SQUARE ** (step + 1))) + 1e-8
        angles = angles - _RATE * 0.5 * (1 + math.cos(math.pi * step / steps)) * size / spread
    return found, best


def diagonal_within(matrix: NDArray[np.float64], moment: NDArray[np.float64], kept: int) -> NDArray[np.float64]:
    """Columns of the basis: the kept and the other amplitudes, each turned among themselves until they are uncorrelated.

    That is linear algebra of two smaller matrices; the circuit has said what belongs to which.
    """
    exact = np.linalg.qr(matrix.T)[0].T
    parts = []
    for rows in (exact[:kept], exact[kept:]):
        _, vectors = np.linalg.eigh(rows @ moment @ rows.T)
        parts.append(rows.T @ vectors[:, ::-1])
    return np.asarray(np.concatenate(parts, axis=1))


def wires(influence: NDArray[np.float64], *, samples: int, seed: int) -> int:
    """Qubits that columns of this influence, largest first, need: Monte-Carlo dropout of wires.

    In each sample a random subset of the other wires is projected on 0. The highest wire is left out while that costs less than
    1 % of the energy in 9 of 10 samples.
    """
    rng = np.random.default_rng(seed)
    count = max(1, math.ceil(math.log2(len(influence))))
    energy = np.zeros(1 << count)
    energy[: len(influence)] = influence
    while count > 1:
        size = 1 << count
        lower = rng.random((samples, count - 1)) < 0.5
        numbers = np.arange(size // 2)
        bits = numbers[:, None] >> np.arange(count - 1)[None] & 1
        left = ~(lower[:, None, :] & bits[None].astype(bool)).any(axis=2)  # amplitudes that a sample lets through
        below, above = left @ energy[: size // 2], left @ energy[size // 2 : size]
        if np.mean(above < _HARMLESS * (below + above)) < _OF_TRIES:
            break
        count -= 1
    return count
