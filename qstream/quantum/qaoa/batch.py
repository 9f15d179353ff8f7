"""Many small problems of equal size in one call: one state, one mixer, one descent for all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.attempt import Clock
from qstream.quantum.compare import margin
from qstream.quantum.ising import IsingProblem, spins_of
from qstream.quantum.qaoa.schedule import stretched
from qstream.quantum.qaoa.statevector import Statevector, unlimited
from qstream.quantum.record import Remaining
from schemas.solver import Simulation

DEFAULT_P: Final = 8


@dataclass(frozen=True, eq=False)
class Batch:
    """Of each of B problems: the best sample, descended by single flips, and the figures of its state; how all came about."""

    solutions: NDArray[np.int8]
    energies: NDArray[np.float64]
    sampled: NDArray[np.float64]
    """The least energy among the samples, before the descent."""
    expectations: NDArray[np.float64]
    p_opt: NDArray[np.float64]
    optima: NDArray[np.float64]
    """Exact, as all energies are at hand."""
    n: int
    p: int
    shots: int
    seed: int
    wall_ms: float
    schedule: str = "stretched"
    execution: Simulation = "simulated-statevector"
    label: Literal["simulated"] = "simulated"


def solve_batch(
    problems: Sequence[IsingProblem],
    p: int = DEFAULT_P,
    shots: int = 256,
    seed: int = 0,
    remaining_s: Remaining = unlimited,
    clock: Clock = time.perf_counter,
) -> Batch:
    """QAOA at the stretched angles on all problems at once; equal seeds give equal solutions.

    Raises
    ------
    ProblemError
        The problems differ in n, or are too large.
    Refused
        ``timeout``: no time remained before some layer.
    """
    start_s = clock()
    circuit = Statevector(problems)
    gammas, betas = stretched(p, 1.0)
    circuit.evolve(gammas / sigmas(problems)[:, np.newaxis], betas, remaining_s)
    probabilities, energies = circuit.probabilities(), circuit.energies
    states = sampled_states(probabilities, shots, np.random.default_rng(seed))
    rows = np.arange(len(problems))
    start = states[rows, np.take_along_axis(energies, states, 1).argmin(1)]
    found = descended_states(energies, start, flips(circuit.qubits, circuit.mirrored))
    lows, highs = energies.min(1), energies.max(1)
    close = lows + margin(circuit.n, 1.0) * np.maximum(np.abs(lows), np.abs(highs))
    return Batch(
        solutions=spins_of(found, circuit.n),
        energies=energies[rows, found] + circuit.offsets,
        sampled=energies[rows, start] + circuit.offsets,
        expectations=np.einsum("bn,bn->b", probabilities, energies) + circuit.offsets,
        p_opt=np.sum(probabilities, axis=1, where=energies <= close[:, np.newaxis]),
        optima=lows + circuit.offsets,
        n=circuit.n,
        p=p,
        shots=shots,
        seed=seed,
        wall_ms=1e3 * (clock() - start_s),
    )


def sigmas(problems: Sequence[IsingProblem]) -> NDArray[np.float64]:
    """`IsingProblem.sigma` of each, or 1 of a problem without terms."""
    couplings, fields = np.array([problem.J for problem in problems]), np.array([problem.h for problem in problems])
    square = (2 * np.einsum("bij,bij->b", couplings, couplings) + np.einsum("bi,bi->b", fields, fields)) / fields.shape[1]
    return np.sqrt(np.where(square > 0, square, 1.0))


def sampled_states(probabilities: NDArray[np.float64], shots: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`shots` samples of each row of probabilities [B, N], as indices [B, shots]."""
    count, size = probabilities.shape
    levels = np.cumsum(probabilities, axis=1)
    levels /= levels[:, -1:]
    row = np.arange(count)[:, np.newaxis]
    # Row b has its levels in (b, b + 1], so that one search serves all rows.
    found = np.searchsorted((levels + row).reshape(-1), (rng.random((count, shots)) + row).reshape(-1), side="right")
    return np.asarray(np.clip(found.reshape(count, shots) - row * size, 0, size - 1), np.int64)


def flips(qubits: int, mirrored: bool) -> NDArray[np.int64]:
    """The masks by which single flips change an index; where spin 0 is held, its flip is that of all others."""
    single = np.int64(1) << np.arange(qubits, dtype=np.int64)
    return np.append(single, (1 << qubits) - 1) if mirrored else single


def descended_states(energies: NDArray[np.float64], states: NDArray[np.int64], masks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Follow the best single flip of each state [B] in its row of energies [B, N] until none is lower."""
    rows = np.arange(len(states))
    while True:
        near = states[:, np.newaxis] ^ masks
        best = near[rows, np.take_along_axis(energies, near, 1).argmin(1)]
        better = energies[rows, best] < energies[rows, states]
        if not better.any():
            return states
        states = np.where(better, best, states)
