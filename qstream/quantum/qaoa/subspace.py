"""QAOA of one-hot variables inside the subspace of valid states, each variable a system of k levels.

A mixer that keeps the constraint never leaves these states, so only they are simulated: prod k_i amplitudes instead of
2^(sum k_i). Layers are ``exp(-i beta B) exp(-i gamma E)``, as in all of ``qstream.quantum``.
Sources: Hadfield et al. 2019 (alternating operator ansatz), Egger et al. 2021 (warm start).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.qaoa.measure import Distribution
from qstream.quantum.qaoa.statevector import unlimited
from qstream.quantum.record import Control, Refused, Remaining
from schemas.solver import Reason
from schemas.wording import must_be

OneHotMixer = Literal["complete", "ring"]
_BLOCK: Final = 32


def complete_mixer(beta: float, around: NDArray[np.float64]) -> NDArray[np.complex128]:
    """``exp(-i beta (k |a><a| - I))`` for a unit vector a [k]: of the uniform a, the XY mixer between all k levels."""
    k = len(around)
    mixer: NDArray[np.complex128] = np.exp(1j * beta) * (np.eye(k) + np.expm1(-1j * beta * k) * np.outer(around, around))
    return mixer


def ring_mixer(beta: float, k: int) -> NDArray[np.complex128]:
    """``exp(-i beta A)``, A the adjacency of the ring of k levels: the XY mixer between neighbours."""
    values, vectors = _ring(k)
    mixer: NDArray[np.complex128] = (vectors * np.exp(-1j * beta * values)) @ vectors.T
    return mixer


def onehot_state(
    energies: NDArray[np.float64],
    gammas: ArrayLike,
    betas: ArrayLike,
    *,
    mixer: OneHotMixer = "complete",
    around: Sequence[NDArray[np.float64]] | None = None,
    remaining_s: Remaining = unlimited,
) -> NDArray[np.complex128]:
    """The state after p layers of gammas [p] and betas [p] or [p, m], of the shape of `energies`, the diagonal [k_1, ..., k_m].

    It starts from the product of the unit vectors `around`, by default uniform; the complete mixer turns around them, the
    ring mixer knows only the uniform ones. `Refused` (timeout) where the time ends between two layers.
    """
    sizes = energies.shape
    local = [np.full(k, k**-0.5) for k in sizes] if around is None else list(around)
    if mixer == "ring" and around is not None:
        raise ProblemError(must_be("mixer", "complete for a start of its own", mixer))
    psi = np.ones(1, np.complex128)
    for vector in local:
        psi = np.multiply.outer(psi, vector).reshape(-1)
    gammas, betas = np.asarray(gammas, np.float64), np.asarray(betas, np.float64)
    each = np.broadcast_to(betas if betas.ndim == 2 else betas[:, np.newaxis], (len(gammas), len(sizes)))
    for gamma, row in zip(gammas, each, strict=True):
        in_time(remaining_s)
        psi = psi.reshape(-1) * np.exp(-1j * gamma * energies.reshape(-1))
        mixers = [
            complete_mixer(beta, vector) if mixer == "complete" else ring_mixer(beta, len(vector))
            for vector, beta in zip(local, row, strict=True)
        ]
        for matrix in blocks(mixers):
            # The first axis goes to the end, so after all blocks the order is the first one again.
            psi = psi.reshape(len(matrix), -1).T @ matrix.T
    return psi.reshape(sizes)


def blocks(mixers: Sequence[NDArray[np.complex128]]) -> list[NDArray[np.complex128]]:
    """Kronecker products of neighbours up to 32 rows, which fill a matrix product better than each alone."""
    result: list[NDArray[np.complex128]] = []
    for mixer in mixers:
        if result and len(result[-1]) * len(mixer) <= _BLOCK:
            left = result[-1]
            size = len(left) * len(mixer)
            result[-1] = (left[:, np.newaxis, :, np.newaxis] * mixer[:, np.newaxis, :]).reshape(size, size)
        else:
            result.append(mixer)
    return result


def local_scale(problem: OneHotProblem) -> float:
    """Root mean square over variables of how far one variable alone moves the energy, others uniformly random.

    For two levels it is ``IsingProblem.sigma``: the scale by which angles transfer between problems.
    """
    starts, unary, pair = problem.stacked()
    # By ratios to the largest, whose squares neither overflow nor vanish all.
    unit = max(float(np.abs(unary).max()), float(np.abs(pair).max())) or 1.0
    unary, pair = unary / unit, pair / unit
    sizes = np.diff(starts)
    weight = np.repeat(1 / sizes, sizes)

    def centred(costs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Less the mean over each variable's levels, along the first axis."""
        means = np.add.reduceat(costs.T * weight, starts[:-1], axis=-1)
        rest: NDArray[np.float64] = costs - np.repeat(means, sizes, axis=-1).T
        return rest

    alone, together = centred(unary + pair @ weight), centred(centred(pair).T)
    return unit * math.sqrt(float(weight @ (alone**2 + together**2 @ weight)) / len(sizes))


def control(start: Distribution, shots: int, rng: np.random.Generator) -> Control:
    """What as many shots give before the first layer; mean and probability of the optimum are exact."""
    states, _ = start.sample(shots, rng)
    return Control(float(start.energies[states].min()), start.expectation, start.p_opt)


def in_time(remaining_s: Remaining) -> None:
    """`Refused` (timeout) when no time is left."""
    if remaining_s() <= 0:
        raise Refused(Reason.TIMEOUT, "the deadline passed between two layers")


@lru_cache(maxsize=64)
def _ring(k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    adjacency = np.zeros((k, k))
    if k > 1:
        at = np.arange(k)
        adjacency[at, (at + 1) % k] = adjacency[(at + 1) % k, at] = 1
    values, vectors = np.linalg.eigh(adjacency)
    return values, vectors
