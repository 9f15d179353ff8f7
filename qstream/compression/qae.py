"""The quantum autoencoder: an orthogonal transform found by a circuit of RY rotations and CNOT rings, next to PCA.

The circuit is trained to turn most of the rows' energy into the first amplitudes (Romero et al., Quantum Sci. Technol. 2017).
With rotations about Y alone it is real, so that it acts on rows as a matrix; a reader needs the matrix and no circuit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.learn.fit import one_thread
from qstream.quantum.variational.layer import circuit_unitary, cnot_rings
from schemas.wording import must_be

MAX_WIDTH: Final = 128
EXECUTION: Final = "simulated-statevector"
_LEAST_LAYERS: Final = 16
_RATE: Final = 0.1
# Seconds of one core to train a width with a quarter of it kept.
SECONDS: Final = {2: 1.0, 4: 1.5, 8: 2.0, 16: 3.0, 32: 7.0, 64: 20.0}


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
    with one_thread():
        return _trained(moment, kept, layers, steps, seed)


def _trained(moment: NDArray[np.float64], kept: int, layers: int | None, steps: int, seed: int) -> Trained:
    width = len(moment)
    qubits = int(math.log2(width))
    depth = layers or max(_LEAST_LAYERS, math.ceil(kept * (width - kept) / qubits))
    rings = cnot_rings(qubits, depth)
    generator = torch.Generator().manual_seed(seed)
    angles = (2 * math.pi * torch.rand(depth, qubits, generator=generator)).requires_grad_()
    spectrum = np.linalg.eigvalsh(moment)
    best = max(float(spectrum[: width - kept].sum()), 1e-12 * float(spectrum.sum()), 1e-300)
    energy = torch.from_numpy((moment / best).astype(np.float32))
    total = energy.trace()

    def unitary() -> torch.Tensor:
        still = torch.zeros_like(angles)
        return circuit_unitary(torch.stack([still, angles, still], -1), rings).real

    def lost() -> torch.Tensor:
        rows = unitary()[:kept]
        return total - ((rows @ energy) * rows).sum()

    control = lost().item()
    optimizer = torch.optim.Adam([angles], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    found, held = control, angles.detach().clone()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = lost()
        if loss.item() < found:
            found, held = loss.item(), angles.detach().clone()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        angles.copy_(held)
        matrix = unitary().double().numpy()
    return Trained(matrix, found, control, qubits, depth, depth * qubits)


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
