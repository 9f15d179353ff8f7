"""Checks by simulated circuits: what a reader computes classically, done by a circuit on a sample, and how far apart they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

from qstream.compression.header import Reason
from qstream.compression.prune import System
from qstream.compression.refine import curve
from qstream.errors import ProblemError
from qstream.quantum.spectral.answer import SpectralRecord
from qstream.quantum.spectral.hhl import solve
from qstream.quantum.spectral.qft import inverse_qft
from qstream.quantum.spectral.qsvt import truncate

SIDE: Final = 64  # rows and columns of the sample
DEGREE: Final = 80  # of the polynomial: its step is as steep as the refiner's


NO_DETAIL: Final[Mapping[str, float | str]] = MappingProxyType({})


class Check(NamedTuple):
    """A circuit's answer by its distance from the classical one, relative; that of the circuit's twin; how it ran; its record."""

    difference: float
    twin_difference: float
    execution: str
    detail: Mapping[str, float | str] = NO_DETAIL


def spectral_by_qsvt(matrix: NDArray[Any], threshold: float, degree: int = DEGREE) -> Check | None:
    """The spectral refiner by a singular value transformation, on at most 64 x 64 of a matrix; its twin cuts hard, by SVD.

    None where the threshold is not below the largest singular value, which no polynomial on [-1, 1] can step at.
    """
    block = matrix[:SIDE, :SIDE].astype(np.float64)
    if not 0 < threshold < 1 or not np.any(block):
        return None
    left, singular, right = np.linalg.svd(block, full_matrices=False)
    classical = (left * (singular * curve(singular, threshold))) @ right
    answer = truncate(block, threshold=threshold, degree=degree)
    size = float(np.linalg.norm(block))
    by_circuit, by_twin = (float(np.linalg.norm(found - classical)) / size for found in (answer.solution, answer.twin))
    return Check(by_circuit, by_twin, answer.record.execution, _detail(answer.record))


def cosines_by_qft(row: NDArray[Any]) -> Check | None:
    """The cosine transform of a row by the quantum Fourier transform of the row and its mirror image; its twin is scipy's.

    None for a width that is no power of two.
    """
    x = row.astype(np.float64)
    width = len(x)
    if width < 2 or width & (width - 1) or not np.any(x):
        return None
    mirrored = np.concatenate([x, x[::-1]])
    amplitudes = inverse_qft(mirrored / np.linalg.norm(mirrored)) * np.linalg.norm(mirrored) * np.sqrt(2 * width)
    k = np.arange(width)
    found = np.real(np.exp(-1j * np.pi * k / (2 * width)) * amplitudes[:width])
    return Check(
        float(np.linalg.norm(found - dct(x)) / np.linalg.norm(dct(x))),
        0.0,
        "simulated-statevector",
        {"label": "simulated", "n": width.bit_length()},
    )


def weights_by_hhl(systems: Sequence[System], clock: int, max_condition: float) -> Check | Reason:
    """One column of the weights that predict pruned channels, by HHL, next to Cholesky; or why there is none.

    The answer of the decoder is Cholesky's: the circuit is a check.
    """
    if not systems:
        return "not_needed"
    system = systems[0]
    if np.linalg.cond(system.kept) > max_condition:
        return "ill_conditioned"
    by_size = int(np.argmax(np.linalg.norm(system.cross, axis=0)))
    if not np.any(system.cross[:, by_size]):
        return "not_needed"
    try:
        answer = solve(system.kept, system.cross[:, by_size], clock=clock)
    except ProblemError:  # of a sound system: the clock cannot tell its eigenvalues apart
        return "clock_too_small"
    classical = system.weights()[:, by_size]
    size = float(np.linalg.norm(classical))
    by_circuit, by_twin = (float(np.linalg.norm(found - classical)) / size for found in (answer.solution, answer.twin))
    return Check(by_circuit, by_twin, answer.record.execution, _detail(answer.record))


def _detail(record: SpectralRecord) -> dict[str, float | str]:
    """What the record says, with times; shots are none, since a simulation reads amplitudes."""
    return {
        "label": record.label,
        "n": record.n_qubits,
        "depth": record.queries,
        "shots": 0,
        "success_probability": record.success_probability,
        "condition": record.condition,
        "seconds": record.wall_ms / 1e3,
        "twin": record.twin,
        "twin_seconds": record.twin_ms / 1e3,
    }
